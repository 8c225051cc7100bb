"""Tasks: what runs behind an ``Async.`` call or a transfer."""

from __future__ import annotations

from xenith.toolstack.methods import method
from xenith.toolstack.server import HostServer
from xenith.xapi.faults import XapiFault

#: Source: XenAPI, enum task_status_type.
STATUSES = frozenset(("pending", "success", "failure", "cancelling", "cancelled"))
ENDS = STATUSES - {"pending", "cancelling"}


@method("task.create")
def create(host: HostServer, label: str, description: str) -> str:
    """Make a task that a client drives, or a transfer reports to."""
    return host.make_task(label, description, allowed=["cancel", "destroy"])


@method("task.destroy")
def destroy(host: HostServer, ref: str) -> None:
    """Forget a task."""
    host.objects.delete("task", ref)


@method("task.cancel", is_async=True)
def cancel(host: HostServer, ref: str) -> None:
    """Ask a task to stop; those of calls do not, as most of xapi's, and a client's own does."""
    record = host.objects.get("task", ref)
    if "cancel" in record["allowed_operations"]:
        host.end_task(ref, status="cancelled")
        return
    raise XapiFault("OPERATION_NOT_ALLOWED", f"task {record['name_label']} cannot be cancelled")


@method("task.set_status")
def set_status(host: HostServer, ref: str, status: str) -> None:
    """Write the status of a client's own task."""
    host.objects.get("task", ref)
    if status not in STATUSES:
        raise XapiFault("INVALID_VALUE", "status", status)
    if status in ENDS:
        host.end_task(ref, status=status)
    else:
        host.objects.update("task", ref, status=status)


@method("task.set_progress")
def set_progress(host: HostServer, ref: str, progress: float) -> None:
    """Write the progress of a client's own task."""
    host.objects.update("task", ref, progress=progress)


@method("task.set_result")
def set_result(host: HostServer, ref: str, result: str) -> None:
    """Write the result of a client's own task."""
    host.objects.update("task", ref, result=result)


@method("task.set_error_info")
def set_error_info(host: HostServer, ref: str, error_info: list[str]) -> None:
    """Write how a client's own task failed."""
    host.objects.update("task", ref, error_info=error_info)
