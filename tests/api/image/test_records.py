"""The records of images: made, shown, changed, listed, deleted; who sees which."""

from __future__ import annotations

import uuid

import pytest

ONE = "00000000-0000-4000-8000-000000000001"


async def test_an_image_is_queued_until_its_bytes_are_there(cloud):
    image = await cloud.make(name="one", min_disk=2, min_ram=64, tags=["b", "a", "b"], kind="x")
    assert image == {
        "id": image["id"],
        "name": "one",
        "kind": "x",
        "status": "queued",
        "visibility": "shared",
        "protected": False,
        "os_hidden": False,
        "owner": "p1",
        "disk_format": "raw",
        "container_format": "bare",
        "size": None,
        "virtual_size": None,
        "checksum": None,
        "os_hash_algo": None,
        "os_hash_value": None,
        "min_disk": 2,
        "min_ram": 64,
        "tags": ["a", "b"],
        "created_at": "2023-11-14T22:13:20Z",
        "updated_at": "2023-11-14T22:13:20Z",
        "self": f"/v2/images/{image['id']}",
        "file": f"/v2/images/{image['id']}/file",
        "schema": "/v2/schemas/image",
    }
    assert await cloud.show(image["id"]) == image


async def test_the_answer_to_a_create_tells_where_the_image_is(cloud):
    answer = await cloud.ask("POST", "/v2/images", json={"id": ONE})
    assert answer.headers["location"] == f"http://cloud/image/v2/images/{ONE}"
    assert answer.headers["openstack-image-import-methods"] == "glance-direct"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"id": "no-uuid"}, 400),
        ({"id": 5}, 400),
        ({"name": "x" * 256}, 400),
        ({"name": 7}, 400),
        ({"visibility": "everyone"}, 400),
        ({"visibility": "public"}, 403),
        ({"disk_format": "exe"}, 400),
        ({"container_format": "box"}, 400),
        ({"min_disk": -1}, 400),
        ({"min_ram": 2**31}, 400),
        ({"min_ram": 2**70}, 400),
        ({"min_ram": "5"}, 400),
        ({"protected": "yes"}, 400),
        ({"tags": ["x" * 256]}, 400),
        ({"tags": "a"}, 400),
        ({"tags": [str(at) for at in range(129)]}, 413),
        ({"kind": 5}, 400),
        ({"kind": None}, 400),
        ({"x" * 256: "a"}, 400),
        ({"": "a"}, 400),
        ({"kind": "x" * 65536}, 400),
        ({"owner": "p2"}, 403),
        ({"status": "active"}, 403),
        ({"checksum": "0"}, 403),
        ({"deleted": "true"}, 403),
        ({"locations": "[]"}, 403),
        ({"os_glance_import_task": "x"}, 403),
        ([], 400),
        ("text", 400),
        (None, 400),
    ],
)
async def test_a_create_body_that_is_wrong_is_refused(cloud, body, code):
    answer = await cloud.ask("POST", "/v2/images", json=body)
    assert answer.status_code == code, answer.text
    assert await cloud.names() == []


async def test_128_properties_are_the_limit(cloud):
    image = await cloud.make(**{f"k{at}": "v" for at in range(128)})
    body = {f"k{at}": "v" for at in range(129)}
    assert (await cloud.ask("POST", "/v2/images", json=body)).status_code == 413
    more = {"op": "add", "path": "/k128", "value": "v"}
    assert (await cloud.patch(image["id"], more)).status_code == 413


async def test_an_id_is_taken_once(cloud):
    await cloud.make(id=ONE)
    answer = await cloud.ask("POST", "/v2/images", json={"id": ONE.upper()})
    assert answer.status_code == 409
    by_other = await cloud.ask("POST", "/v2/images", by="member-2", json={"id": ONE})
    assert by_other.status_code == 409


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
@pytest.mark.parametrize("image_id", ["none", ONE, "%2e%2e%2f", "x" * 2000])
async def test_what_is_not_there_is_not_found(cloud, method, image_id):
    media = "application/openstack-images-v2.1-json-patch"
    answer = await cloud.ask(
        method, f"/v2/images/{image_id}", content=b"[]", headers={"Content-Type": media}
    )
    assert answer.status_code == 404


