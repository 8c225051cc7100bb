"""Which rescue disks that no VM has are nobody's, as the rows say."""

from types import SimpleNamespace

from xenith.compute.reconcilers import plan_loose


def row(instance_id, vm_state, task_state=None):
    return SimpleNamespace(id=instance_id, vm_state=vm_state, task_state=task_state)


def test_only_what_is_of_a_server_at_rest_and_not_rescued_is_removed():
    rows = [
        row("runs", "active"),
        row("stands", "stopped"),
        row("begins", "active", "rescuing"),
        row("rescued", "rescued"),
        row("ends", "rescued", "unrescuing"),
        row("failed", "error"),
        row("other", "active"),
    ]
    loose = {each.id: [f"disk of {each.id}"] for each in rows if each.id != "other"}
    loose["unknown"] = ["disk of nobody"]
    assert plan_loose(loose, rows) == [["disk of runs"], ["disk of stands"]]
