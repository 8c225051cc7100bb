"""Sessions, and what is asked of the server as a whole."""

from __future__ import annotations

from xenith.toolstack.methods import method
from xenith.toolstack.server import HostServer


@method("session.login_with_password", is_open=True)
def login_with_password(
    host: HostServer, user: str, password: str, version: str = "1.0", originator: str = ""
) -> str:
    """Begin a session. Source: XenAPI session.login_with_password."""
    del version  # every version of the API is this one
    return host.login(user, password, originator)


@method("session.slave_local_login_with_password", is_open=True)
def slave_local_login(host: HostServer, user: str, password: str) -> str:
    """Begin a session that lives on this host alone; here all do."""
    return host.login(user, password, "local")


@method("session.logout", is_open=True)
@method("session.local_logout", is_open=True)
def logout(host: HostServer, reference: str) -> None:
    """End a session."""
    host.end_session(reference)


@method("session.get_this_host")
def get_this_host(host: HostServer, reference: str) -> str:
    """Give the host that a session is with."""
    del reference
    return host.objects.only("host")


@method("system.listMethods", is_open=True)
def list_methods(host: HostServer) -> list[str]:
    """List all methods."""
    table = host.methods
    return sorted([*table, *(f"Async.{name}" for name, row in table.items() if row.is_async)])
