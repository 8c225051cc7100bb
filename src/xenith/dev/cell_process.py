"""A cell below the root as a process of its own: joined once, then started from its directory.

cell.key   who it is            place.json  which cell, of which region, and where the root is
seal.key   its hosts' passwords xenith.db   its rows, unless they are in PostgreSQL
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import httpx2
import msgspec

from xenith.cells import joining
from xenith.cells import topology as documents
from xenith.cells.keys import CellKey, PublicKey
from xenith.cells.topology import Topology
from xenith.core.errors import Forbidden, Invalid, NotFound, Unavailable
from xenith.core.ids import CellId
from xenith.core.log import logger
from xenith.core.settings import Settings
from xenith.core.world import World
from xenith.db import open_database
from xenith.db.migrate import prepare
from xenith.dev import keys
from xenith.dev.cells import Cell, Seat
from xenith.dev.hosts import OwnHosts
from xenith.dev.image_fetching import FetchedImages
from xenith.dev.link_buses import LinkBuses, own_broker
from xenith.dev.locks import take_lock

_log = logger("dev.cell")

#: Seconds for the root to take a new cell in.
JOIN_TIMEOUT_S = 30.0
PLACE_FILE = "place.json"


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """What a cell keeps of its joining."""

    cell_id: CellId
    name: str
    region: str
    api_url: str
    root: PublicKey
    #: The topology when it joined; newer ones are in its rows.
    signed: bytes


class CellProcess:
    """One cell below the root: ``start`` it, ``stop`` it, kill it whenever you like."""

    def __init__(self, settings: Settings, *, world: World | None = None) -> None:
        self.settings = settings
        self.world = world or World()
        self.directory = Path(settings.data).absolute()
        self._lock: IO[str] | None = None
        self.cell: Cell | None = None

    @property
    def is_healthy(self) -> bool:
        """Whether it was started."""
        return self.cell is not None

    async def start(self) -> None:
        """Start from the directory; neighbours and brokers may be away.

        Raises:
            NotFound: the directory holds no cell: join first.
            Conflict: another process runs this cell.
            Unavailable: the database cannot be had.
        """
        self._lock = take_lock(self.directory)
        place = read_place(self.directory)
        settings, world = self.settings, self.world
        key = CellKey.load(self.directory / "cell.key")
        broker = own_broker(settings)
        self.buses = LinkBuses(
            world, own=place.cell_id, key=key, topology=self._topology, broker=broker
        )
        self._first = documents.open_signed(place.signed, place.root)
        self.db = open_database(
            settings.database or f"sqlite:///{self.directory / 'xenith.db'}",
            ids=world.ids,
            clock=world.clock,
        )
        prepare(self.db, trees=("cell",))
        self.images = FetchedImages(world, api_url=place.api_url, cell_id=place.cell_id, key=key)
        self.hosts = OwnHosts(settings, world, self.directory)
        cell = Cell(
            self.db,
            world,
            Seat(place.cell_id, key, place.root, place.signed, self.buses),
            seal=keys.open_seal(self.directory),
            images=None if settings.role == "router" else self.images,
        )
        await cell.node.prepare()
        if cell.compute is not None:
            for host in await self.hosts.start():
                await cell.compute.hosts.add(
                    name=f"{place.name}-{host.name}",
                    url=host.url,
                    user=host.user,
                    password=host.password,
                    zone=settings.zone,
                )
        self.cell = cell
        await cell.start()
        self.buses.start()
        _log.info("cell runs", cell=place.cell_id, path=cell.node.topology.path(place.cell_id))

    async def stop(self) -> None:
        """Stop; guests run on, and everything goes on from the rows."""
        if self.cell is not None:
            await self.cell.stop()
            await self.buses.close()
            await self.hosts.stop()
            await self.images.close()
            await self.db.close()
            self.cell = None
        if self._lock is not None:
            self._lock.close()

    def _topology(self) -> Topology:
        return self._first if self.cell is None else self.cell.node.topology


def read_place(directory: Path) -> Place:
    """Read what a cell keeps of its joining.

    Raises:
        NotFound: there is no cell in the directory.
    """
    path = directory / PLACE_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Place)
    except FileNotFoundError:
        raise NotFound(
            f"{directory} holds no cell: join one with `xenith cell run --join TOKEN`"
        ) from None


async def join(settings: Settings, token: str) -> Place:
    """Join a region with a one-time token, and keep what comes of it.

    Raises:
        Invalid: the text is no token, or the root's answer is not sound.
        Forbidden: the token is unknown, used or too old.
        Unavailable: the root does not answer.
    """
    told = joining.parse(token)
    directory, key = _open_directory(settings)
    broker = own_broker(settings)
    body = {
        "secret": told.secret,
        "signing_key": key.public.signing.hex(),
        "sealing_key": key.public.sealing.hex(),
        "broker": "" if broker is None else broker.public_url,
        "broker_ca": "" if broker is None else broker.public_ca.hex(),
    }
    answer = await _post(f"{told.api_url.rstrip('/')}/xenith/v1/join", body)
    signed = bytes.fromhex(answer["topology"])
    topology = documents.open_signed(signed, told.root)
    entry = topology.get(answer["cell_id"])
    if entry.key != key.public:
        raise Invalid("the root has taken in another key than this cell's")
    place = Place(
        cell_id=entry.id,
        name=entry.name,
        region=topology.region,
        api_url=told.api_url,
        root=told.root,
        signed=signed,
    )
    keys.write_private(directory / PLACE_FILE, msgspec.json.encode(place).decode())
    return place


def _open_directory(settings: Settings) -> tuple[Path, CellKey]:
    directory = Path(settings.data).absolute()
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    return directory, CellKey.load_or_create(directory / "cell.key")


async def _post(url: str, body: dict[str, Any]) -> Any:
    try:
        async with httpx2.AsyncClient(timeout=JOIN_TIMEOUT_S, trust_env=False) as client:
            answer = await client.post(url, json=body)
    except httpx2.HTTPError as error:
        raise Unavailable(f"the root does not answer at {url}: {error!r}") from error
    if answer.status_code in (401, 403):
        raise Forbidden("the root does not take this token: it is unknown, used or too old")
    if answer.is_error:
        raise Unavailable(f"the root refused: {answer.status_code} {answer.text[:200]}")
    return answer.json()
