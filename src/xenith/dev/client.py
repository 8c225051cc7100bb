"""A small client of the public API, for our own commands: sign in once, then plain calls.

Speaks only what any tenant could; errors become ours, with the service's own message.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import httpx2
import msgspec

from xenith.core import errors
from xenith.dev.keys import CLOUDS_FILE, read_passwords

#: Seconds for one answer.
CALL_TIMEOUT_S = 120.0
_CLASSES: dict[int, type[errors.XenithError]] = {
    400: errors.Invalid,
    401: errors.Unauthenticated,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    413: errors.TooLarge,
}


class ApiClient:
    """One signed-in user of one cloud."""

    def __init__(self, site_url: str, *, user: str, password: str, project: str) -> None:
        self.site_url = site_url.rstrip("/")
        self._user = user
        self._password = password
        self._project = project
        self._token = ""
        self._http = httpx2.AsyncClient(
            timeout=CALL_TIMEOUT_S,
            limits=httpx2.Limits(max_connections=200, max_keepalive_connections=200),
            trust_env=False,
        )

    @classmethod
    def of_directory(cls, data: str | Path, *, cloud: str = "xenith") -> Self:
        """Make the client of a local cloud from the files that it wrote.

        Raises:
            Unavailable: there is no cloud, or it is not ready.
        """
        directory = Path(data).absolute()
        ready, clouds = directory / "ready", directory / CLOUDS_FILE
        if not ready.exists() or not clouds.exists():
            raise errors.Unavailable(
                f"no cloud is ready in {directory}: start one with `xenith up --data {directory}`"
            )
        user = "admin" if cloud == "xenith" else "demo"
        return cls(
            ready.read_text().strip(),
            user=user,
            password=read_passwords(clouds)[cloud],
            project=user,
        )

    async def __aenter__(self) -> Self:
        """Sign in."""
        await self.sign_in()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let the connections go."""
        await self._http.aclose()

    async def sign_in(self) -> str:
        """Get a token and give it."""
        answer = await self._send(
            "POST",
            "/identity/v3/auth/tokens",
            json={
                "auth": {
                    "identity": {
                        "methods": ["password"],
                        "password": {
                            "user": {
                                "name": self._user,
                                "domain": {"id": "default"},
                                "password": self._password,
                            }
                        },
                    },
                    "scope": {"project": {"name": self._project, "domain": {"id": "default"}}},
                }
            },
        )
        self._token = answer.headers["x-subject-token"]
        return self._token

    async def get(self, path: str, **query: Any) -> Any:
        """GET and decode."""
        return self._decoded(await self._send("GET", path, params=query or None))

    async def post(self, path: str, body: Any) -> Any:
        """POST and decode."""
        return self._decoded(await self._send("POST", path, json=body))

    async def put(self, path: str, body: Any) -> Any:
        """PUT and decode."""
        return self._decoded(await self._send("PUT", path, json=body))

    async def patch(self, path: str, body: Any) -> Any:
        """PATCH and decode."""
        return self._decoded(await self._send("PATCH", path, json=body))

    async def delete(self, path: str, **query: Any) -> Any:
        """DELETE and decode, if there is anything."""
        return self._decoded(await self._send("DELETE", path, params=query or None))

    async def upload(self, path: str, chunks: AsyncIterator[bytes], size_bytes: int) -> None:
        """PUT a body of bytes as it is read."""
        await self._send(
            "PUT",
            path,
            content=chunks,
            headers={
                "Content-Type": "application/octet-stream",
                "Content-Length": str(size_bytes),
            },
        )

    async def wait_server(
        self, server_id: str, *, status: str | None, timeout_s: float, poll_s: float = 0.1
    ) -> dict[str, Any]:
        """Wait until a server has a status and no task, or (status None) is gone.

        Raises:
            Conflict: it is in ERROR; the message is the fault's.
            Unavailable: the time is up.
        """
        import asyncio  # noqa: PLC0415 - this method's alone

        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                server = (await self.get(f"/compute/v2.1/servers/{server_id}"))["server"]
            except errors.NotFound:
                if status is None:
                    return {}
                raise
            if server["status"] == "ERROR" and status != "ERROR":
                fault = server.get("fault", {})
                raise errors.Conflict(
                    f"server {server_id} is in ERROR: {fault.get('message', 'no fault is given')}"
                )
            if server["status"] == status and server["OS-EXT-STS:task_state"] is None:
                found: dict[str, Any] = server
                return found
            await asyncio.sleep(poll_s)
        raise errors.Unavailable(f"server {server_id} did not become {status} in {timeout_s:.0f} s")

    async def _send(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, **parts: Any
    ) -> httpx2.Response:
        sent = {"Accept": "application/json", "OpenStack-API-Version": "compute 2.96"}
        if self._token:
            sent["X-Auth-Token"] = self._token
        sent.update(headers or {})
        try:
            answer = await self._http.request(method, self.site_url + path, headers=sent, **parts)
        except httpx2.TransportError as error:
            raise errors.Unavailable(f"{self.site_url} does not answer: {error}") from error
        if answer.status_code >= 400:
            raise _CLASSES.get(answer.status_code, errors.Unavailable)(_message(answer))
        return answer

    @staticmethod
    def _decoded(answer: httpx2.Response) -> Any:
        return msgspec.json.decode(answer.content) if answer.content else None


def _message(answer: httpx2.Response) -> str:
    try:
        body = msgspec.json.decode(answer.content)
    except msgspec.DecodeError:
        return f"HTTP {answer.status_code}: {answer.text[:200]}"
    for value in body.values() if isinstance(body, dict) else ():
        if isinstance(value, dict) and "message" in value:
            return str(value["message"])
    return str(body.get("message", body))[:300] if isinstance(body, dict) else str(body)[:300]
