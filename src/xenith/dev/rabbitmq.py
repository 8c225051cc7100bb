"""A RabbitMQ of our own: a private directory, loopback only, ended by its process id.

Several run beside each other on one machine: each has its ports, its own port mapper and its own
cookie. Stopped or killed, it starts again from the same directory with the same data and ports.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

from xenith.bus.address import AmqpAddress
from xenith.bus.broker import BrokerAdmin, Tls, make_tls, open_tls, write_private
from xenith.bus.port import MESSAGE_BYTES_MAX
from xenith.core.errors import NotFound, Unavailable
from xenith.core.log import logger
from xenith.core.units import MIB
from xenith.core.world import World

_log = logger("dev.rabbitmq")

#: Debian's own wrapper changes to an account of its own, and logs where only that may write.
SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
#: Eight seconds on two idle cores; many brokers start at once in a lab.
START_TIMEOUT_S = 120.0
#: Six seconds, five of them for the management plugin; a long write-ahead log takes more.
STOP_TIMEOUT_S = 30.0
LOOK_PERIOD_S = 0.05
#: The write-ahead log of all queues, held in memory too: its own default is half a gigabyte.
WAL_BYTES_MAX = 32 * MIB
LOG_BYTES_MAX = 10 * MIB
OWNER = "xenith"
HOST = "127.0.0.1"
_PORTS = ("amqp", "management", "mapper", "distribution")


class Rabbit:
    """One broker in one directory."""

    def __init__(self, directory: Path, world: World) -> None:
        self._directory = directory
        self._world = world
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def is_running(self) -> bool:
        """Whether its server has not ended."""
        return bool(self._processes) and self._processes[-1].poll() is None

    @property
    def process_id(self) -> int:
        """The server's process."""
        return self._processes[-1].pid

    async def start(self) -> None:
        """Start it and wait until clients are let in.

        Raises:
            NotFound: RabbitMQ is not installed.
            Unavailable: it ended, or did not let clients in within ``START_TIMEOUT_S``.
        """
        require_installed()
        assert not self.is_running, "a broker is started once"
        ports, tls, password = self._prepare()
        environment = self._environment(ports)
        mapper = [_mapper(), "-port", str(ports["mapper"]), "-address", HOST]
        try:
            self._launch(mapper, environment)
            # Without one that answers, Erlang would start a mapper that outlives us.
            await self._await_port(ports["mapper"])
            self._write_configuration(ports, tls, password)
            self._launch([str(SERVER)], environment)
            await self._await_port(ports["amqp"])
        except BaseException:
            self.kill()
            raise

    async def stop(self) -> None:
        """End it in good order; its data stay."""
        if self.is_running:
            self._processes[-1].send_signal(signal.SIGTERM)
            deadline_s = self._world.clock.monotonic() + STOP_TIMEOUT_S
            while self.is_running and self._world.clock.monotonic() < deadline_s:
                await self._world.clock.sleep(LOOK_PERIOD_S)
        self.kill()

    def kill(self) -> None:
        """End it at once, as a power failure would; its data stay."""
        for process in reversed(self._processes):
            process.kill()
            process.wait()
        self._processes.clear()

    def address(
        self, user: str = OWNER, password: str | None = None, *, virtual_host: str = "/"
    ) -> AmqpAddress:
        """Say how an account reaches it; its owner where none is named."""
        ports, tls, owner_password = self._prepare()
        return AmqpAddress(
            host=HOST,
            port=ports["amqp"],
            user=user,
            password=owner_password if password is None else password,
            virtual_host=virtual_host,
            tls_ca=tls.ca,
        )

    @property
    def admin_url(self) -> str:
        """Where it is managed."""
        return f"https://{HOST}:{self._prepare()[0]['management']}"

    @property
    def ca_path(self) -> Path:
        """The file of the certificate that its own comes from."""
        return self._prepare()[1].ca_path

    def admin(self) -> BrokerAdmin:
        """Give its owner's hold on accounts; the caller closes it."""
        _, tls, password = self._prepare()
        return BrokerAdmin(self.admin_url, user=OWNER, password=password, tls_ca=tls.ca)

    def log_tail(self, byte_count: int = 2000) -> str:
        """Give the end of what it logged, for who asks why it did not start."""
        texts = [
            path.read_text(errors="replace")[-byte_count:]
            for path in (self._directory / "output.log", self._directory / "log" / "rabbit.log")
            if path.exists()
        ]
        return "\n".join(texts)

    def _prepare(self) -> tuple[dict[str, int], Tls, str]:
        """Make its directory the first time; the same ports, keys and password ever after."""
        if not (self._directory / "ports.json").exists():
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            make_tls(self._directory, self._world.clock)
            write_private(self._directory / "owner.password", self._world.ids.secret(24).encode())
            # Erlang would draw one from the time of day.
            write_private(self._directory / ".erlang.cookie", self._world.ids.secret(24).encode())
            (self._directory / ".erlang.cookie").chmod(0o400)
            write_private(self._directory / "ports.json", json.dumps(_free_ports()).encode())
        return (
            json.loads((self._directory / "ports.json").read_text()),
            open_tls(self._directory),
            (self._directory / "owner.password").read_text(),
        )

    def _write_configuration(self, ports: dict[str, int], tls: Tls, password: str) -> None:
        settings = {
            "listeners.tcp": "none",
            "listeners.ssl.1": f"{HOST}:{ports['amqp']}",
            "ssl_options.cacertfile": tls.ca_path,
            "ssl_options.certfile": tls.certificate_path,
            "ssl_options.keyfile": tls.key_path,
            "ssl_options.verify": "verify_none",
            "ssl_options.versions.1": "tlsv1.3",
            "ssl_options.versions.2": "tlsv1.2",
            "management.ssl.ip": HOST,
            "management.ssl.port": ports["management"],
            "management.ssl.cacertfile": tls.ca_path,
            "management.ssl.certfile": tls.certificate_path,
            "management.ssl.keyfile": tls.key_path,
            # Accounts are all that is managed; the counters cost memory for each queue.
            "management_agent.disable_metrics_collector": "true",
            "default_user": OWNER,
            "default_pass": password,
            "raft.wal_max_size_bytes": WAL_BYTES_MAX,
            # A neighbour's account must not be able to fill our memory with one message.
            "max_message_size": 2 * MESSAGE_BYTES_MAX,
            "log.file": "rabbit.log",
            "log.file.rotation.size": LOG_BYTES_MAX,
            "log.file.rotation.count": 2,
        }
        text = "".join(f"{name} = {value}\n" for name, value in settings.items())
        write_private(self._directory / "rabbitmq.conf", text.encode())
        write_private(self._directory / "plugins", b"[rabbitmq_management].\n")

    def _environment(self, ports: dict[str, int]) -> dict[str, str]:
        distribution = "-noinput -kernel inet_dist_use_interface {127,0,0,1}"
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": str(self._directory),
            "ERL_EPMD_PORT": str(ports["mapper"]),
            "ERL_EPMD_ADDRESS": HOST,
            "RABBITMQ_NODENAME": "xenith@localhost",
            "RABBITMQ_DIST_PORT": str(ports["distribution"]),
            # The machine's own settings are for its own broker.
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_CONFIG_FILE": str(self._directory / "rabbitmq"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._directory / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(self._directory / "data"),
            "RABBITMQ_LOG_BASE": str(self._directory / "log"),
            # The script then becomes the server, so that our process id is the server's own.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": distribution,
        }

    def _launch(self, command: list[str], environment: dict[str, str]) -> None:
        with (self._directory / "output.log").open("ab") as output:
            process = subprocess.Popen(  # noqa: S603 - a list, of our own words
                command,
                cwd=self._directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._processes.append(process)

    async def _await_port(self, port: int) -> None:
        deadline_s = self._world.clock.monotonic() + START_TIMEOUT_S
        while self._world.clock.monotonic() < deadline_s and self.is_running:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(HOST, port)
                writer.close()
                return
            await self._world.clock.sleep(LOOK_PERIOD_S)
        _log.error("RabbitMQ did not start", directory=str(self._directory))
        raise Unavailable(f"RabbitMQ did not start: {self.log_tail()}")


def require_installed() -> None:
    """Do nothing where RabbitMQ is installed.

    Raises:
        NotFound: it is not, with the way out.
    """
    if not SERVER.exists():
        raise NotFound(
            "RabbitMQ is not installed (Debian: rabbitmq-server); `make setup` installs it as root"
        )


def _mapper() -> str:
    """Find Erlang's port mapper, which a package may keep out of PATH."""
    found = shutil.which("epmd")
    if found is None:
        inside = sorted(Path("/usr/lib/erlang").glob("erts-*/bin/epmd"))
        if not inside:
            raise NotFound("Erlang's epmd is not installed (Debian: erlang-base)")
        found = str(inside[-1])
    return found


def _free_ports() -> dict[str, int]:
    """Find a port for each purpose, all held until all are found."""
    with contextlib.ExitStack() as held:
        ports = {}
        for name in _PORTS:
            probe = held.enter_context(socket.socket())
            probe.bind((HOST, 0))
            ports[name] = probe.getsockname()[1]
        return ports
