"""Messages between cells behind one port: bounded by class, carried at least once.

A message is a hint or carries rows that the receiver applies once by their own ids; nothing is
true because it is on the bus.
"""

from xenith.bus.memory import MemoryBus
from xenith.bus.port import CREDITS, Bus, Delivery, Priority, Subscription
from xenith.bus.simulated import Faults, SimulatedBus, SimulatedFabric

__all__ = [
    "CREDITS",
    "Bus",
    "Delivery",
    "Faults",
    "MemoryBus",
    "Priority",
    "SimulatedBus",
    "SimulatedFabric",
    "Subscription",
]
