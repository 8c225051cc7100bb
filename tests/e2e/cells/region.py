"""A region of real processes: a root, routers and leaves, each with a database and a broker.

    with Region.standing(shape) as region:      # joined by tokens and opened, as operators do
        region["c1"].kill()
        await region["c1"].start()

What is waited for is looked at again and again, up to a deadline: other programs' progress is the
one thing that no clock of ours can bring on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from postgres import Cluster, Postgres, free_port, make_home

from xenith.core.errors import XenithError
from xenith.core.world import World
from xenith.dev.client import ApiClient
from xenith.dev.rabbitmq import Rabbit

#: Seconds for anything to come about on a machine with two busy cores.
TIMEOUT_S = 180.0
LOOK_PERIOD_S = 0.1
STOP_TIMEOUT_S = 30.0
HOST = "127.0.0.1"
ROOT = "api"


@dataclass(frozen=True)
class Shape:
    """Who is in the region: cells with the names of their parents, and what each leaf has."""

    routers: dict[str, tuple[str, ...]]
    leaves: dict[str, tuple[str, ...]]
    hosts_per_leaf: int = 2
    has_postgres: bool = True
    #: Seconds of each simulated operation: enough for a kill to fall into every step of a build.
    latency_s: float = 0.02

    @property
    def parents(self) -> dict[str, tuple[str, ...]]:
        """The parents of all cells but the root."""
        return {**self.routers, **self.leaves}


async def until(holds: Callable[[], Awaitable[Any]], what: Callable[[], object]) -> Any:
    """Wait until something holds, and give it."""
    deadline = asyncio.get_running_loop().time() + TIMEOUT_S
    while True:
        found: Any = None
        with contextlib.suppress(XenithError):
            found = await holds()
        if found:
            return found
        assert asyncio.get_running_loop().time() < deadline, what()
        await asyncio.sleep(LOOK_PERIOD_S)


class Member:
    """One cell: its process, and the database and the broker that it alone uses."""

    def __init__(
        self,
        name: str,
        home: Path,
        *,
        arguments: list[str],
        postgres: Postgres | None,
        rabbit: Rabbit | None,
        latency_s: float,
    ) -> None:
        self.name = name
        self.data = home / name / "data"
        self.postgres = postgres
        self.rabbit = rabbit
        self._log = home / name / "log"
        self._arguments = arguments
        self._latency_s = latency_s
        self._process: subprocess.Popen[bytes] | None = None
        #: Where the log of this run begins.
        self._from = 0

    @property
    def database(self) -> str:
        """The address of its rows."""
        if self.postgres is None:
            return f"sqlite:///{self.data / 'xenith.db'}"
        return self.postgres.url

    @property
    def process_id(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether its process has not ended."""
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """What this run has logged."""
        return self._log.read_bytes()[self._from :].decode(errors="replace")

    def begin(self, *more: str) -> None:
        """Start its process without waiting until it is ready."""
        assert not self.is_running, "a cell is started once"
        self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        environ = {
            **os.environ,
            "XENITH_SIM_LATENCY_S": str(self._latency_s),
            "PYTHONUNBUFFERED": "1",
        }
        arguments = [*self._arguments, "--data", str(self.data), *more]
        if self.postgres is not None:
            environ["XENITH_DATABASE"] = self.postgres.url
        if self.rabbit is not None:
            address = self.rabbit.address()
            environ["XENITH_BROKER_PASSWORD"] = address.password
            arguments += [
                *("--broker", f"amqps://{address.user}@{address.host}:{address.port}"),
                *("--broker-ca", str(self.rabbit.ca_path)),
                *("--broker-admin", self.rabbit.admin_url),
            ]
        self._from = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "xenith.cli", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environ,
            )

    async def start(self, *more: str) -> None:
        """Start its process and wait until it says that it is ready."""
        self.begin(*more)
        await self.ready()

    async def ready(self) -> str:
        """Wait until it says that it is ready, and give what it says besides."""

        async def says() -> str:
            assert self.is_running, f"{self.name} has ended: {self.log()[-2000:]}"
            lines = [line for line in self.log().splitlines() if line.startswith("ready ")]
            return lines[0].removeprefix("ready ") if lines else ""

        return str(await until(says, lambda: f"{self.name} is not ready: {self.log()[-2000:]}"))

    def kill(self) -> None:
        """End its process as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def stop(self) -> int:
        """End its process in order, and give its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(self._process.wait, STOP_TIMEOUT_S)
        self._process = None
        return code

    async def ended(self) -> None:
        """Wait until its process has ended in order, told so by somebody else."""
        assert self._process is not None
        assert await asyncio.to_thread(self._process.wait, STOP_TIMEOUT_S) == 0
        self._process = None

    async def end(self) -> None:
        """End all that is its own; nobody needs it any more."""
        self.kill()
        if self.postgres is not None:
            await self.postgres.kill()
        if self.rabbit is not None:
            self.rabbit.kill()


