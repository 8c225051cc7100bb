"""The classes' own methods, a file per noun; importing this enters them all."""

from xenith.toolstack.classes import event, host, network, session, sr, task, vbd, vdi, vif, vm

__all__ = ["event", "host", "network", "session", "sr", "task", "vbd", "vdi", "vif", "vm"]
