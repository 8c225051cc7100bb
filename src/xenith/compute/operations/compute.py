"""All of compute's operations, as handlers find them."""

from __future__ import annotations

from xenith.compute.operations.actions import ServerActions
from xenith.compute.operations.aggregates import Aggregates
from xenith.compute.operations.context import Context
from xenith.compute.operations.flavors import Flavors
from xenith.compute.operations.image_schedules import ImageSchedules
from xenith.compute.operations.images import ImageProxy
from xenith.compute.operations.inventory import Inventory
from xenith.compute.operations.keypairs import Keypairs
from xenith.compute.operations.labels import ServerLabels
from xenith.compute.operations.quotas import Quotas
from xenith.compute.operations.rebuilds import Rebuilds
from xenith.compute.operations.rescues import Rescues
from xenith.compute.operations.resizes import Resizes
from xenith.compute.operations.server_groups import ServerGroups
from xenith.compute.operations.server_images import ServerImages
from xenith.compute.operations.servers import Servers
from xenith.compute.operations.usage import Usage


class Compute:
    """The compute service of one API cell."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.servers = Servers(context)
        self.actions = ServerActions(context)
        self.resizes = Resizes(context)
        self.images = ServerImages(context)
        self.image_schedules = ImageSchedules(context)
        self.image_proxy = ImageProxy(context)
        self.rebuilds = Rebuilds(context)
        self.rescues = Rescues(context)
        self.labels = ServerLabels(context)
        self.flavors = Flavors(context)
        self.keypairs = Keypairs(context)
        self.quotas = Quotas(context)
        self.inventory = Inventory(context)
        self.usage = Usage(context)
        self.aggregates = Aggregates(context)
        self.server_groups = ServerGroups(context)
