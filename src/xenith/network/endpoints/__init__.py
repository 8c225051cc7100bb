"""Network's endpoint table, a file per noun."""

from xenith.http import Service
from xenith.network.endpoints import discovery, networks, ports, quotas, subnets, tags
from xenith.network.operations import Networks
from xenith.network.policies import POLICIES

ENDPOINTS = (
    *discovery.ENDPOINTS,
    *networks.ENDPOINTS,
    *subnets.ENDPOINTS,
    *ports.ENDPOINTS,
    *tags.ENDPOINTS,
    *quotas.ENDPOINTS,
)


def service(context: Networks) -> Service[Networks]:
    """Give network as a site mounts it; its clients add the version themselves."""
    return Service(
        type="network",
        name="neutron",
        prefix="/network",
        style="network",
        endpoints=ENDPOINTS,
        policies=POLICIES,
        context=context,
    )
