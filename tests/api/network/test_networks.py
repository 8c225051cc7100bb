"""Networks as their clients meet them."""

from __future__ import annotations


async def test_a_network_is_made_shown_changed_and_deleted(cloud):
    made = await cloud.make("network", name="net", description="mine")
    assert made["status"] == "ACTIVE"
    assert made["project_id"] == made["tenant_id"] == "p1"
    assert made["subnets"] == made["tags"] == []
    assert made["router:external"] is made["shared"] is False
    assert made["mtu"] == 1500
    assert made["revision_number"] == 1
    assert made["created_at"] == made["updated_at"] == "2023-11-14T22:13:20Z"
    assert "provider:network_type" not in made

    path = f"/networks/{made['id']}"
    changed = await cloud.as_().put(path, json={"network": {"name": "new", "mtu": 1400}})
    assert changed.status_code == 200
    assert changed.json()["network"]["name"] == "new"
    assert changed.json()["network"]["revision_number"] == 2
    assert (await cloud.as_().get(path)).json() == changed.json()

    assert (await cloud.as_().delete(path)).status_code == 204
    gone = await cloud.as_().get(path)
    assert gone.status_code == 404
    assert gone.json()["NeutronError"]["type"] == "NetworkNotFound"


async def test_what_is_another_projects_is_not_there(cloud):
    made = await cloud.make("network", name="net")
    for method in ("GET", "DELETE"):
        answer = await cloud.as_("member-2").request(method, f"/networks/{made['id']}")
        assert answer.status_code == 404
    assert await cloud.list("network", caller="member-2") == []
    assert await cloud.list("network", caller="admin") == ["net"]


async def test_only_an_admin_shares_a_network_and_all_then_see_it(cloud):
    for name in ("shared", "router__external"):
        refused = await cloud.make("network", expect=403, **{name: True})
        assert refused["type"] == "PolicyNotAuthorized"
    shared = await cloud.make("network", caller="admin", name="all", shared=True)
    await cloud.make("network", caller="admin", name="out", router__external=True)
    await cloud.make("network", caller="admin", name="own")
    assert sorted(await cloud.list("network", caller="member-2")) == ["all", "out"]
    assert await cloud.list("network", caller="member-2", shared="True") == ["all"]
    answer = await cloud.as_("member-2").delete(f"/networks/{shared['id']}")
    assert answer.status_code == 403


async def test_an_admin_sees_what_a_network_is_on_the_wires(cloud):
    fields = {"provider__network_type": "vlan", "provider__segmentation_id": 7}
    assert (await cloud.make("network", expect=403, **fields))["type"] == "PolicyNotAuthorized"
    made = await cloud.make("network", caller="admin", **fields)
    assert made["provider:segmentation_id"] == 7
    shown = await cloud.as_("member").get(f"/networks/{made['id']}")
    assert "provider:segmentation_id" not in shown.json()["network"]


async def test_networks_made_in_one_body_are_made_all_or_none(cloud):
    body = {"networks": [{"name": "a"}, {"name": "b"}]}
    answer = await cloud.as_().post("/networks", json=body)
    assert [one["name"] for one in answer.json()["networks"]] == ["a", "b"]
    body = {"networks": [{"name": "c"}, {"name": "d", "shared": True}]}
    assert (await cloud.as_().post("/networks", json=body)).status_code == 403
    assert sorted(await cloud.list("network")) == ["a", "b"]


async def test_lists_are_filtered_sorted_cut_and_turned_round(cloud):
    for name in ("b", "a", "c", "d"):
        await cloud.make("network", name=name, admin_state_up=name != "d")
    assert await cloud.list("network", sort_key="name") == ["a", "b", "c", "d"]
    assert await cloud.list("network", sort_key="name", sort_dir="desc") == ["d", "c", "b", "a"]
    assert await cloud.list("network", sort_key="name", name=["a", "c"]) == ["a", "c"]
    assert await cloud.list("network", admin_state_up="false") == ["d"]
    answer = await cloud.as_().get("/networks", params={"fields": ["name"], "name": "a"})
    assert answer.json() == {"networks": [{"name": "a"}]}
    for query in ({"nonsense": "1"}, {"sort_key": "nonsense"}, {"admin_state_up": "maybe"}):
        assert (await cloud.as_().get("/networks", params=query)).status_code == 400


async def test_pages_lead_to_each_other_in_both_directions(cloud):
    for name in "abcde":
        await cloud.make("network", name=name)
    found, back, url = [], [], "/networks?limit=2&sort_key=name"
    while url:
        page = (await cloud.as_().get(url)).json()
        found.append("".join(one["name"] for one in page["networks"]))
        links = {link["rel"]: link["href"] for link in page.get("networks_links", [])}
        back.append(links.get("previous"))
        url = links.get("next")
    assert found == ["ab", "cd", "e"]
    before = (await cloud.as_().get(back[2])).json()
    assert [one["name"] for one in before["networks"]] == ["c", "d"]


async def test_unknown_attributes_and_envelopes_are_named(cloud):
    for method, path in (("POST", "/networks"), ("PUT", "/networks/x")):
        answer = await cloud.as_().request(method, path, json={"network": {"nonsense": 1}})
        assert answer.status_code == 400
        assert answer.json()["NeutronError"] == {
            "type": "HTTPBadRequest",
            "message": "Unrecognized attribute(s) 'nonsense'",
            "detail": "",
        }
        answer = await cloud.as_().request(method, path, json={"net": {}})
        assert answer.status_code == 400
    for body in ({"name": 1}, {"name": "x" * 256}, {"id": "x"}, {"mtu": 10**30}):
        assert (await cloud.as_().post("/networks", json={"network": body})).status_code == 400


async def test_a_member_makes_nothing_for_others_an_admin_does(cloud):
    await cloud.make("network", expect=400, project_id="p2")
    made = await cloud.make("network", caller="admin", tenant_id="p2")
    assert made["project_id"] == "p2"
    refused = await cloud.as_("reader").post("/networks", json={"network": {}})
    assert refused.status_code == 403


async def test_a_change_guarded_by_an_old_revision_is_refused(cloud):
    made = await cloud.make("network")
    path, body = f"/networks/{made['id']}", {"network": {"name": "x"}}
    right = {"If-Match": "revision_number=1"}
    assert (await cloud.as_().put(path, json=body, headers=right)).status_code == 200
    late = await cloud.as_().put(path, json=body, headers=right)
    assert late.status_code == 412
    assert late.json()["NeutronError"]["type"] == "RevisionNumberConstraintFailed"
    assert (await cloud.as_().delete(path, headers=right)).status_code == 412


async def test_a_network_takes_its_subnets_with_it_but_not_its_ports(cloud):
    subnet = await cloud.subnet()
    port = await cloud.make("port", network_id=subnet["network_id"])
    path = f"/networks/{subnet['network_id']}"
    assert (await cloud.as_().get(path)).json()["network"]["subnets"] == [subnet["id"]]
    refused = await cloud.as_().delete(path)
    assert refused.status_code == 409
    assert refused.json()["NeutronError"]["type"] == "NetworkInUse"
    await cloud.as_().delete(f"/ports/{port['id']}")
    assert (await cloud.as_().delete(path)).status_code == 204
    assert (await cloud.as_().get(f"/subnets/{subnet['id']}")).status_code == 404


async def test_the_first_network_is_everybodys_and_made_once(cloud):
    await cloud.networks.ensure_demo_network()
    await cloud.networks.ensure_demo_network()
    assert await cloud.list("network", caller="member-2") == ["shared"]
    assert await cloud.list("subnet", caller="member-2") == ["shared"]