#: By visibility: who sees an image of p1, and who has it in a plain list.
SEEN = {
    "private": ({"member", "reader", "admin"}, {"member", "reader", "admin"}),
    "shared": ({"member", "reader", "admin"}, {"member", "reader", "admin"}),
    "community": (
        {"member", "reader", "admin", "member-2", "reader-2"},
        {"member", "reader", "admin"},
    ),
    "public": (
        {"member", "reader", "admin", "member-2", "reader-2"},
        {"member", "reader", "admin", "member-2", "reader-2"},
    ),
}


@pytest.mark.parametrize("visibility", SEEN)
async def test_who_sees_an_image_is_a_matter_of_its_visibility(cloud, visibility):
    image = await cloud.make(by="admin", name="it", visibility=visibility)
    shows, lists = SEEN[visibility]
    for caller in ("member", "reader", "admin", "member-2", "reader-2"):
        answer = await cloud.ask("GET", f"/v2/images/{image['id']}", by=caller)
        assert answer.status_code == (200 if caller in shows else 404), caller
        assert await cloud.names(by=caller) == (["it"] if caller in lists else []), caller
        asked = await cloud.names(by=caller, visibility=visibility)
        assert asked == (["it"] if caller in shows else []), caller


@pytest.mark.parametrize("visibility", ["community", "public"])
async def test_what_others_see_they_may_not_change(cloud, visibility):
    image = await cloud.make(by="admin", visibility=visibility)
    path = f"/v2/images/{image['id']}"
    rename = {"op": "replace", "path": "/name", "value": "mine"}
    assert (await cloud.patch(image["id"], rename, by="member-2")).status_code == 403
    assert (await cloud.ask("DELETE", path, by="member-2")).status_code == 403
    assert (await cloud.ask("PUT", path + "/tags/x", by="member-2")).status_code == 403
    assert (await cloud.upload(image["id"], by="member-2")).status_code == 403
    deactivate = await cloud.ask("POST", path + "/actions/deactivate", by="member-2")
    assert deactivate.status_code == 403


async def test_a_patch_of_the_present_kind_changes_fields_and_properties(cloud):
    image = await cloud.make(name="one", kind="x", gone="y")
    answer = await cloud.patch(
        image["id"],
        {"op": "replace", "path": "/name", "value": "two"},
        {"op": "replace", "path": "/kind", "value": "z"},
        {"op": "remove", "path": "/gone"},
        {"op": "add", "path": "/a~1b~0c", "value": "slash"},
        {"op": "replace", "path": "/tags", "value": ["t", "s", "t"]},
        {"op": "replace", "path": "/protected", "value": True},
        {"op": "replace", "path": "/min_ram", "value": 9},
    )
    assert answer.status_code == 200, answer.text
    after = answer.json()
    wanted = {"name": "two", "kind": "z", "a/b~c": "slash", "tags": ["s", "t"], "min_ram": 9}
    assert {key: after[key] for key in wanted} == wanted
    assert after["protected"] is True
    assert "gone" not in after
    assert await cloud.show(image["id"]) == after


async def test_a_patch_of_the_old_kind_names_its_verb_as_the_key(cloud):
    image = await cloud.make(name="one", gone="y")
    answer = await cloud.patch(
        image["id"],
        {"replace": "/name", "value": "two"},
        {"add": "/kind", "value": "x"},
        {"remove": "/gone"},
        media="v2.0",
    )
    assert answer.status_code == 200, answer.text
    assert (answer.json()["name"], answer.json()["kind"]) == ("two", "x")
    assert "gone" not in answer.json()


async def test_a_patch_in_plain_json_is_of_no_kind_that_is_known(cloud):
    image = await cloud.make()
    answer = await cloud.ask("PATCH", f"/v2/images/{image['id']}", json=[])
    assert answer.status_code == 415


