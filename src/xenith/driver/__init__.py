"""How a server becomes a VM: one host's driver, over public XenAPI and nothing else."""

from xenith.driver.config_drive import build_config_drive
from xenith.driver.connection import HostAddress, HostFacts
from xenith.driver.host_driver import HostDriver
from xenith.driver.metadata import Guest, xenstore_data
from xenith.driver.power import PowerAction
from xenith.driver.vm_spec import VmNic, VmSpec

__all__ = [
    "Guest",
    "HostAddress",
    "HostDriver",
    "HostFacts",
    "PowerAction",
    "VmNic",
    "VmSpec",
    "build_config_drive",
    "xenstore_data",
]
