"""Who users are and what they may do: the Identity API v3.

Tokens hold only ids; what they stand for is read from the rows, so that what is taken away is gone
at once. Other services know this room only as the site's ``Authenticator``.
"""

from xenith.identity.endpoints import service
from xenith.identity.operations import CatalogEntry, Identity

__all__ = ["CatalogEntry", "Identity", "service"]
