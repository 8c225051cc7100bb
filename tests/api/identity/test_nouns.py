"""Projects, domains, users, groups, roles, grants and the catalog, through the API."""

from __future__ import annotations

import pytest


async def test_a_project_is_made_shown_changed_and_deleted(cloud):
    made = await cloud.make("project", name="p1", description="first", colour="blue")
    assert made["domain_id"] == "default"
    assert made["parent_id"] == "default"
    assert (made["enabled"], made["is_domain"], made["options"], made["tags"]) == (
        True,
        False,
        {},
        [],
    )
    assert made["colour"] == "blue"
    url = f"/projects/{made['id']}"
    assert made["links"]["self"] == f"http://cloud/identity/v3{url}"
    assert (await cloud.admin.get(url)).json()["project"] == made
    body = {"project": {"name": "p2", "colour": "red"}}
    changed = (await cloud.admin.patch(url, json=body)).json()["project"]
    assert (changed["name"], changed["description"], changed["colour"]) == ("p2", "first", "red")
    assert (await cloud.admin.delete(url)).status_code == 204
    gone = await cloud.admin.get(url)
    assert gone.status_code == 404
    assert gone.json()["error"]["title"] == "Not Found"


@pytest.mark.parametrize(
    ("noun", "fields"),
    [
        ("project", {"name": "twice"}),
        ("domain", {"name": "twice"}),
        ("user", {"name": "twice"}),
        ("group", {"name": "twice"}),
        ("role", {"name": "twice"}),
        ("region", {"id": "twice"}),
    ],
)
async def test_a_name_is_given_once(cloud, noun, fields):
    await cloud.make(noun, **fields)
    again = await cloud.admin.post(f"/{noun}s", json={noun: fields})
    assert again.status_code == 409


@pytest.mark.parametrize(
    ("noun", "fields"),
    [
        ("project", {}),
        ("project", {"name": ""}),
        ("project", {"name": "x" * 65}),
        ("project", {"name": 7}),
        ("project", {"name": "a\x00b"}),
        ("project", {"name": "p", "enabled": "maybe"}),
        ("project", {"name": "p", "tags": ["a,b"]}),
        ("user", {"name": "x" * 256}),
        ("user", {"name": "u", "password": 7}),
        ("domain", {"name": " "}),
        ("group", {"name": ["x"]}),
        ("role", {"name": "x" * 256}),
        ("region", {"id": "x" * 256}),
        ("service", {"name": "no type"}),
        ("endpoint", {"url": "nowhere", "interface": "public", "service_id": "x"}),
        ("endpoint", {"url": "http://x", "interface": "public", "service_id": "missing"}),
        ("credential", {"type": "ec2", "blob": "{}", "project_id": "p"}),
    ],
)
async def test_what_is_malformed_is_refused(cloud, noun, fields):
    answer = await cloud.admin.post(f"/{noun}s", json={noun: fields})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] == 400


@pytest.mark.parametrize(
    "path", ["projects", "domains", "users", "groups", "roles", "regions", "services", "endpoints"]
)
async def test_what_is_not_there_is_not_found(cloud, path):
    for method in ("GET", "DELETE"):
        assert (await cloud.admin.request(method, f"/{path}/missing")).status_code == 404


async def test_lists_are_filtered_and_come_in_pages(cloud):
    for name in ("alpha", "beta", "Alpine"):
        await cloud.make("user", name=name, enabled=name != "beta")

    async def names(query):
        return {user["name"] for user in (await cloud.admin.get(f"/users?{query}")).json()["users"]}

    assert await names("name=alpha") == {"alpha"}
    assert await names("name__icontains=ALP") == {"alpha", "Alpine"}
    assert await names("name__startswith=b") == {"beta"}
    assert await names("name__contains=%25") == set()
    assert await names("enabled=false") == {"beta"}
    found, url = [], "/users?limit=2"
    while url:
        page = (await cloud.admin.get(url)).json()
        assert len(page["users"]) <= 2
        found += [user["name"] for user in page["users"]]
        url = page["links"]["next"]
    assert sorted(found) == ["Alpine", "admin", "alpha", "beta", "demo"]
    assert (await cloud.admin.get("/users?limit=x")).status_code == 400