@pytest.mark.parametrize(
    ("operation", "code"),
    [
        ({"op": "replace", "path": "/nothing", "value": "x"}, 409),
        ({"op": "remove", "path": "/nothing"}, 409),
        ({"op": "replace", "path": "/id", "value": ONE}, 403),
        ({"op": "replace", "path": "/status", "value": "active"}, 403),
        ({"op": "replace", "path": "/size", "value": 5}, 403),
        ({"op": "replace", "path": "/owner", "value": "p2"}, 403),
        ({"op": "replace", "path": "/visibility", "value": "public"}, 403),
        ({"op": "add", "path": "/locations", "value": []}, 403),
        ({"op": "remove", "path": "/visibility"}, 403),
        ({"op": "replace", "path": "/visibility", "value": "all"}, 400),
        ({"op": "replace", "path": "/tags", "value": [5]}, 400),
        ({"op": "replace", "path": "/min_disk", "value": 2**63}, 400),
        ({"op": "add", "path": "/kind", "value": {"a": 1}}, 400),
        ({"op": "add", "path": "/a/b", "value": "x"}, 400),
        ({"op": "add", "path": "kind", "value": "x"}, 400),
        ({"op": "add", "path": "/", "value": "x"}, 400),
        ({"op": "add", "path": 5, "value": "x"}, 400),
        ({"op": "add", "path": "/kind"}, 400),
        ({"op": "move", "path": "/kind", "from": "/name"}, 400),
        ({"op": ["add"], "path": "/kind", "value": "x"}, 400),
        ({"path": "/kind", "value": "x"}, 400),
        ("add", 400),
    ],
)
async def test_a_patch_that_is_wrong_changes_nothing(cloud, operation, code):
    image = await cloud.make(name="one")
    rename = {"op": "replace", "path": "/name", "value": "two"}
    answer = await cloud.patch(image["id"], rename, operation)
    assert answer.status_code == code, answer.text
    assert await cloud.show(image["id"]) == image


async def test_a_format_is_changed_only_before_the_bytes(cloud):
    image = await cloud.make()
    change = {"op": "replace", "path": "/disk_format", "value": "vhd"}
    assert (await cloud.patch(image["id"], change)).status_code == 200
    active = await cloud.make_active()
    assert (await cloud.patch(active["id"], change)).status_code == 403


async def test_an_admin_may_make_public_and_give_away(cloud):
    image = await cloud.make()
    changes = [
        {"op": "replace", "path": "/visibility", "value": "public"},
        {"op": "replace", "path": "/owner", "value": "p2"},
    ]
    answer = await cloud.patch(image["id"], *changes, by="admin")
    assert answer.json()["owner"] == "p2"
    rename = {"op": "replace", "path": "/name", "value": "x"}
    assert (await cloud.patch(image["id"], rename, by="member-2")).status_code == 200


async def test_a_protected_image_is_not_deleted(cloud):
    image = await cloud.make_active(protected=True)
    assert (await cloud.ask("DELETE", f"/v2/images/{image['id']}")).status_code == 403
    await cloud.patch(image["id"], {"op": "replace", "path": "/protected", "value": False})
    assert (await cloud.ask("DELETE", f"/v2/images/{image['id']}")).status_code == 204
    assert (await cloud.ask("DELETE", f"/v2/images/{image['id']}")).status_code == 404
    assert await cloud.store.list() == []


async def test_tags_are_added_and_removed_one_by_one(cloud):
    image = await cloud.make()
    path = f"/v2/images/{image['id']}/tags/"
    for tag in ("b", "a%20c", "b"):
        assert (await cloud.ask("PUT", path + tag)).status_code == 204
    assert (await cloud.show(image["id"]))["tags"] == ["a c", "b"]
    assert (await cloud.ask("DELETE", path + "b")).status_code == 204
    assert (await cloud.ask("DELETE", path + "b")).status_code == 404
    assert (await cloud.ask("PUT", path + "x" * 256)).status_code == 400
    assert (await cloud.show(image["id"]))["tags"] == ["a c"]


async def test_the_129th_tag_is_too_many(cloud):
    image = await cloud.make(tags=[str(at) for at in range(128)])
    path = f"/v2/images/{image['id']}/tags/"
    assert (await cloud.ask("PUT", path + "5")).status_code == 204
    assert (await cloud.ask("PUT", path + "new")).status_code == 413


# -- lists


