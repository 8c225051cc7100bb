"""Sessions, and what is asked of the server as a whole."""

from __future__ import annotations

from xenith.toolstack.methods import method
from xenith.toolstack.server import HostServer
from xenith.xapi.faults import XapiFault


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
    return host.ref


@method("session.change_password", is_async=True)
def change_password(host: HostServer, old: str, new: str) -> None:
    """Change the caller's own password. Source: XenAPI session.change_password."""
    host.set_password(host.caller(), old, new)


@method("session.get_all_subject_identifiers", is_async=True)
def get_all_subject_identifiers(host: HostServer) -> list[str]:
    """List whom a directory knows and who has a session: those beside root. Source: XenAPI."""
    names = {row["auth_user_name"] for row in host.objects.all("session").values()}
    return sorted(names - {"root"})


@method("session.logout_subject_identifier", is_async=True)
def logout_subject_identifier(host: HostServer, identifier: str) -> None:
    """End all sessions of one beside root. Source: session.logout_subject_identifier."""
    if identifier == "root":
        raise XapiFault("OPERATION_NOT_ALLOWED", "root is no subject")
    host.end_sessions_of(identifier)


@method("session.create_from_db_file")
def create_from_db_file(host: HostServer, filename: str) -> str:
    """Refuse to read a database from a file that a client names. Source: XenAPI."""
    del host, filename
    raise XapiFault("NOT_IMPLEMENTED", "session.create_from_db_file")


@method("system.listMethods", is_open=True)
def list_methods(host: HostServer) -> list[str]:
    """List all methods."""
    table = host.methods
    return sorted([*table, *(f"Async.{name}" for name, row in table.items() if row.is_async)])