async def test_projects_nest_and_a_parent_is_not_deleted_before_its_children(cloud):
    top = await cloud.make("project", name="top")
    below = await cloud.make("project", name="below", parent_id=top["id"])
    assert below["domain_id"] == "default"
    assert (await cloud.admin.delete(f"/projects/{top['id']}")).status_code == 403
    shown = await cloud.admin.get(f"/projects/{top['id']}?subtree_as_ids")
    assert shown.json()["project"]["subtree"] == {below["id"]: None}
    shown = await cloud.admin.get(f"/projects/{below['id']}?parents_as_list")
    assert [one["project"]["id"] for one in shown.json()["project"]["parents"]] == [top["id"]]


async def test_tags_select_projects(cloud):
    made = await cloud.make("project", name="tagged", tags=["a", "b"])
    await cloud.make("project", name="other", tags=["b"])
    url = f"/projects/{made['id']}/tags"
    assert (await cloud.admin.put(url + "/c")).status_code == 201
    assert (await cloud.admin.get(url)).json()["tags"] == ["a", "b", "c"]
    assert (await cloud.admin.get(url + "/c")).status_code == 204
    found = (await cloud.admin.get("/projects?tags=a,b")).json()["projects"]
    assert [project["name"] for project in found] == ["tagged"]
    found = (await cloud.admin.get("/projects?tags-any=b&not-tags=c")).json()["projects"]
    assert [project["name"] for project in found] == ["other"]
    assert (await cloud.admin.delete(url)).status_code == 204
    assert (await cloud.admin.get(url + "/a")).status_code == 404


async def test_a_domain_is_disabled_before_it_is_deleted_with_all_that_is_in_it(cloud):
    domain = await cloud.make("domain", name="d")
    user = await cloud.make("user", name="u", domain_id=domain["id"], password="p")
    project = await cloud.make("project", name="p", domain_id=domain["id"])
    url = f"/domains/{domain['id']}"
    assert (await cloud.admin.delete(url)).status_code == 403
    await cloud.admin.patch(url, json={"domain": {"enabled": False}})
    assert (await cloud.sign_in("u", "p", domain=domain["id"])).status_code == 401
    assert (await cloud.admin.delete(url)).status_code == 204
    assert (await cloud.admin.get(f"/users/{user['id']}")).status_code == 404
    assert (await cloud.admin.get(f"/projects/{project['id']}")).status_code == 404


async def test_a_user_is_never_shown_with_a_password(cloud):
    made = await cloud.make("user", name="u", password="s3cret", email="u@example.org")
    assert made["email"] == "u@example.org"
    text = (await cloud.admin.get(f"/users/{made['id']}")).text
    assert "s3cret" not in text
    assert "argon2" not in text


async def test_a_group_gives_its_members_its_roles(cloud):
    user = await cloud.make("user", name="u", password="p")
    group = await cloud.make("group", name="g")
    project = await cloud.make("project", name="shared")
    role = await cloud.role_id("reader")
    grant = f"/projects/{project['id']}/groups/{group['id']}/roles/{role}"
    assert (await cloud.admin.put(grant)).status_code == 204
    scope = {"project": {"id": project["id"]}}
    assert (await cloud.sign_in("u", "p", scope=scope)).status_code == 401
    member = f"/groups/{group['id']}/users/{user['id']}"
    assert (await cloud.admin.head(member)).status_code == 404
    assert (await cloud.admin.put(member)).status_code == 204
    assert (await cloud.admin.head(member)).status_code == 204
    token = await cloud.token("u", "p", scope=scope)
    listed = (await cloud.admin.get(f"/users/{user['id']}/projects")).json()["projects"]
    assert [one["name"] for one in listed] == ["shared"]
    assert (await cloud.admin.delete(member)).status_code == 204
    assert not await cloud.is_good(token)


@pytest.mark.parametrize("actor", ["user", "group"])
@pytest.mark.parametrize("scope", ["project", "domain", "system"])
@pytest.mark.parametrize("is_inherited", [False, True])
async def test_a_grant_is_given_checked_listed_and_taken(cloud, actor, scope, is_inherited):
    if scope == "system" and is_inherited:
        return
    who = await cloud.make(actor, name="someone")
    where = "/system"
    if scope != "system":
        thing = await cloud.make(scope, name="something")
        where = f"/{scope}s/{thing['id']}"
    before, after = ("/OS-INHERIT", "/inherited_to_projects") if is_inherited else ("", "")
    base = f"{before}{where}/{actor}s/{who['id']}/roles"
    one = f"{base}/{await cloud.role_id('member')}{after}"
    assert (await cloud.admin.head(one)).status_code == 404
    assert (await cloud.admin.put(one)).status_code == 204
    assert (await cloud.admin.put(one)).status_code == 204
    assert (await cloud.admin.head(one)).status_code == 204
    assert (await cloud.admin.get(one)).status_code == 204
    roles = (await cloud.admin.get(base + after)).json()["roles"]
    assert [role["name"] for role in roles] == ["member"]
    listed = await cloud.admin.get(f"/role_assignments?{actor}.id={who['id']}&include_names")
    (entry,) = listed.json()["role_assignments"]
    assert entry["role"]["name"] == "member"
    assert entry[actor]["domain"] == {"id": "default", "name": "Default"}
    assert entry["scope"].get("OS-INHERIT:inherited_to") == ("projects" if is_inherited else None)
    assert entry["links"]["assignment"] == f"http://cloud/identity/v3{one}"
    assert (await cloud.admin.delete(one)).status_code == 204
    assert (await cloud.admin.delete(one)).status_code == 404


