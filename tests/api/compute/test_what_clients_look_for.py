"""Words that clients send to compute, and forms that they compare with."""

from __future__ import annotations

import pytest

from xenith.compute.operations.requests import checked_address
from xenith.core.errors import Invalid


async def test_all_tenants_without_a_value_asks_for_all(cloud) -> None:
    await cloud.add_server("theirs", project_id="p2")
    assert (await cloud.get("/servers"))["servers"] == []
    for query in ("all_tenants", "all_tenants=", "all_tenants=1"):
        listed = await cloud.get(f"/servers?{query}")
        assert [server["name"] for server in listed["servers"]] == ["theirs"]
    assert (await cloud.get("/servers?all_tenants=0"))["servers"] == []
    assert (await cloud.ask("GET", "/servers?all_tenants=some")).status_code == 400
    assert (await cloud.ask("GET", "/servers?all_tenants=", by="member")).status_code == 403


@pytest.mark.parametrize(
    ("given", "version", "kept"),
    [
        ("0000:0000:0000:0000:0000:babe:220.12.22.2", 6, "::babe:dc0c:1602"),
        ("2001:DB8::1", 6, "2001:db8::1"),
        ("192.0.2.1", 4, "192.0.2.1"),
        ("", 4, ""),
    ],
)
def test_an_address_for_access_is_kept_in_its_short_form(given, version, kept) -> None:
    assert checked_address(given, version) == kept


def test_a_zone_is_no_part_of_an_address_for_access() -> None:
    with pytest.raises(Invalid):
        checked_address("fe80::1%eth0", 6)
