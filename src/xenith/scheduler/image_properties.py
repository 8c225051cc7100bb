"""What an image demands of a host: architecture, hypervisor and VM mode, in canonical words.

Source: glance "Useful image properties" (``hw_architecture``, ``img_hv_type``, ``hw_vm_mode``, and
their names before Liberty); nova's canonical words for each.
"""

from __future__ import annotations

from collections.abc import Mapping

from xenith.scheduler.profile import HostProfile

_ARCHITECTURES = {
    **dict.fromkeys(("amd64", "x64", "x86-64"), "x86_64"),
    **dict.fromkeys(("x86", "i386", "i486", "i586"), "i686"),
    "arm64": "aarch64",
}
_HYPERVISORS = {"xapi": "xen", "kqemu": "qemu"}
_VM_MODES = {"pv": "xen", "hv": "hvm", "baremetal": "hvm"}
_NAMES = (
    ("hw_architecture", "architecture", _ARCHITECTURES),
    ("img_hv_type", "hypervisor_type", _HYPERVISORS),
    ("hw_vm_mode", "vm_mode", _VM_MODES),
)


def demanded(properties: Mapping[str, str]) -> tuple[str, str, str]:
    """Give what the image demands as (architecture, hypervisor type, VM mode), "" for any.

    >>> demanded({"hw_architecture": "AMD64", "vm_mode": "pv", "os_distro": "debian"})
    ('x86_64', '', 'xen')
    """
    words = []
    for name, old_name, canonical in _NAMES:
        word = str(properties.get(name) or properties.get(old_name) or "").strip().lower()
        words.append(canonical.get(word, word))
    return words[0], words[1], words[2]


def is_supported(profile: HostProfile, demand: tuple[str, str, str]) -> bool:
    """Tell whether one of the host's ways of running a server is the demanded one.

    >>> xen = HostProfile(supported=(("x86_64", "xen", "hvm"), ("i686", "xen", "xen")))
    >>> is_supported(xen, ("x86_64", "", "")), is_supported(xen, ("x86_64", "xen", "xen"))
    (True, False)
    """
    return any(
        all(not wanted or wanted == has for wanted, has in zip(demand, way, strict=True))
        for way in profile.supported
    )
