"""A cell below the root as a process of its own: joined once, then started from its directory.

cell.key   who it is            place.json  which cell, of which region, and where the root is
seal.key   its hosts' passwords xenith.db   its rows, unless they are in PostgreSQL
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import httpx2
import msgspec

from xenith.cells import joining
from xenith.cells import topology as documents
from xenith.cells.keys import CellKey, PublicKey
from xenith.cells.node import Node
from xenith.cells.topology import Topology
from xenith.core.errors import Conflict, Forbidden, Invalid, NotFound, Unavailable
from xenith.core.ids import CellId
from xenith.core.log import logger
from xenith.core.settings import Settings
from xenith.core.world import World
from xenith.dev import keys
from xenith.dev.cells import Cell, Seat
from xenith.dev.hosts import OwnHosts
from xenith.dev.image_fetching import FetchedImages
from xenith.dev.link_buses import LinkBuses, OwnBroker, own_broker
from xenith.dev.locks import take_lock
from xenith.dev.metrics import LoopWatch
from xenith.dev.rows import open_rows

_log = logger("dev.cell")

#: Seconds for the root to take a new cell in.
JOIN_TIMEOUT_S = 30.0
PLACE_FILE = "place.json"


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """What a cell keeps of its joining."""

    cell_id: CellId
    name: str
    role: str
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
        self.watch = LoopWatch(self.world)
        self._ends = contextlib.AsyncExitStack()
        #: Once it has started.
        self.cell: Cell | None = None
        #: Known before that: what it reads of its rows is what its links go by.
        self._node: Node | None = None

    @property
    def is_healthy(self) -> bool:
        """Whether it was started."""
        return self.cell is not None

    @property
    def name(self) -> str:
        """The cell's name as of now."""
        return self._topology().get(self._place.cell_id).name

    @property
    def path(self) -> str:
        """Where it is in the tree as of now."""
        return self._topology().path(self._place.cell_id)

    def list_cells(self) -> list[Cell]:
        """List the cells that run in this process."""
        return [] if self.cell is None else [self.cell]

    async def start(self) -> None:
        """Start from the directory; neighbours, broker and database may be away.

        Raises:
            NotFound: the directory holds no cell: join first.
            Conflict: another process runs this cell.
            Invalid: it is of another role than it joined as, or a setting is wrong.
            Unavailable: the database's file or a port cannot be had.
        """
        settings, world, ends = self.settings, self.world, self._ends
        self._place = place = read_place(self.directory)
        ends.enter_context(take_lock(self.directory))
        role = _role(settings, joined_as=place.role)
        broker = own_broker(settings)
        self._first = documents.open_signed(place.signed, place.root)
        key = CellKey.load(self.directory / "cell.key")
        self.db = await open_rows(settings, world, self.directory, trees=("cell",))
        ends.push_async_callback(self.db.close)
        images = FetchedImages(world, api_url=place.api_url, cell_id=place.cell_id, key=key)
        ends.push_async_callback(images.close)
        hosts = OwnHosts(settings, world, self.directory)
        ends.push_async_callback(hosts.stop)
        buses = LinkBuses(world, own=place.cell_id, key=key, topology=self._topology, broker=broker)
        ends.push_async_callback(buses.close)
        cell = Cell(
            self.db,
            world,
            Seat(place.cell_id, key, place.root, place.signed, buses),
            seal=keys.open_seal(self.directory),
            images=None if role == "router" else images,
        )
        self._node = cell.node
        await cell.node.prepare()
        if cell.compute is not None:
            for host in await hosts.start():
                await cell.compute.hosts.add(
                    name=f"{place.name}-{host.name}",
                    url=host.url,
                    user=host.user,
                    password=host.password,
                    zone=settings.zone,
                )
        ends.push_async_callback(cell.stop)
        await cell.start()
        buses.start()
        ends.push_async_callback(self.watch.stop)
        self.watch.start()
        self.cell = cell
        self._say_where(broker)

    async def stop(self) -> None:
        """Stop what was started, highest first; guests run on, all goes on from the rows."""
        self.cell = None
        await self._ends.aclose()

    def _say_where(self, broker: OwnBroker | None) -> None:
        _log.info("cell runs", cell=self._place.cell_id, path=self.path)
        entry = self._topology().get(self._place.cell_id)
        if broker is not None and broker.public_url != entry.broker:
            _log.warning(
                "parents look for this cell's broker elsewhere",
                own=broker.public_url,
                known=entry.broker,
            )

    def _topology(self) -> Topology:
        return self._first if self._node is None else self._node.topology


def _role(settings: Settings, *, joined_as: str) -> str:
    """Tell what the cell is: what it joined as, since children and hosts do not go together."""
    told = "" if settings.role == "alone" else settings.role
    if told not in ("", "leaf", "router"):
        raise Invalid(f"--role {told} is none of leaf, router")
    if told and joined_as and told != joined_as:
        raise Invalid(f"this cell joined as a {joined_as}, and cannot become a {told}")
    return joined_as or told or "leaf"


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
        Invalid: the text is no token, a setting is wrong, or the root's answer is not sound.
        Conflict: the root does not want the cell as it is; the message says why.
        Forbidden: the token is unknown, used or too old.
        Unavailable: the root does not answer.
    """
    told = joining.parse(token)
    role = _role(settings, joined_as="")
    broker = own_broker(settings)
    if broker is None:
        raise Invalid("a cell below another needs a RabbitMQ of its own: give --broker")
    directory, key = _open_directory(settings)
    body = {
        "secret": told.secret,
        "signing_key": key.public.signing.hex(),
        "sealing_key": key.public.sealing.hex(),
        "broker": broker.public_url,
        "broker_ca": broker.public_ca.hex(),
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
        role=role,
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
    if answer.status_code in (400, 409):
        raise Conflict(f"the root refuses this cell: {answer.text[:200]}")
    if answer.is_error:
        raise Unavailable(f"the root refused: {answer.status_code} {answer.text[:200]}")
    return answer.json()
