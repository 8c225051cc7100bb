"""HTTP as OpenStack speaks it: one table of endpoints, and everything else derived from it.

A service is a ``Service``: a prefix, a style of errors, a range of microversions and rows of
``Endpoint``. ``Site`` serves several on one port. Handlers take a ``Call`` and give back data.
"""

from xenith.http.call import Answer, Call, Stream
from xenith.http.endpoint import Endpoint, Service
from xenith.http.policy import Check, Principal
from xenith.http.site import Authenticator, Site

__all__ = [
    "Answer",
    "Authenticator",
    "Call",
    "Check",
    "Endpoint",
    "Principal",
    "Service",
    "Site",
    "Stream",
]