async def test_an_inherited_grant_holds_below_and_not_on_the_domain(cloud):
    user = await cloud.make("user", name="u", password="p")
    project = await cloud.make("project", name="below")
    role = await cloud.role_id("member")
    base = f"/OS-INHERIT/domains/default/users/{user['id']}/roles/{role}/inherited_to_projects"
    assert (await cloud.admin.put(base)).status_code == 204
    token = (await cloud.sign_in("u", "p", scope={"project": {"id": project["id"]}})).json()
    assert [one["name"] for one in token["token"]["roles"]] == ["member", "reader"]
    answer = await cloud.sign_in("u", "p", scope={"domain": {"id": "default"}})
    assert answer.status_code == 401
    query = f"effective&user.id={user['id']}&scope.project.id={project['id']}"
    listed = (await cloud.admin.get(f"/role_assignments?{query}")).json()["role_assignments"]
    assert {one["role"]["id"] for one in listed} == {role, await cloud.role_id("reader")}


async def test_roles_imply_each_other_and_never_themselves(cloud):
    upper, lower = await cloud.make("role", name="upper"), await cloud.make("role", name="lower")
    url = f"/roles/{upper['id']}/implies/{lower['id']}"
    assert (await cloud.admin.head(url)).status_code == 404
    assert (await cloud.admin.put(url)).status_code == 201
    assert (await cloud.admin.head(url)).status_code == 204
    shown = (await cloud.admin.get(url)).json()["role_inference"]
    assert (shown["prior_role"]["name"], shown["implies"]["name"]) == ("upper", "lower")
    back = f"/roles/{lower['id']}/implies/{upper['id']}"
    assert (await cloud.admin.put(back)).status_code == 400
    admin = f"/roles/{upper['id']}/implies/{await cloud.role_id('admin')}"
    assert (await cloud.admin.put(admin)).status_code == 403
    rules = (await cloud.admin.get("/role_inferences")).json()["role_inferences"]
    names = {rule["prior_role"]["name"]: [one["name"] for one in rule["implies"]] for rule in rules}
    assert names == {
        "admin": ["manager"],
        "manager": ["member"],
        "member": ["reader"],
        "upper": ["lower"],
    }
    assert (await cloud.admin.delete(url)).status_code == 204
    assert (await cloud.admin.delete(url)).status_code == 404


async def test_the_role_admin_is_immutable(cloud):
    url = f"/roles/{await cloud.role_id('admin')}"
    assert (await cloud.admin.delete(url)).status_code == 403
    assert (await cloud.admin.patch(url, json={"role": {"name": "x"}})).status_code == 403


async def test_a_service_with_endpoints_appears_in_the_catalog_and_goes_with_it(cloud):
    service = await cloud.make("service", type="dns", name="designate")
    endpoint = await cloud.make(
        "endpoint",
        service_id=service["id"],
        interface="public",
        region_id="RegionOne",
        url="http://dns/%(tenant_id)s",
    )
    assert endpoint["region"] == "RegionOne"
    entries = (await cloud.admin.get("/auth/catalog")).json()["catalog"]
    entry = next(entry for entry in entries if entry["type"] == "dns")
    assert entry["endpoints"][0]["url"] == f"http://dns/{await cloud.project_id('admin')}"
    url = f"/endpoints/{endpoint['id']}"
    off = (await cloud.admin.patch(url, json={"endpoint": {"enabled": False}})).json()["endpoint"]
    assert off["enabled"] is False
    assert (await cloud.admin.delete("/regions/RegionOne")).status_code == 403
    assert (await cloud.admin.delete(f"/services/{service['id']}")).status_code == 204
    assert (await cloud.admin.get(url)).status_code == 404


