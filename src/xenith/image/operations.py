"""What the image service does: records, bytes, members, tags, and the states between them.

queued ──upload──► saving ──► active ◄──► deactivated
▲                  │
└──── failure ─────┘   (the part is removed, nothing half-made is left)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from xenith.blob import BlobStore
from xenith.core.errors import (
    Conflict,
    Exhausted,
    Forbidden,
    Invalid,
    NotFound,
    TooLarge,
    Unavailable,
)
from xenith.core.ids import is_uuid
from xenith.core.limits import IMAGE_BYTES_MAX, METADATA_ITEMS_MAX
from xenith.core.log import logger
from xenith.core.world import World
from xenith.db import Database, Row, Tx
from xenith.http import Principal
from xenith.http.paging import Page
from xenith.image import records
from xenith.image.layers import LAYER, MAP, Layers, image_layers, leave_layers, use_layers
from xenith.image.records import ImageFilter, get_visible, images, members
from xenith.image.seen import seeing
from xenith.image.tarball import TarballReaders

_log = logger("image")

#: Source: glance `image_member_quota`, `image_tag_quota`.
MEMBERS_MAX = 128
TAGS_MAX = 128
#: States that only a living process holds; found at start they are those of a dead one.
_PASSING = ("saving", "importing")
_STAGED = ".staged"


class ImageInfo(msgspec.Struct, frozen=True):
    """An image as builds see it."""

    id: str
    name: str | None
    status: str
    owner: str | None
    disk_format: str | None
    container_format: str | None
    size_bytes: int | None
    min_ram_mib: int
    min_disk_gib: int
    hash_value: str | None
    virtual_size_bytes: int | None
    properties: dict[str, str]
    created_at: float = 0.0
    updated_at: float = 0.0


class _Base(msgspec.Struct, frozen=True):
    """The image beside which another is stored in layers; None for the first."""

    id: str | None


class NewImage(msgspec.Struct, frozen=True, kw_only=True):
    """What a create asks for, checked."""

    id: str | None = None
    name: str | None = None
    visibility: str = "shared"
    disk_format: str | None = None
    container_format: str | None = None
    min_disk: int = 0
    min_ram: int = 0
    protected: bool = False
    os_hidden: bool = False
    owner: str | None = None
    tags: tuple[str, ...] = ()
    properties: dict[str, str] = {}


class Images:
    """The image service of one cloud."""

    def __init__(self, db: Database, world: World, store: BlobStore) -> None:
        self.db = db
        self._world = world
        self._store = store
        self._tarballs = TarballReaders()
        self._layers = Layers(store)

    async def recover(self) -> None:
        """Put images whose upload died with its process back to queued, and remove lost bytes."""
        stored = await self._store.list()
        left = await self.db.run(self._requeue, frozenset(stored))
        known, layers = await self.db.read(_known)
        for name in stored:
            image_id, dot, suffix = name.partition(".")
            # What is not called by an id was put there by someone else, who may share the bucket.
            if not is_uuid(image_id) or dot + suffix not in ("", _STAGED, LAYER, MAP):
                continue
            if dot + suffix == LAYER:
                is_needed = image_id in layers
            else:
                is_needed = image_id in known and (suffix == _STAGED[1:] or image_id not in left)
            if not is_needed:
                await self._store.delete(name)

    async def close(self) -> None:
        """Let go of the store."""
        await self._store.close()

    # -- records

    async def create(self, principal: Principal, new: NewImage) -> Row:
        """Make the record of an image, queued for its bytes.

        Raises:
            Conflict: the id is taken.
        """
        if new.owner is not None and new.owner != principal.project_id and not principal.is_admin:
            raise Forbidden("You are not permitted to create images owned by another project.")
        return await self.db.run(self._insert, new, new.owner or principal.project_id)

    def _insert(self, tx: Tx, new: NewImage, owner: str | None) -> Row:
        _check_counts(new.properties, new.tags)
        now = self._world.clock.now()
        image_id = (new.id or self._world.ids.uuid()).lower()
        if tx.find(images, id=image_id) is not None:
            raise Conflict(f"Image ID {image_id} already exists!")
        row = {
            **msgspec.structs.asdict(new),
            "id": image_id,
            "owner": owner,
            "tags": sorted(set(new.tags)),
            "status": "queued",
            "size": None,
            "virtual_size": None,
            "checksum": None,
            "os_hash_value": None,
            "created_at": now,
            "updated_at": now,
        }
        tx.insert(images, row)
        records.write_labels(tx, image_id, row)
        return tx.get(images, id=image_id)

    async def show(self, principal: Principal, image_id: str) -> Row:
        """Get an image that the caller may see."""
        return await self.db.read(get_visible, image_id, principal)

    async def list_images(self, principal: Principal, wanted: ImageFilter, page: Page) -> list[Row]:
        """List a page of images, and one more if there is one."""
        return await self.db.read(records.list_images, wanted, page, principal)

    async def change(self, principal: Principal, image_id: str, changed: Any) -> Row:
        """Change an image's record; ``changed`` gives the new values of a row."""

        def write(tx: Tx) -> Row:
            row = _get_own(tx, image_id, principal)
            values = changed(row)
            _check_counts(values.get("properties", {}), values.get("tags", ()))
            tx.update(images, {"id": image_id}, **values, updated_at=self._world.clock.now())
            records.write_labels(tx, image_id, values)
            return tx.get(images, id=image_id)

        return await self.db.run(write)

    async def delete(self, principal: Principal, image_id: str) -> None:
        """Delete an image and its bytes.

        Raises:
            Forbidden: it is protected.
        """

        def remove(tx: Tx) -> list[str]:
            row = _get_own(tx, image_id, principal)
            if row.protected:
                raise Forbidden(f"Image {image_id} is protected and cannot be deleted.")
            return _remove(tx, image_id)

        for name in await self.db.run(remove):
            await self._store.delete(name)

    async def set_active(self, principal: Principal, image_id: str, *, is_active: bool) -> None:
        """Deactivate an image, or make it usable again."""

        def change(row: Row) -> dict[str, Any]:
            if row.status not in ("active", "deactivated"):
                raise Forbidden(
                    f"Not allowed to {'re' if is_active else 'de'}activate image in status "
                    f"'{row.status}'"
                )
            return {"status": "active" if is_active else "deactivated"}

        await self.change(principal, image_id, change)

    # -- bytes

    async def upload(
        self,
        principal: Principal,
        image_id: str,
        chunks: AsyncIterator[bytes],
        *,
        size_bytes: int | None,
    ) -> None:
        """Store an image's bytes while their digests are made; all of it or nothing.

        Raises:
            Conflict: the image has bytes already.
            Invalid: the bytes are not what they claim to be, or fewer than announced.
            TooLarge: there are more than the limit.
        """
        if size_bytes is not None and size_bytes > IMAGE_BYTES_MAX:
            raise TooLarge(f"An image may have at most {IMAGE_BYTES_MAX} bytes.")
        row = await self.db.run(self._begin_upload, principal, image_id)
        await self._fill(row, chunks, size_bytes=size_bytes)

    async def _write(
        self, image_id: str, chunks: AsyncIterator[bytes], *, base: _Base | None
    ) -> list[str]:
        """Store bytes, whole or beside those of another image; give the layers that they need."""
        if base is not None:
            return await self._layers.write(image_id, chunks, base_id=base.id)
        await self._store.write(image_id, chunks)
        return []

    async def _fill(
        self,
        row: Row,
        chunks: AsyncIterator[bytes],
        *,
        size_bytes: int | None,
        base: _Base | None = None,
    ) -> None:
        """Store the bytes of an image whose status is saving."""
        image_id: str = row.id
        try:
            formats = row.disk_format, row.container_format
            async with seeing(*formats, chunks, self._tarballs) as seen:
                layers = await self._write(image_id, seen.pieces(), base=base)
                if size_bytes is not None and seen.size_bytes != size_bytes:
                    raise Invalid(
                        f"The upload ended after {seen.size_bytes} of {size_bytes} bytes."
                    )
                described = await seen.described()
            finished = await self.db.run(
                self._finish_upload, image_id, {"status": "active", **described}, layers=layers
            )
        except BaseException:
            await self.db.run(self._finish_upload, image_id, {"status": "queued"})
            await self._delete_bytes(image_id)
            raise
        if not finished:
            # Deleted while its bytes were coming.
            await self._delete_bytes(image_id)
            raise NotFound(f"Image {image_id} was deleted during its upload.", kind="gone")

    async def stage(
        self, principal: Principal, image_id: str, chunks: AsyncIterator[bytes]
    ) -> None:
        """Keep bytes aside for a later import."""

        def begin(tx: Tx) -> None:
            row = _get_own(tx, image_id, principal)
            if row.status != "queued":
                raise Conflict(f"Image {image_id} in status '{row.status}' cannot be staged.")
            tx.update(images, {"id": image_id}, status="uploading")

        await self.db.run(begin)
        try:
            await self._store.write(image_id + _STAGED, chunks)
        except BaseException:
            await self.db.run(self._finish_upload, image_id, {"status": "queued"}, "uploading")
            raise

    async def import_staged(self, principal: Principal, image_id: str) -> None:
        """Make an image of the bytes that were staged."""

        def begin(tx: Tx) -> None:
            row = _get_own(tx, image_id, principal)
            if row.status != "uploading":
                raise Conflict(f"Image {image_id} in status '{row.status}' has nothing staged.")
            if row.disk_format is None or row.container_format is None:
                raise Invalid("disk_format and container_format must be set before an import")
            tx.update(images, {"id": image_id}, status="queued")

        await self.db.run(begin)
        name = image_id + _STAGED
        try:
            size = await self._store.size(name)
            await self.upload(principal, image_id, self._store.read(name), size_bytes=size)
        finally:
            # What cannot become an image would not at the next try either.
            await self._store.delete(name)

    async def open(
        self, principal: Principal, image_id: str, *, offset: int = 0, length: int | None = None
    ) -> tuple[Row, AsyncIterator[bytes] | None]:
        """Give an image's record and its bytes; None when it has none yet.

        Raises:
            Forbidden: it is deactivated and the caller is no admin.
        """
        row = await self.show(principal, image_id)
        if row.status == "deactivated" and not principal.is_admin:
            raise Forbidden(
                "The requested image has been deactivated. Image data download is forbidden."
            )
        if row.status not in ("active", "deactivated"):
            return row, None
        return row, self._read(image_id, offset=offset, length=length)

    async def _read(
        self, image_id: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        is_layered = await self.db.read(lambda tx: bool(tx.list(image_layers, image_id=image_id)))
        read = self._layers.read if is_layered else self._store.read
        async for piece in read(image_id, offset=offset, length=length):
            yield piece

    async def _delete_bytes(self, image_id: str) -> None:
        """Remove the bytes of an image that did not come to be: nobody else needs any of them."""
        for name in (image_id, image_id + MAP, image_id + LAYER):
            await self._store.delete(name)

    def find_image(self, tx: Tx, image_id: str, principal: Principal) -> ImageInfo | None:
        """Find an image that a caller may build from. Transaction function."""
        row = records.find_visible(tx, image_id, principal)
        return None if row is None else _info(row)

    # -- the list that compute shows

    async def list_entries(
        self, principal: Principal, query: Any, *, limit: int
    ) -> Sequence[ImageInfo]:
        """List a page of images by what compute's own list is asked for, and one more."""
        columns: dict[str, tuple[Any, ...]] = {}
        if query.name is not None:
            columns["name"] = (query.name,)
        if query.statuses is not None:
            columns["status"] = query.statuses
        for name, value in (("min_disk", query.min_disk_gib), ("min_ram", query.min_ram_mib)):
            if value is not None:
                columns[name] = (value,)
        named = {"instance_uuid": query.server_id, "image_type": query.image_type}
        since = query.changed_since_s
        wanted = ImageFilter(
            columns=columns,
            properties={name: value for name, value in named.items() if value is not None},
            times=() if since is None else (("updated_at", "gte", since),),
        )
        page = Page(limit, query.marker, (("created_at", True), ("id", True)))
        if not limit or query.statuses == ():
            return []
        return [_info(row) for row in await self.list_images(principal, wanted, page)]

    async def get_entry(self, principal: Principal, image_id: str) -> ImageInfo:
        """Get an image that the caller sees.

        Raises:
            NotFound: there is none such.
        """
        return _info(await self.show(principal, image_id))

    async def set_properties(
        self,
        principal: Principal,
        image_id: str,
        change: Callable[[Mapping[str, str]], dict[str, str]],
    ) -> ImageInfo:
        """Give an image the properties that ``change`` makes of those it has."""
        row = await self.change(
            principal, image_id, lambda row: {"properties": change(row.properties)}
        )
        return _info(row)

    def open_image(self, image_id: str) -> AsyncIterator[bytes]:
        """Give an image's bytes as they are stored, to a host that builds from it."""
        return self._read(image_id)

    # -- images of servers

    def add_snapshot(
        self,
        tx: Tx,
        *,
        name: str,
        owner: str,
        disk_format: str,
        min_disk_gib: int,
        min_ram_mib: int,
        properties: dict[str, str],
    ) -> str:
        """Make the record of a server's image, queued for its bytes. Transaction function.

        Raises:
            Exhausted: it has too many properties.
        """
        image = NewImage(
            name=name,
            visibility="private",
            disk_format=disk_format,
            container_format="bare",
            min_disk=min_disk_gib,
            min_ram=min_ram_mib,
            properties=properties,
        )
        return str(self._insert(tx, image, owner).id)

    def drop_snapshot(self, tx: Tx, image_id: str) -> None:
        """Remove the record of a server's image that has no bytes. Transaction function."""
        if tx.delete(images, id=image_id, status="queued") or tx.delete(
            images, id=image_id, status="saving"
        ):
            tx.delete(members, image_id=image_id)
            records.delete_labels(tx, image_id)

    def find_imaged(self, tx: Tx, image_id: str) -> str | None:
        """Find the server of which an image is to be, or was, made. Transaction function."""
        row = tx.find(images, id=image_id)
        return None if row is None else row.properties.get("instance_uuid")

    async def store_image(
        self, image_id: str, chunks: AsyncIterator[bytes], *, rotation: int | None = None
    ) -> None:
        """Store the bytes of a server's image; all of them or nothing. Safe to repeat.

        With ``rotation`` only so many backups of its kind are kept, the newest ones.

        Raises:
            NotFound: the image was deleted meanwhile.
            Unavailable: another attempt stores it, or its end is not known yet.
            Invalid: the bytes are not what they should be.
        """

        def begin(tx: Tx) -> tuple[Row, _Base]:
            row = tx.find(images, id=image_id)
            if row is None:
                raise NotFound(f"Image {image_id} was deleted before it had its bytes.")
            if row.status == "saving":
                raise Unavailable(f"image {image_id} is being stored")
            if row.status == "queued":
                tx.update(images, {"id": image_id}, status="saving")
            return row, _Base(_find_base(tx, row))

        row, base = await self.db.run(begin)
        if row.status == "queued":
            await self._fill(row, chunks, size_bytes=None, base=base)
        if rotation is not None:
            for name in await self.db.run(self._rotate, image_id, rotation):
                await self._store.delete(name)

    async def drop_image(self, image_id: str) -> None:
        """Remove a server's image that came to nothing. Safe to repeat."""
        await self.db.run(self.drop_snapshot, image_id)

    def _rotate(self, tx: Tx, image_id: str, rotation: int) -> list[str]:
        """Remove the records of old backups beside one; give the names of their bytes."""
        row = tx.find(images, id=image_id)
        if row is None:
            return []
        # The last is what a schedule's images have; without it an image is not the schedule's.
        named = ("instance_uuid", "image_type", "backup_type", "org.openstack__1__created-by")
        wanted = ImageFilter(
            columns={"owner": (row.owner,), "status": ("active",)},
            properties={name: row.properties[name] for name in named if name in row.properties},
        )
        old = records.list_newest(tx, wanted)[rotation:]
        return [name for one in old for name in _remove(tx, one)]

    # -- members

    async def add_member(self, principal: Principal, image_id: str, member_id: str) -> Row:
        """Share an image with a project."""
        now = self._world.clock.now()

        def add(tx: Tx) -> Row:
            _get_shared(tx, image_id, principal)
            if tx.find(members, image_id=image_id, member_id=member_id) is not None:
                raise Conflict(f"Member {member_id} is duplicated for image {image_id}")
            count = len(tx.list(members, image_id=image_id))
            if count >= MEMBERS_MAX:
                raise Exhausted(f"The limit of {MEMBERS_MAX} members is reached")
            tx.insert(
                members,
                {
                    "image_id": image_id,
                    "member_id": member_id,
                    "status": "pending",
                    "created_at": now,
                    "updated_at": now,
                },
            )
            return tx.get(members, image_id=image_id, member_id=member_id)

        return await self.db.run(add)

    async def list_members(self, principal: Principal, image_id: str) -> list[Row]:
        """List the members: all to the owner, itself to a member."""

        def read(tx: Tx) -> list[Row]:
            image = get_visible(tx, image_id, principal)
            rows = tx.list(members, image_id=image_id)
            if principal.is_admin or image.owner == principal.project_id:
                return rows
            own = [row for row in rows if row.member_id == principal.project_id]
            if not own:
                raise NotFound(f"No image found with ID {image_id}")
            return own

        return await self.db.read(read)

    async def get_member(self, principal: Principal, image_id: str, member_id: str) -> Row:
        """Get one member."""
        for row in await self.list_members(principal, image_id):
            if row.member_id == member_id:
                return row
        raise NotFound(f"{member_id[:64]} is no member of image {image_id}")

    async def set_member_status(
        self, principal: Principal, image_id: str, member_id: str, status: str
    ) -> Row:
        """Accept or reject a share; only the member itself may."""

        def change(tx: Tx) -> Row:
            image = get_visible(tx, image_id, principal)
            if tx.find(members, image_id=image_id, member_id=member_id) is None:
                raise NotFound(f"{member_id[:64]} is no member of image {image_id}")
            if not principal.is_admin and principal.project_id != member_id:
                if image.owner == principal.project_id:
                    raise Forbidden("An owner cannot accept a share for its member")
                raise NotFound(f"{member_id[:64]} is no member of image {image_id}")
            tx.update(
                members,
                {"image_id": image_id, "member_id": member_id},
                status=status,
                updated_at=self._world.clock.now(),
            )
            return tx.get(members, image_id=image_id, member_id=member_id)

        return await self.db.run(change)

    async def delete_member(self, principal: Principal, image_id: str, member_id: str) -> None:
        """End a share."""

        def remove(tx: Tx) -> None:
            _get_own(tx, image_id, principal)
            if not tx.delete(members, image_id=image_id, member_id=member_id):
                raise NotFound(f"{member_id[:64]} is no member of image {image_id}")

        await self.db.run(remove)

    # -- transaction functions

    def _begin_upload(self, tx: Tx, principal: Principal, image_id: str) -> Row:
        row = _get_own(tx, image_id, principal)
        if row.status != "queued":
            raise Conflict(f"Image status transition from {row.status} to saving is not allowed")
        if row.disk_format is None or row.container_format is None:
            raise Invalid(
                "Properties disk_format, container_format must be set prior to saving data."
            )
        tx.update(images, {"id": image_id}, status="saving")
        return row

    def _finish_upload(
        self,
        tx: Tx,
        image_id: str,
        values: Mapping[str, Any],
        was: str = "saving",
        *,
        layers: Sequence[str] = (),
    ) -> bool:
        now = self._world.clock.now()
        if not tx.update(images, {"id": image_id, "status": was}, **values, updated_at=now):
            return False
        use_layers(tx, image_id, layers)
        return True

    def _requeue(self, tx: Tx, stored: frozenset[str]) -> set[str]:
        left: set[str] = set()
        for row in tx.list(images, status="uploading"):
            if row.id + _STAGED not in stored:
                tx.update(images, {"id": row.id}, status="queued")
        for status in _PASSING:
            for row in tx.list(images, status=status):
                left.add(row.id)
                tx.update(images, {"id": row.id}, status="queued")
        return left


def _info(row: Row) -> ImageInfo:
    return ImageInfo(
        id=row.id,
        name=row.name,
        status=row.status,
        owner=row.owner,
        disk_format=row.disk_format,
        container_format=row.container_format,
        size_bytes=row.size,
        min_ram_mib=row.min_ram,
        min_disk_gib=row.min_disk,
        hash_value=row.os_hash_value,
        virtual_size_bytes=row.virtual_size,
        properties={key: str(value) for key, value in row.properties.items()},
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _known(tx: Tx) -> tuple[set[str], set[str]]:
    """Give the ids of all images, and of all layers that one needs."""
    ids = {row.id for row in tx.all(sa.select(images.c.id))}
    layers = {row.layer_id for row in tx.all(sa.select(image_layers.c.layer_id).distinct())}
    return ids, layers


def _remove(tx: Tx, image_id: str) -> list[str]:
    """Remove an image's record; give the names of the bytes that nobody needs now."""
    tx.delete(members, image_id=image_id)
    records.delete_labels(tx, image_id)
    tx.delete(images, id=image_id)
    return [image_id, image_id + _STAGED, *leave_layers(tx, image_id)]


def _find_base(tx: Tx, row: Row) -> str | None:
    """Find the last image of the same server, and of the same owner, for what they share."""
    server_id = row.properties.get("instance_uuid")
    if server_id is None or row.owner is None:
        return None
    formats = {name: (getattr(row, name),) for name in ("disk_format", "container_format")}
    wanted = ImageFilter(
        columns={"owner": (row.owner,), "status": ("active",), **formats},
        properties={"instance_uuid": server_id},
    )
    return next(iter(records.list_newest(tx, wanted)), None)


def _get_own(tx: Tx, image_id: str, principal: Principal) -> Row:
    """Get an image that the caller may change.

    Raises:
        NotFound: the caller does not see it.
        Forbidden: the caller sees it and it is another's.
    """
    row = get_visible(tx, image_id, principal)
    if not principal.is_admin and row.owner != principal.project_id:
        raise Forbidden(f"You are not permitted to modify image {image_id}.")
    return row


def _get_shared(tx: Tx, image_id: str, principal: Principal) -> Row:
    row = _get_own(tx, image_id, principal)
    if row.visibility != "shared":
        raise Forbidden("Only shared images have members.")
    return row


def _check_counts(properties: Mapping[str, str], tags: Any) -> None:
    if len(properties) > METADATA_ITEMS_MAX:
        raise Exhausted(
            f"The limit of {METADATA_ITEMS_MAX} image properties is exceeded: {len(properties)}"
        )
    if len(tags) > TAGS_MAX:
        raise Exhausted(f"The limit of {TAGS_MAX} image tags is exceeded: {len(tags)}")


def checked_id(image_id: str) -> str:
    """Check the form of an image's id.

    Raises:
        Invalid: it is no UUID.
    """
    if not is_uuid(image_id) or len(image_id) != 36:
        raise Invalid(f"Invalid image id format: {image_id[:64]}")
    return image_id
