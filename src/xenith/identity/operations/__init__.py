"""Identity's operations, a file per noun, gathered in one context."""

from xenith.identity.operations.bootstrap import CatalogEntry
from xenith.identity.operations.identity import Identity

__all__ = ["CatalogEntry", "Identity"]