class Region:
    """The cells by their names."""

    def __init__(self, shape: Shape, home: Path) -> None:
        self.shape = shape
        self.home = home
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.members: dict[str, Member] = {}
        self._cluster = Cluster(home) if shape.has_postgres else None
        world = World()
        for name in (ROOT, *shape.parents):
            (home / name).mkdir()
            self.members[name] = Member(
                name,
                home,
                arguments=self._arguments(name),
                postgres=self._make_postgres(home / name / "postgres"),
                rabbit=None if name == ROOT else Rabbit(home / name / "rabbit", world),
                latency_s=shape.latency_s,
            )

    def __getitem__(self, name: str) -> Member:
        return self.members[name]

    @property
    def root(self) -> Member:
        """The cell with the API."""
        return self.members[ROOT]

    @property
    def leaves(self) -> list[Member]:
        """The cells with hosts."""
        return [self.members[name] for name in self.shape.leaves]

    @classmethod
    @contextlib.contextmanager
    def standing(cls, shape: Shape) -> Iterator[Self]:
        """Start a region, join its cells and open them; end all of it, whatever happens.

        It belongs to no loop, so that the tests of a module can share it.
        """
        home = make_home()
        region = cls(shape, home)
        try:
            try:
                asyncio.run(region.start())
            except BaseException:
                region.keep_logs()
                raise
            yield region
        finally:
            asyncio.run(region.end())
            shutil.rmtree(home, ignore_errors=True)

    async def end(self) -> None:
        """End all processes."""
        await asyncio.gather(*(each.end() for each in self.members.values()))

    async def start(self) -> None:
        """Start everything the first time."""
        brokers = [each.rabbit for each in self.members.values() if each.rabbit is not None]
        databases = [each.postgres for each in self.members.values() if each.postgres is not None]
        starting = asyncio.gather(*(broker.start() for broker in brokers))
        try:
            await asyncio.gather(*(database.start() for database in databases))
            await self.root.start()
        finally:
            await starting
        await self.join_all()
        await self.settled_links()

    async def join_all(self) -> None:
        """Join each cell with a token of its own, those above first, and open them."""
        for level in (self.shape.routers, self.shape.leaves):
            tokens = {}
            async with self.admin() as api:
                for name, parents in level.items():
                    body = {"name": name, "parents": parents}
                    tokens[name] = (await api.post("/xenith/v1/cells", body))["token"]
            await asyncio.gather(
                *(self.members[name].start("--join", token) for name, token in tokens.items())
            )
        async with self.admin() as api:
            for name in self.shape.parents:
                await api.patch(f"/xenith/v1/cells/{name}", {"state": "open"})

    async def settled_links(self) -> None:
        """Wait until every link is open and alive at both ends, and all hosts are up."""
        found: list[str] = []
        hosts = len(self.shape.leaves) * self.shape.hosts_per_leaf

        async def are_open() -> bool:
            nonlocal found
            found = []
            async with self.admin() as api:
                cells = (await api.get("/xenith/v1/cells"))["cells"]
            for cell in cells:
                if cell["is_dark"]:
                    found.append(f"{cell['name']} is dark: {cell['silence']}")
                for link in cell["links"]:
                    if not (link["is_open"] and link["is_alive"]):
                        found.append(f"{cell['name']} and {link['parent']} do not talk")
            up = next(cell["hosts_up"] for cell in cells if cell["name"] == ROOT)
            if up != hosts:
                found.append(f"{up} hosts of {hosts} are up")
            return not found

        await until(are_open, lambda: found)

    def admin(self) -> ApiClient:
        """A client of the operator's; used as a context."""
        return ApiClient.of_directory(self.root.data)

    def tenant(self) -> ApiClient:
        """A client of the demo user's; used as a context."""
        return ApiClient.of_directory(self.root.data, cloud="xenith-demo")

    def keep_logs(self) -> None:
        """Keep all logs of a region that failed, and say where."""
        kept = self.home.with_name(self.home.name + "-logs")
        kept.mkdir(parents=True, exist_ok=True)
        for name in self.members:
            for log in ("log", "postgres/log", "rabbit/log/rabbit.log", "rabbit/output.log"):
                if (self.home / name / log).exists():
                    shutil.copy(self.home / name / log, kept / f"{name}-{log.replace('/', '-')}")
        print(f"the logs of all cells are in {kept}")  # noqa: T201 - shown when the test fails

    def _make_postgres(self, home: Path) -> Postgres | None:
        return None if self._cluster is None else Postgres(home, self._cluster, free_port())

    def _arguments(self, name: str) -> list[str]:
        if name == ROOT:
            return ["up", "--role", "root", "--hosts", "0", "--listen", f"{HOST}:{self.port}"]
        if name in self.shape.routers:
            return ["cell", "run", "--role", "router"]
        hosts = str(self.shape.hosts_per_leaf)
        return ["cell", "run", "--role", "leaf", "--hosts", hosts, "--backend", "sim"]
