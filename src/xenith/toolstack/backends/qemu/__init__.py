"""Real virtual machines with QEMU, behind the toolstack's backend protocol."""

from xenith.toolstack.backends.qemu.backend import QemuBackend

__all__ = ["QemuBackend"]
