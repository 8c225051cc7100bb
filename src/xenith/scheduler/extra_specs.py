"""What a flavor's extra specs demand of a host's capabilities, aggregates and traits.

A demand is a word of comparison and operands (``>= 4``, ``<or> ssd <or> nvme``); one without such
a word must equal the value. A key may be scoped; scopes of others (``quota:``, ``hw:``) are not
demands on the host. A key without scope belongs to the host's capabilities where the host has it,
else to its aggregates: so that both filters can be on, which nova's documentation advises against.

Source: nova flavors documentation, "Extra Specs"; scheduler filters ComputeCapabilitiesFilter and
AggregateInstanceExtraSpecsFilter.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from xenith.scheduler.profile import HostProfile

CAPABILITIES_SCOPE = "capabilities"
AGGREGATES_SCOPE = "aggregate_instance_extra_specs"
TRAIT_SCOPE = "trait"

# The host's value stands on the left. A single = has always meant "at least".
_NUMERIC: dict[str, Callable[[float, float], bool]] = {
    "=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
}
_TEXTUAL: dict[str, Callable[[str, str], bool]] = {
    "s==": operator.eq,
    "s!=": operator.ne,
    "s<": operator.lt,
    "s<=": operator.le,
    "s>": operator.gt,
    "s>=": operator.ge,
    "<in>": operator.contains,
}


def matches(value: str, demand: str) -> bool:
    """Tell whether a host's value meets a demand; one that makes no sense is not met.

    >>> matches("8", ">= 4"), matches("8", "= 9"), matches("8", "== 8.0"), matches("ssd", ">= 4")
    (True, False, True, False)
    >>> matches("xen", "xen"), matches("xen", "s== xen"), matches("abc", "s< abd")
    (True, True, True)
    >>> matches("nvme", "<or> ssd <or> nvme"), matches("hdd", "<or> ssd <or> nvme")
    (True, False)
    >>> matches("aes vmx", "<in> vmx"), matches("aes vmx", "<all-in> aes svm")
    (True, False)
    >>> matches("8", ">="), matches("", "")
    (False, True)
    """
    word, *operands = demand.split() or [""]
    if word == "<or>":
        return value in operands[::2]  # between the operands stands the word again
    if word == "<all-in>":
        return bool(operands) and all(operand in value for operand in operands)
    if word in _TEXTUAL:
        return bool(operands) and _TEXTUAL[word](value, operands[0])
    if word in _NUMERIC:
        return bool(operands) and _compare_numbers(word, value, operands[0])
    return value == demand


def _compare_numbers(word: str, value: str, operand: str) -> bool:
    try:
        return _NUMERIC[word](float(value), float(operand))
    except ValueError:
        return False


def unmet_capabilities(profile: HostProfile, specs: Mapping[str, str]) -> list[str]:
    """List the demands on capabilities that the host does not meet.

    >>> xen = HostProfile(capabilities={"hypervisor_version": 4017, "cpu_info": {"arch": "x86_64"}})
    >>> unmet_capabilities(xen, {"capabilities:cpu_info:arch": "x86_64", "quota:cpu": "9"})
    []
    >>> unmet_capabilities(xen, {"capabilities:hypervisor_version": ">= 4018", "disk": "ssd"})
    ['capabilities:hypervisor_version >= 4018', 'disk ssd']
    """
    unmet = []
    for key, demand in specs.items():
        scope, _, rest = key.partition(":")
        if rest and scope != CAPABILITIES_SCOPE:
            continue
        value = _capability(profile.capabilities, rest or key)
        if value is None and not rest and _aggregate_values(profile, key):
            continue
        if value is None or not matches(str(value), demand):
            unmet.append(f"{key} {demand}")
    return unmet


def unmet_aggregates(profile: HostProfile, specs: Mapping[str, str]) -> list[str]:
    """List the demands on aggregates that none of the host's aggregates meets.

    >>> fast = HostProfile(aggregates=({"disk": "ssd, nvme"}, {"pool": "gold"}))
    >>> unmet_aggregates(fast, {"aggregate_instance_extra_specs:disk": "nvme", "pool": "gold"})
    []
    >>> unmet_aggregates(fast, {"aggregate_instance_extra_specs:gpu": "a100", "pool": "s== tin"})
    ['aggregate_instance_extra_specs:gpu a100', 'pool s== tin']
    """
    unmet = []
    for key, demand in specs.items():
        scope, _, rest = key.partition(":")
        if rest and scope != AGGREGATES_SCOPE:
            continue
        values = _aggregate_values(profile, rest or key)
        if not rest and (not values or _capability(profile.capabilities, key) is not None):
            continue
        if not any(matches(value, demand) for value in values):
            unmet.append(f"{key} {demand}")
    return unmet


def unmet_traits(
    profile: HostProfile, specs: Mapping[str, str], image_properties: Mapping[str, str]
) -> list[str]:
    """List the traits that are required and missing, or forbidden and there.

    An image may only require. Source: nova, "trait:<name>" extra specs and image properties.

    >>> avx = HostProfile(traits=frozenset({"HW_CPU_X86_AVX"}))
    >>> unmet_traits(avx, {"trait:HW_CPU_X86_AVX": "forbidden"}, {"trait:CUSTOM_GOLD": "required"})
    ['trait:HW_CPU_X86_AVX forbidden', 'trait:CUSTOM_GOLD required']
    """
    unmet = []
    for source, words in ((specs, ("required", "forbidden")), (image_properties, ("required",))):
        for key, word in source.items():
            scope, _, trait = key.partition(":")
            if scope != TRAIT_SCOPE or not trait or word not in words:
                continue
            if (trait in profile.traits) != (word == "required"):
                unmet.append(f"{key} {word}")
    return unmet


def _capability(capabilities: Mapping[str, Any], path: str) -> Any:
    found: Any = capabilities
    for name in path.split(":"):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _aggregate_values(profile: HostProfile, key: str) -> set[str]:
    # An aggregate lists several values with commas; several aggregates add up.
    return {
        value.strip()
        for metadata in profile.aggregates
        if key in metadata
        for value in metadata[key].split(",")
    }
