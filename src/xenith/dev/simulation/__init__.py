"""A whole cloud in one process on virtual time, the same for the same seed.

``run_simulation`` runs a function on a loop that never waits for the machine; beneath it are a
network in memory, clocks that differ, databases that die at a commit, and processes that are
killed without a last word.
"""

from xenith.dev.simulation.clock import SimulatedClock
from xenith.dev.simulation.database import CrashingDatabase, Moment
from xenith.dev.simulation.loop import Deadlock, Livelock, SimulatedLoop
from xenith.dev.simulation.owner import ProcessDied
from xenith.dev.simulation.process import Life, SimulatedProcess
from xenith.dev.simulation.run import Simulation, run_simulation
from xenith.dev.simulation.sockets import SimulatedNetwork

__all__ = [
    "CrashingDatabase",
    "Deadlock",
    "Life",
    "Livelock",
    "Moment",
    "ProcessDied",
    "SimulatedClock",
    "SimulatedLoop",
    "SimulatedNetwork",
    "SimulatedProcess",
    "Simulation",
    "run_simulation",
]
