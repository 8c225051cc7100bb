"""Arithmetic of addresses."""

import doctest
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenith.core.errors import Conflict, Invalid
from xenith.core.ids import Ids
from xenith.network import addresses


def test_the_examples_hold():
    found = doctest.testmod(addresses)
    assert found.attempted
    assert not found.failed


networks = st.one_of(
    st.tuples(st.integers(0, 2**32 - 1), st.integers(8, 32)).map(
        lambda pair: ip_network((pair[0], pair[1]), strict=False)
    ),
    st.tuples(st.integers(0, 2**128 - 1), st.integers(16, 128)).map(
        lambda pair: ip_network((pair[0], pair[1]), strict=False)
    ),
)


@given(networks, st.integers(0, 2**16))
def test_default_pools_hold_every_host_but_the_gateway(network, at):
    first, last = addresses.host_range(network)
    gateway = str(first + at % (int(last) - int(first) + 1))
    pools = addresses.default_pools(network, gateway)
    assert addresses.count_addresses(pools) == int(last) - int(first)
    assert not addresses.is_in_pools(pools, gateway)
    for pool in pools:
        assert ip_address(pool[0]) in network
        assert ip_address(pool[1]) in network


@given(st.lists(st.tuples(st.integers(1, 250), st.integers(0, 9)), min_size=1, max_size=5))
def test_positions_walk_every_address_of_pools_once(ranges):
    asked = [(f"10.0.0.{at}", f"10.0.0.{min(at + more, 254)}") for at, more in ranges]
    try:
        pools = addresses.check_pools(ip_network("10.0.0.0/24"), asked)
    except Conflict:
        return
    count = addresses.count_addresses(pools)
    walked = [addresses.address_at(pools, position) for position in range(count)]
    assert len(set(walked)) == count
    assert None not in walked
    assert addresses.address_at(pools, count) is None
    assert all(addresses.is_in_pools(pools, address) for address in walked)


@pytest.mark.parametrize(
    "text", ["10.0.0.1/24", "10.0.0.0", "10.0.0.0/33", "x/24", "", "fe80::%1/64"]
)
def test_what_is_no_range_is_refused(text):
    with pytest.raises(Invalid):
        addresses.read_network(text, "cidr")


@pytest.mark.parametrize("text", ["fa:16:3e:00:00", "fa-16:3e:00:00:0g", "00:00:00:00:00:00", ""])
def test_what_is_no_mac_address_is_refused(text):
    with pytest.raises(Invalid):
        addresses.read_mac(text)


def test_made_mac_addresses_are_neutrons():
    assert addresses.read_mac(addresses.make_mac(Ids(seed=1))).startswith("fa:16:3e:")
