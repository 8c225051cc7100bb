"""The main job from end to end, through the public API alone, step by step with times.

Each step is a function of the ``Demo``; the first that does not hold ends it. What it made is
removed at the end, also after a failure, unless it is told to keep it.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xenith.core.errors import Conflict, Unavailable
from xenith.core.limits import STREAM_CHUNK_BYTES
from xenith.dev.client import ApiClient

#: Seconds for a server to be built: the first brings the image to its host.
BUILD_TIMEOUT_S = 300.0
#: Seconds for a guest to boot far enough to speak, under emulation on a busy machine.
BOOT_TIMEOUT_S = 300.0
#: Seconds for a change of power, a guest's own shutdown included.
POWER_TIMEOUT_S = 180.0
#: What the tiny image prints when it is up.
BOOTED = "xenith-tiny ready"
USER_DATA = b"#!/bin/sh\necho xenith-demo user data ran on $(hostname)\n"
_SERVERS = "/compute/v2.1/servers"


@dataclass
class StepTime:
    """One step as it went."""

    name: str
    seconds: float
    note: str = ""


@dataclass
class Demo:
    """One walk through a server's life."""

    api: ApiClient
    image: Path
    #: Simulated guests print no console of their own.
    is_real: bool
    server_count: int = 2
    on_step: Callable[[str], None] = lambda _name: None
    on_done: Callable[[StepTime], None] = lambda _step: None
    steps: list[StepTime] = field(default_factory=list)
    console: str = ""
    _made: dict[str, str] = field(default_factory=dict)
    _servers: list[dict[str, Any]] = field(default_factory=list)

    async def run(self, *, is_kept: bool = False) -> None:
        """Do all steps.

        Raises:
            XenithError: a step did not hold; the message says which and why.
        """
        try:
            await self._step("upload the image", self._upload)
            await self._step("make a flavor and a key", self._prepare)
            await self._step(f"create {self.server_count} servers", self._create)
            if self.is_real:
                await self._step("boot: the console names host and address", self._read_console)
            await self._step("stop", lambda: self._act({"os-stop": None}, "SHUTOFF"))
            await self._step("start", lambda: self._act({"os-start": None}, "ACTIVE", boots=True))
            await self._step(
                "reboot", lambda: self._act({"reboot": {"type": "SOFT"}}, "ACTIVE", boots=True)
            )
            if not is_kept:
                await self._step("delete", self._delete)
        finally:
            if not is_kept:
                await self._clean_up()

    async def _step(self, name: str, work: Callable[[], Awaitable[str]]) -> None:
        self.on_step(name)
        started = time.monotonic()
        note = await work()
        step = StepTime(name, time.monotonic() - started, note)
        self.steps.append(step)
        self.on_done(step)

    async def _upload(self) -> str:
        size = self.image.stat().st_size
        made = await self.api.post(
            "/image/v2/images",
            {
                "name": "xenith-tiny",
                "disk_format": "qcow2" if self.image.suffix == ".qcow2" else "raw",
                "container_format": "bare",
                # With less, its kernel resets for ever without a word.
                "min_ram": 96 if self.is_real else 0,
            },
        )
        self._made["image"] = f"/image/v2/images/{made['id']}"
        await self.api.upload(f"/image/v2/images/{made['id']}/file", _chunks(self.image), size)
        image = await self.api.get(f"/image/v2/images/{made['id']}")
        if image["status"] != "active" or image["size"] != size:
            raise Conflict(f"the image is {image['status']} with {image['size']} bytes, not {size}")
        return f"{size / 2**20:.0f} MiB, {image['id']}"

    async def _prepare(self) -> str:
        flavor = await self.api.post(
            "/compute/v2.1/flavors",
            {"flavor": {"name": f"demo-{time.time_ns()}", "ram": 128, "vcpus": 1, "disk": 1}},
        )
        self._made["flavor"] = f"/compute/v2.1/flavors/{flavor['flavor']['id']}"
        self._made["key_name"] = name = f"demo-{time.time_ns()}"
        await self.api.post(
            "/compute/v2.1/os-keypairs",
            {"keypair": {"name": name, "type": "ssh", "public_key": _public_key()}},
        )
        self._made["key"] = f"/compute/v2.1/os-keypairs/{name}"
        return "128 MiB, 1 vCPU, 1 GiB"

    async def _create(self) -> str:
        bodies = [
            {
                "server": {
                    "name": f"demo-{number}",
                    "imageRef": self._made["image"].rpartition("/")[2],
                    "flavorRef": self._made["flavor"].rpartition("/")[2],
                    "key_name": self._made["key_name"],
                    "networks": "auto",
                    "metadata": {"made-by": "xenith demo"},
                    "user_data": base64.b64encode(USER_DATA).decode(),
                    "config_drive": True,
                }
            }
            for number in range(1, self.server_count + 1)
        ]
        made = await asyncio.gather(*(self.api.post(_SERVERS, body) for body in bodies))
        self._servers = [answer["server"] for answer in made]
        self._servers = list(
            await asyncio.gather(
                *(
                    self.api.wait_server(server["id"], status="ACTIVE", timeout_s=BUILD_TIMEOUT_S)
                    for server in self._servers
                )
            )
        )
        return ", ".join(
            f"{server['name']} {_address(server) or 'without an address'}"
            for server in self._servers
        )

    async def _read_console(self) -> str:
        server = self._servers[0]
        address = _address(server)
        wanted = [server["name"], *([address] if address else []), BOOTED]
        self.console = await self._wait_console(server["id"], wanted, times=1)
        return f"{len(self.console.splitlines())} lines"

    async def _wait_console(self, server_id: str, wanted: list[str], *, times: int) -> str:
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        text = ""
        while time.monotonic() < deadline:
            answer = await self.api.post(
                f"{_SERVERS}/{server_id}/action", {"os-getConsoleOutput": {"length": None}}
            )
            text = str(answer["output"])
            if all(word in text for word in wanted) and text.count(BOOTED) >= times:
                return text
            await asyncio.sleep(0.5)
        missing = [word for word in wanted if word not in text]
        raise Unavailable(
            f"the guest did not say {missing or wanted} in {BOOT_TIMEOUT_S:.0f} s; its last words: "
            f"{text[-300:]!r}"
        )

    async def _act(self, action: dict[str, Any], status: str, *, boots: bool = False) -> str:
        server_id = self._servers[0]["id"]
        seen = self.console.count(BOOTED) if self.is_real else 0
        await self.api.post(f"{_SERVERS}/{server_id}/action", action)
        await self.api.wait_server(server_id, status=status, timeout_s=POWER_TIMEOUT_S)
        if boots and self.is_real:
            self.console = await self._wait_console(server_id, [BOOTED], times=seen + 1)
            return f"{status}, booted"
        return status

    async def _delete(self) -> str:
        servers, self._servers = self._servers, []
        await asyncio.gather(*(self.api.delete(f"{_SERVERS}/{server['id']}") for server in servers))
        for server in servers:
            await self.api.wait_server(server["id"], status=None, timeout_s=POWER_TIMEOUT_S)
        return f"{len(servers)} gone"

    async def _clean_up(self) -> None:
        if self._servers:
            await self._delete()
        for name in ("key", "flavor", "image"):
            path = self._made.pop(name, None)
            if path is not None:
                await self.api.delete(path)


def _address(server: dict[str, Any]) -> str:
    for addresses in server["addresses"].values():
        for address in addresses:
            return str(address["addr"])
    return ""


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(STREAM_CHUNK_BYTES):
            yield piece


def _public_key() -> str:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415 - once
        Ed25519PrivateKey,
    )
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        Encoding,
        PublicFormat,
    )

    key = Ed25519PrivateKey.generate().public_key()
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
