"""What compute does: a file per noun. No HTTP and no SQL text here."""

from xenith.compute.operations.compute import Compute

__all__ = ["Compute"]
