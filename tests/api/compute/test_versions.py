"""Version documents and extensions."""

from __future__ import annotations


async def test_the_root_lists_versions_without_a_token(cloud):
    async with cloud.client(token=None) as client:
        listed = (await client.get("http://cloud/compute/")).json()["versions"]
        assert [version["id"] for version in listed] == ["v2.0", "v2.1"]
        assert listed[1]["status"] == "CURRENT"
        assert (listed[1]["min_version"], listed[1]["version"]) == ("2.1", "2.96")
        for version in listed:
            # Each link leads to the document of its own version.
            answer = await client.get(version["links"][0]["href"])
            assert answer.status_code == 200
            assert answer.json()["version"]["id"] == version["id"]
            assert answer.json()["version"]["media-types"][0]["base"] == "application/json"


async def test_extensions_are_a_fixed_list(cloud):
    listed = (await cloud.get("/extensions", by="unscoped"))["extensions"]
    assert "os-keypairs" in {extension["alias"] for extension in listed}
    one = (await cloud.get("/extensions/os-keypairs"))["extension"]
    assert one in listed
    answer = await cloud.ask("GET", "/extensions/none")
    assert answer.status_code == 404
    assert "itemNotFound" in answer.json()
