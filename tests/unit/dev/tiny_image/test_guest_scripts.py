"""The guest's own readers of JSON, run by the same awk as in the guest."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xenith.dev.tiny_image

GUEST = Path(xenith.dev.tiny_image.__file__).parent / "guest"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("busybox") is None, reason="needs busybox-static"),
]


def awk(script, text):
    command = ["busybox", "awk", "-f", GUEST / script]
    done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=20, check=True)
    return done.stdout.decode().splitlines()


def flatten(value, path=""):
    """Do what json.awk does, for comparison."""
    if isinstance(value, dict):
        return [line for key in value for line in flatten(value[key], f"{path}.{key}")]
    if isinstance(value, list):
        return [line for n, item in enumerate(value) for line in flatten(item, f"{path}.{n}")]
    return [] if value is None else [f"{path}\t{value}"]


def network(**rest):
    links = [{"id": "a", "ethernet_mac_address": "52:54:00:AA:00:01", "mtu": 1450}]
    links += [{"id": "b", "ethernet_mac_address": "52:54:00:aa:00:02", "mtu": None}]
    return "\n".join(awk("json.awk", json.dumps({"links": links, **rest}))) + "\n"


@pytest.mark.parametrize("indent", [None, 2])
def test_a_document_is_flattened_whatever_its_spacing(indent):
    document = {
        "name": 'a "quoted" {name}, [x]: \\ / y',
        "empty": [{}, [], ""],
        "deep": [{"a": [1, -2.5e3, {"b": "c"}]}, "after"],
        "none": None,
        "last": "x",
    }
    assert awk("json.awk", json.dumps(document, indent=indent)) == flatten(document)


def test_lines_and_tabs_in_a_value_do_not_make_another():
    assert awk("json.awk", json.dumps({"a": "x\ny\tz\r"})) == [".a\tx y z "]
    assert awk("json.awk", r'{"a": "\u0041\u000a\u00e9\/"}') == [".a\tA??/"]


@settings(max_examples=25, deadline=None)
@given(
    st.recursive(
        st.integers() | st.text("ab {}[]\":,\\/'$`", max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner)
        ),
        max_leaves=12,
    ).map(lambda value: {"top": value})
)
def test_any_document_is_flattened_as_python_would(document):
    assert awk("json.awk", json.dumps(document)) == flatten(document)


def test_addresses_routes_and_name_servers_are_told_by_card():
    text = network(
        networks=[
            {
                "link": "a",
                "type": "ipv4",
                "ip_address": "10.1.2.3",
                "netmask": "255.255.240.0",
                "routes": [
                    {"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.1.0.1"},
                    {"network": "10.9.0.0", "netmask": "255.255.0.0", "gateway": "10.1.0.2"},
                ],
            },
            {
                "link": "a",
                "type": "ipv6",
                "ip_address": "2001:db8::5",
                "netmask": "ffff:ffff:ffff:fff0::",
                "routes": [{"network": "::", "netmask": "::", "gateway": "2001:db8::1"}],
            },
            {"link": "b", "type": "ipv4", "ip_address": "10.2.0.1/24"},
            {"link": "b", "type": "ipv4_dhcp"},
        ],
        services=[{"type": "dns", "address": "9.9.9.9"}, {"type": "ntp", "address": "1.1.1.1"}],
    )
    a, b = "52:54:00:aa:00:01", "52:54:00:aa:00:02"
    assert awk("network.awk", text) == [
        f"link|{a}|1450|",
        f"link|{b}||",
        f"address|{a}|10.1.2.3/20|",
        f"route|{a}|0.0.0.0/0|10.1.0.1",
        f"route|{a}|10.9.0.0/16|10.1.0.2",
        f"address|{a}|2001:db8::5/60|",
        f"route|{a}|::/0|2001:db8::1",
        f"address|{b}|10.2.0.1/24|",
        f"dhcp|{b}||",
        "dns||9.9.9.9|",
    ]


def test_what_is_no_address_cannot_bring_in_words_of_its_own():
    text = network(networks=[{"link": "a", "type": "ipv4", "ip_address": "1.2.3.4|x; reboot $(y)"}])
    assert awk("network.awk", text)[-1] == "address|52:54:00:aa:00:01|1.2.3.4xrebooty|"


def test_no_network_data_is_nothing_to_do():
    assert awk("network.awk", "") == []
    assert awk("json.awk", "{}") == []