@pytest.fixture
async def many(cloud, clock):
    """Five images: a to e, an hour apart."""
    for at, name in enumerate("caebd"):
        await cloud.make(
            name=name,
            min_ram=at,
            min_disk=at % 2,
            disk_format=("raw", "qcow2", "vhd")[at % 3],
            tags=[name, "all"],
            kind=name * 2,
            protected=name == "a",
        )
        await clock.advance(3600)
    return cloud


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({}, "dbeac"),
        ({"sort_key": "name", "sort_dir": "asc"}, "abcde"),
        ({"sort": "name:desc"}, "edcba"),
        ({"sort": "min_disk:asc,name:asc"}, "cdeab"),
        ({"sort": "disk_format,min_ram:asc"}, "ecbad"),
        ({"name": "a"}, "a"),
        ({"name": "in:a,b,z"}, "ba"),
        ({"name": 'in:"a",c'}, "ac"),
        ({"disk_format": "in:qcow2,vhd"}, "dea"),
        ({"min_ram": "3"}, "b"),
        ({"protected": "true"}, "a"),
        ({"tag": "all"}, "dbeac"),
        ({"tag": ["all", "b"]}, "b"),
        ({"tag": "A"}, ""),
        ({"tag": "l"}, ""),
        ({"kind": "aa"}, "a"),
        ({"kind": "AA"}, ""),
        ({"kind": "a"}, ""),
        ({"kind": "%"}, ""),
        ({"other": "aa"}, ""),
        ({"status": "queued"}, "dbeac"),
        ({"status": "in:active,deactivated"}, ""),
        ({"owner": "p2"}, ""),
        ({"visibility": "shared"}, "dbeac"),
        ({"visibility": "private"}, ""),
        ({"visibility": "all"}, "dbeac"),
        ({"os_hidden": "true"}, ""),
        ({"size_min": "1"}, ""),
        ({"created_at": "2023-11-14T22:13:20Z"}, "c"),
        ({"created_at": "gt:2023-11-14T22:13:20Z"}, "dbea"),
        ({"created_at": "gte:2023-11-14T23:13:20Z"}, "dbea"),
        ({"created_at": "lt:2023-11-14T23:13:20Z"}, "c"),
        ({"created_at": "lte:2023-11-14T23:13:20Z"}, "ac"),
        ({"created_at": "neq:2023-11-14T22:13:20Z"}, "dbea"),
        ({"updated_at": "eq:2023-11-14T23:13:20+00:00"}, "a"),
        ({"limit": "2"}, "db"),
        ({"limit": "0"}, ""),
    ],
)
async def test_a_list_is_filtered_and_ordered(many, query, names):
    assert "".join(await many.names(**query)) == names


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "-1"},
        {"limit": "x"},
        {"limit": "²"},
        {"marker": "none"},
        {"marker": str(uuid.UUID(int=1))},
        {"sort_key": "secret"},
        {"sort_key": "name", "sort_dir": "up"},
        {"sort": "name:sideways"},
        {"visibility": "mine"},
        {"member_status": "maybe"},
        {"protected": "perhaps"},
        {"os_hidden": "perhaps"},
        {"created_at": "yesterday"},
        {"created_at": "gt:"},
        {"created_at": "9999999999999-01-01"},
        {"size_min": "x"},
        {"size_max": "9" * 30},
        {"min_ram": "1.5"},
        {"name": "in:"},
        {"name": 'in:"a'},
    ],
)
async def test_a_query_that_makes_no_sense_is_refused(cloud, query):
    answer = await cloud.ask("GET", "/v2/images", params=query)
    assert answer.status_code == 400, answer.text


@pytest.mark.parametrize("order", [{}, {"sort": "min_disk:asc,disk_format:desc"}])
async def test_pages_are_walked_by_their_links_without_gap_or_repeat(many, order):
    everything = await many.names(**order)
    answer = await many.ask("GET", "/v2/images", params={"limit": 2, **order})
    seen = []
    for _ in range(3):
        body = answer.json()
        seen += [image["name"] for image in body["images"]]
        assert body["first"].startswith("/v2/images?limit=2")
        if "next" not in body:
            break
        answer = await many.ask("GET", body["next"])
    assert seen == everything


async def test_a_page_without_a_limit_has_25(cloud):
    for at in range(26):
        await cloud.make(name=str(at))
    assert len(await cloud.names()) == 25
    assert len(await cloud.names(limit=5000)) == 26


async def test_a_hidden_image_is_listed_only_when_asked_for(cloud):
    image = await cloud.make(name="old", os_hidden=True)
    assert await cloud.names() == []
    assert await cloud.names(os_hidden="true") == ["old"]
    assert (await cloud.show(image["id"]))["os_hidden"] is True


async def test_an_admin_lists_all_but_others_community_images(cloud):
    for visibility in ("private", "shared", "community"):
        await cloud.make(by="member-2", name=visibility, visibility=visibility)
    assert sorted(await cloud.names(by="admin")) == ["private", "shared"]
    assert len(await cloud.names(by="admin", visibility="all")) == 3


