"""Tasks: what runs behind an ``Async.`` call or a transfer."""

from __future__ import annotations

from xenith.toolstack.methods import method
from xenith.toolstack.server import HostServer
from xenith.xapi.faults import XapiFault


@method("task.create")
def create(host: HostServer, label: str, description: str) -> str:
    """Make a task that a client drives, or a transfer reports to."""
    return host.objects.create(
        "task",
        name_label=label,
        name_description=description,
        created=host.now(),
        resident_on=host.objects.only("host"),
        allowed_operations=["cancel", "destroy"],
    )


@method("task.destroy")
def destroy(host: HostServer, ref: str) -> None:
    """Forget a task."""
    host.objects.delete("task", ref)


@method("task.cancel", is_async=True)
def cancel(host: HostServer, ref: str) -> None:
    """Ask a task to stop; those of calls do not, as most of xapi's."""
    record = host.objects.get("task", ref)
    raise XapiFault("OPERATION_NOT_ALLOWED", f"task {record['name_label']} cannot be cancelled")


@method("task.set_status")
def set_status(host: HostServer, ref: str, status: str) -> None:
    """Write the status of a client's own task."""
    host.objects.update("task", ref, status=str(status))


@method("task.set_progress")
def set_progress(host: HostServer, ref: str, progress: float) -> None:
    """Write the progress of a client's own task."""
    host.objects.update("task", ref, progress=float(progress))
