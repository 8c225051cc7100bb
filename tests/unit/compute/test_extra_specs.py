"""Which extra specs are known, and what their values may be."""

from __future__ import annotations

import doctest

import pytest

from xenith.compute.schemas import extra_specs
from xenith.compute.schemas.extra_specs import fault_of


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hw:numa_nodes", "1"),
        ("hw:numa_mem.0", "1024"),
        ("hw:mem_page_size", "2MB"),
        ("hw:vif_multiqueue_enabled", "True"),
        ("hw_rng:allowed", "true"),
        ("quota:cpu_quota", "-1"),
        ("quota:vif_inbound_peak", "100"),
        ("resources:VCPU", "2"),
        ("resources_GROUP:CUSTOM_X", "1"),
        ("trait:HW_CPU_X86_AVX", "required"),
        ("trait1:HW_CPU_X86_AVX", "forbidden"),
        ("capabilities:cpu_info:arch", "<in> x86"),
        ("aggregate_instance_extra_specs:ssd", "true"),
        ("pci_passthrough:alias", "gpu:1, nic:2"),
        ("without_colon", "x"),
        ("custom:thing", "x"),
    ],
)
def test_what_nova_knows_passes(name, value):
    assert fault_of(name, value) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hw:numa_nodes", "0"),
        ("hw:numa_nodes", "1\n"),
        ("hw:cpu_policy", "SHARED"),
        ("hw:invalid", "1"),
        ("hw_rng:allowed", "maybe"),
        ("os:other", "x"),
        ("resources:vcpu", "1"),
        ("trait:X", "wanted"),
    ],
)
def test_what_nova_does_not_know_has_a_fault_that_names_it(name, value):
    assert name in fault_of(name, value)


def test_the_examples_hold():
    assert doctest.testmod(extra_specs).failed == 0