# -- members


async def test_a_shared_image_is_seen_by_its_member_and_listed_once_accepted(cloud):
    image = await cloud.make(name="it")
    path = f"/v2/images/{image['id']}"
    made = await cloud.ask("POST", path + "/members", json={"member": "p2"})
    assert made.status_code == 200
    assert made.json() == {
        "image_id": image["id"],
        "member_id": "p2",
        "status": "pending",
        "created_at": image["created_at"],
        "updated_at": image["updated_at"],
        "schema": "/v2/schemas/member",
    }
    assert (await cloud.show(image["id"], by="member-2"))["name"] == "it"
    assert await cloud.names(by="member-2") == []
    assert await cloud.names(by="member-2", visibility="shared", member_status="pending") == ["it"]
    accepted = await cloud.ask(
        "PUT", path + "/members/p2", by="member-2", json={"status": "accepted"}
    )
    assert accepted.json()["status"] == "accepted"
    assert await cloud.names(by="member-2") == ["it"]
    listed = await cloud.ask("GET", path + "/members")
    assert [one["status"] for one in listed.json()["members"]] == ["accepted"]
    assert (await cloud.ask("GET", path + "/members/p2", by="member-2")).status_code == 200
    assert (await cloud.ask("DELETE", path + "/members/p2")).status_code == 204
    assert (await cloud.ask("GET", path, by="member-2")).status_code == 404


async def test_members_are_refused_where_they_make_no_sense(cloud):
    image = await cloud.make()
    path = f"/v2/images/{image['id']}/members"
    assert (await cloud.ask("POST", path, json={"member": "p2"})).status_code == 200
    assert (await cloud.ask("POST", path, json={"member": "p2"})).status_code == 409
    for body in ({"member": ""}, {"member": 5}, {}, {"member": "p3", "more": 1}):
        assert (await cloud.ask("POST", path, json=body)).status_code == 400
    assert (await cloud.ask("GET", path + "/p9")).status_code == 404
    assert (await cloud.ask("DELETE", path + "/p9")).status_code == 404
    assert (await cloud.ask("PUT", path + "/p9", json={"status": "accepted"})).status_code == 404
    own = await cloud.ask("PUT", path + "/p2", json={"status": "accepted"})
    assert own.status_code == 403
    wrong = await cloud.ask("PUT", path + "/p2", by="member-2", json={"status": "maybe"})
    assert wrong.status_code == 400
    by_member = await cloud.ask("POST", path, by="member-2", json={"member": "p3"})
    assert by_member.status_code == 403
    private = await cloud.make(visibility="private")
    path = f"/v2/images/{private['id']}/members"
    assert (await cloud.ask("POST", path, json={"member": "p2"})).status_code == 403


async def test_the_129th_member_is_too_many(cloud):
    image = await cloud.make()
    path = f"/v2/images/{image['id']}/members"
    for at in range(128):
        assert (await cloud.ask("POST", path, json={"member": f"m{at}"})).status_code == 200
    assert (await cloud.ask("POST", path, json={"member": "more"})).status_code == 413


# -- what else there is


async def test_versions_are_told_without_a_token(cloud):
    root = await cloud.ask("GET", "/", by=None)
    assert root.status_code == 300
    versions = (await cloud.ask("GET", "/versions", by=None)).json()["versions"]
    assert root.json()["versions"] == versions
    assert [one["id"] for one in versions if one["status"] == "CURRENT"] == ["v2.17"]
    assert versions[0]["links"] == [{"rel": "self", "href": "http://cloud/image/v2/"}]


@pytest.mark.parametrize("kind", ["image", "images", "member", "members"])
async def test_schemas_describe_what_is_answered(cloud, kind):
    schema = (await cloud.ask("GET", f"/v2/schemas/{kind}")).json()
    assert schema["name"] == kind
    if kind == "image":
        assert set(await cloud.make()) <= set(schema["properties"])


async def test_what_the_service_offers_is_told(cloud):
    info = (await cloud.ask("GET", "/v2/info/import")).json()
    assert info["import-methods"]["value"] == ["glance-direct"]
    assert (await cloud.ask("GET", "/v2/tasks", by="admin")).json()["tasks"] == []
    assert (await cloud.ask("GET", "/v2/tasks")).status_code == 403
