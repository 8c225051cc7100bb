"""The extra specs that nova knows, and what their values may be.

From 2.86 on a name in one of these namespaces has to be one of them; names in other namespaces,
or in none, are an operator's own and pass.

Source: Compute API 2.86; nova's configuration reference, "Extra Specs".
"""

from __future__ import annotations

import re

_BOOLEAN = "(?i:true|false|1|0|t|f|y|n|yes|no|on|off)"
_NUMBER = "[0-9]+"
_ANY = ".*"


def _words(*words: str) -> str:
    return "|".join(words)


_KNOWN: dict[str, str] = {
    r"accel:device_profile": _ANY,
    r"aggregate_instance_extra_specs:.+": _ANY,
    r"capabilities:.+": _ANY,
    r"hw:boot_menu": _BOOLEAN,
    r"hw:cpu_(cores|sockets|threads|max_cores|max_sockets|max_threads)": _NUMBER,
    r"hw:cpu_dedicated_mask": _ANY,
    r"hw:cpu_policy": _words("dedicated", "mixed", "shared"),
    r"hw:cpu_realtime": _BOOLEAN,
    r"hw:cpu_realtime_mask": _ANY,
    r"hw:cpu_thread_policy": _words("prefer", "isolate", "require"),
    r"hw:emulator_threads_policy": _words("isolate", "share"),
    r"hw:ephemeral_encryption": _BOOLEAN,
    r"hw:ephemeral_encryption_format": "luks",
    r"hw:hide_hypervisor_id": _BOOLEAN,
    r"hw:locked_memory": _BOOLEAN,
    r"hw:maxphysaddr_bits": _NUMBER,
    r"hw:maxphysaddr_mode": _words("emulate", "passthrough"),
    r"hw:mem_encryption": _BOOLEAN,
    r"hw:mem_encryption_model": _words("amd-sev", "amd-sev-es"),
    r"hw:mem_page_size": r"large|small|any|\d+([kKMGT]i?)?(b|bit|B)?",
    r"hw:numa_cpus\.\d+": _ANY,
    r"hw:numa_mem\.\d+": _NUMBER,
    r"hw:numa_nodes": r"0*[1-9][0-9]*",
    r"hw:pci_numa_affinity_policy": _words("required", "preferred", "legacy", "socket"),
    r"hw:pmem": _ANY,
    r"hw:pmu": _BOOLEAN,
    r"hw:serial_port_count": _NUMBER,
    r"hw:sound_model": _ANY,
    r"hw:tpm_model": _words("tpm-tis", "tpm-crb"),
    r"hw:tpm_secret_security": _words("user", "host", "deployment"),
    r"hw:tpm_version": _words(r"1\.2", r"2\.0"),
    r"hw:usb_model": _ANY,
    r"hw:redirected_usb_ports": _NUMBER,
    r"hw:vif_multiqueue_enabled": _BOOLEAN,
    r"hw:viommu_model": _words("intel", "smmuv3", "virtio", "auto"),
    r"hw:virtio_packed_ring": _BOOLEAN,
    r"hw:watchdog_action": _words("none", "pause", "poweroff", "reset", "disabled"),
    r"hw_rng:allowed": _BOOLEAN,
    r"hw_rng:rate_(bytes|period)": _NUMBER,
    r"hw_video:ram_max_mb": _NUMBER,
    r"os:secure_boot": _words("disabled", "required", "optional"),
    r"pci_passthrough:alias": r"[^:]+:\d+(,\s*[^:]+:\d+)*",
    r"powervm:.+": _ANY,
    r"quota:(cpu|disk_io|memory|vif)_(limit|reservation|shares_share)": _NUMBER,
    r"quota:(cpu|disk_io|memory|vif)_shares_level": _words("custom", "high", "normal", "low"),
    r"quota:cpu_(shares|period|quota)": r"-?[0-9]+",
    r"quota:disk_(read|write|total)_(bytes|iops)_sec(_max(_length)?)?": _NUMBER,
    r"quota:vif_(inbound|outbound)_(average|burst|peak)": _NUMBER,
    r"resources[a-zA-Z0-9_-]{0,64}:[A-Z0-9_]+": _NUMBER,
    r"trait[a-zA-Z0-9_-]{0,64}:[A-Z0-9_]+": _words("required", "forbidden"),
    r"vmware:.+": _ANY,
}
_VALUES = [(re.compile(name), re.compile(f"(?s:{value})")) for name, value in _KNOWN.items()]
#: Namespaces in which every name is known; resources and traits may carry a group's name.
_NAMESPACE = re.compile(
    "accel|aggregate_instance_extra_specs|capabilities|hw|hw_rng|hw_video|os|pci_passthrough|"
    "powervm|quota|vmware|resources[0-9]*(_.*)?|trait[0-9]*(_.*)?"
)


def fault_of(name: str, value: str) -> str | None:
    """Tell what is wrong with an extra spec, or None when nothing is.

    >>> fault_of("hw:cpu_policy", "shared"), fault_of("mine:x", "y"), fault_of("x", "y")
    (None, None, None)
    >>> fault_of("hw:cpu_policy", "never")
    "'never' is no value of 'hw:cpu_policy'"
    """
    namespace, colon, _ = name.partition(":")
    if not colon or _NAMESPACE.fullmatch(namespace) is None:
        return None
    for known, values in _VALUES:
        if known.fullmatch(name) is not None:
            if values.fullmatch(value) is not None:
                return None
            return f"'{value[:64]}' is no value of '{name}'"
    return f"extra spec '{name}' does not appear to be a valid extra spec"
