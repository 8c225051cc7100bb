"""What compute needs of other services, as protocols; ``dev/`` wires the real ones in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import msgspec

from xenith.db import Tx
from xenith.http import Principal


class ImageInfo(Protocol):
    """An image as far as a build cares."""

    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def name(self) -> str | None: ...  # noqa: D102
    @property
    def status(self) -> str: ...  # noqa: D102
    @property
    def disk_format(self) -> str | None: ...  # noqa: D102
    @property
    def container_format(self) -> str | None: ...  # noqa: D102
    @property
    def size_bytes(self) -> int | None: ...  # noqa: D102
    @property
    def virtual_size_bytes(self) -> int | None: ...  # noqa: D102
    @property
    def min_ram_mib(self) -> int: ...  # noqa: D102
    @property
    def min_disk_gib(self) -> int: ...  # noqa: D102
    @property
    def properties(self) -> Mapping[str, str]: ...  # noqa: D102


class ImageEntry(ImageInfo, Protocol):
    """An image as compute shows it."""

    @property
    def created_at(self) -> float: ...  # noqa: D102
    @property
    def updated_at(self) -> float: ...  # noqa: D102
    @property
    def properties(self) -> dict[str, str]: ...  # noqa: D102


@runtime_checkable
class ImageCatalog(Protocol):
    """The image service, as compute's own list of images wants it."""

    async def list_entries(
        self, principal: Principal, query: Any, *, limit: int
    ) -> Sequence[ImageEntry]:
        """List a page of images, and one more if there is one; ``query`` is an ``ImageQuery``."""

    async def get_entry(self, principal: Principal, image_id: str) -> ImageEntry:
        """Get an image that a caller sees."""

    async def set_properties(
        self,
        principal: Principal,
        image_id: str,
        change: Callable[[Mapping[str, str]], dict[str, str]],
    ) -> ImageEntry:
        """Give an image other properties."""

    async def delete(self, principal: Principal, image_id: str) -> None:
        """Delete an image and its bytes."""


class ImageSource(Protocol):
    """The image service, seen from a server's life."""

    def find_image(self, tx: Tx, image_id: str, principal: Principal) -> ImageInfo | None:
        """Find an image that a caller may use. Transaction function."""

    def open_image(self, image_id: str) -> AsyncIterator[bytes]:
        """Stream an image's bytes as they are stored."""

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
        """Make the record of a server's image and give its id. Transaction function."""

    def drop_snapshot(self, tx: Tx, image_id: str) -> None:
        """Remove such a record if it has no bytes yet. Transaction function."""

    def find_imaged(self, tx: Tx, image_id: str) -> str | None:
        """Find the server of which an image is to be made. Transaction function."""

    async def store_image(
        self, image_id: str, chunks: AsyncIterator[bytes], *, rotation: int | None = None
    ) -> None:
        """Store the bytes of a server's image; all or nothing. Safe to repeat."""

    async def drop_image(self, image_id: str) -> None:
        """Remove a server's image that came to nothing. Safe to repeat."""


class FixedAddress(Protocol):
    """One address of a port, with what a guest must know to use it."""

    @property
    def subnet_id(self) -> str: ...  # noqa: D102
    @property
    def address(self) -> str: ...  # noqa: D102
    @property
    def version(self) -> int: ...  # noqa: D102
    @property
    def prefix_length(self) -> int: ...  # noqa: D102
    @property
    def gateway(self) -> str | None: ...  # noqa: D102
    @property
    def dns(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def routes(self) -> Sequence[tuple[str, str]]: ...  # noqa: D102


class PortInfo(Protocol):
    """A port of a server."""

    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def network_id(self) -> str: ...  # noqa: D102
    @property
    def network_name(self) -> str: ...  # noqa: D102
    @property
    def mac(self) -> str: ...  # noqa: D102
    @property
    def mtu(self) -> int: ...  # noqa: D102
    @property
    def addresses(self) -> Sequence[FixedAddress]: ...  # noqa: D102
    @property
    def is_ours(self) -> bool: ...  # noqa: D102


class NicRequest(msgspec.Struct, frozen=True):
    """One interface that a server asks for: a port, or an address on a network."""

    network_id: str | None = None
    port_id: str | None = None
    address: str | None = None
    tag: str | None = None


class Networking(Protocol):
    """The network service, seen from a server's life. All are transaction functions."""

    def claim_ports(
        self,
        tx: Tx,
        principal: Principal,
        *,
        instance_id: str,
        zone: str,
        requests: Sequence[NicRequest] | None,
    ) -> Sequence[PortInfo]:
        """Give a server its ports; ``None`` asks for the project's only network."""

    def bind_ports(self, tx: Tx, *, instance_id: str, host: str) -> None:
        """Say that a server's ports are up on a host."""

    def release_ports(self, tx: Tx, *, instance_id: str) -> None:
        """Delete the ports made for a server and let go of those it was given."""


class Projects(Protocol):
    """The identity service, seen from quotas."""

    def has_project(self, tx: Tx, project_id: str) -> bool:
        """Tell whether a project is there."""