async def test_regions_stand_below_one_another_and_never_below_themselves(cloud):
    await cloud.make("region", id="south", parent_region_id="RegionOne")
    found = (await cloud.admin.get("/regions?parent_region_id=RegionOne")).json()["regions"]
    assert [region["id"] for region in found] == ["south"]
    loop = {"region": {"parent_region_id": "south"}}
    assert (await cloud.admin.patch("/regions/RegionOne", json=loop)).status_code == 400


async def test_a_second_start_keeps_what_operators_changed_and_mends_its_own_addresses(cloud):
    from xenith.identity import CatalogEntry

    user = (await cloud.admin.get("/users?name=demo")).json()["users"][0]
    await cloud.admin.delete(f"/users/{user['id']}")
    moved = [CatalogEntry("identity", "keystone", "http://moved/identity/v3")]
    await cloud.identity.bootstrap(admin_password="other", demo_password="other", catalog=moved)
    assert (await cloud.admin.get("/users?name=demo")).json()["users"] == []
    assert (await cloud.sign_in()).status_code == 201
    entries = (await cloud.admin.get("/auth/catalog")).json()["catalog"]
    assert [entry["type"] for entry in entries] == ["identity"]
    assert {one["url"] for one in entries[0]["endpoints"]} == {"http://moved/identity/v3"}


async def test_a_domains_manager_rules_in_it_and_nowhere_else(cloud):
    domain = await cloud.make("domain", name="d")
    boss = await cloud.make("user", name="boss", domain_id=domain["id"], password="p")
    manager, admin = await cloud.role_id("manager"), await cloud.role_id("admin")
    await cloud.admin.put(f"/domains/{domain['id']}/users/{boss['id']}/roles/{manager}")
    scope = {"domain": {"id": domain["id"]}}
    own = cloud.client(await cloud.token("boss", "p", domain=domain["id"], scope=scope))

    made = await own.post("/users", json={"user": {"name": "clerk"}})
    assert made.status_code == 201
    assert made.json()["user"]["domain_id"] == domain["id"]
    clerk = made.json()["user"]["id"]
    project = (await own.post("/projects", json={"project": {"name": "p"}})).json()["project"]
    base = f"/projects/{project['id']}/users/{clerk}/roles"
    assert (await own.put(f"{base}/{manager}")).status_code == 204
    assert (await own.put(f"{base}/{admin}")).status_code == 403
    names = {user["name"] for user in (await own.get("/users")).json()["users"]}
    assert names == {"boss", "clerk"}

    demo = (await cloud.admin.get("/users?name=demo")).json()["users"][0]["id"]
    elsewhere = await cloud.project_id("demo")
    for method, path, body in (
        ("GET", f"/users/{demo}", None),
        ("PATCH", f"/users/{demo}", {"user": {"password": "mine"}}),
        ("DELETE", f"/users/{demo}", None),
        ("POST", "/users", {"user": {"name": "x", "domain_id": "default"}}),
        ("GET", f"/projects/{elsewhere}", None),
        ("DELETE", f"/projects/{elsewhere}", None),
        ("POST", "/projects", {"project": {"name": "x", "parent_id": elsewhere}}),
        ("PUT", f"/projects/{elsewhere}/users/{clerk}/roles/{manager}", None),
        ("GET", f"/projects/{elsewhere}/users/{demo}/roles", None),
        ("PUT", f"/projects/{project['id']}/users/{demo}/roles/{manager}", None),
    ):
        answer = await own.request(method, path, json=body)
        assert answer.status_code == 403, (method, path, answer.text)
    query = {
        assignment["scope"].get("project", {}).get("id")
        for assignment in (await own.get("/role_assignments")).json()["role_assignments"]
    }
    assert elsewhere not in query


async def test_a_policy_is_kept_as_it_came(cloud):
    made = await cloud.make("policy", type="application/json", blob={"default": False})
    assert made["blob"] == {"default": False}
    url = f"/policies/{made['id']}"
    changed = await cloud.admin.patch(url, json={"policy": {"blob": "text"}})
    assert changed.json()["policy"]["blob"] == "text"
    listed = (await cloud.admin.get("/policies?type=application/json")).json()["policies"]
    assert [one["id"] for one in listed] == [made["id"]]
    assert (await cloud.admin.delete(url)).status_code == 204
    assert (await cloud.admin.get(url)).status_code == 404
