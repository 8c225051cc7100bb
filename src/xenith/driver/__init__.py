"""How a server becomes a VM: one host's driver, over public XenAPI and nothing else."""

from xenith.driver.config_drive import build_config_drive
from xenith.driver.metadata import Guest, xenstore_data

__all__ = ["Guest", "build_config_drive", "xenstore_data"]
