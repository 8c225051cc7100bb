"""Keypairs through the API: given and made, by whom, and as each version has them."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

# Made for this test; its private half was never kept.
PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHiL7P65nf2GoiwJOY+1cKUIEOtuc5+naXA/lvIdo+z2 me@here"
# Source: `ssh-keygen -l -E md5`, so that the fingerprint is not checked against our own code.
FINGERPRINT = "7d:ad:a9:fd:20:3a:54:40:c2:07:2e:6b:c2:68:fd:bf"


async def make(cloud, name="k", *, by="member", at="2.1", **fields):
    body = {"keypair": {"name": name, **fields}}
    return await cloud.ask("POST", "/os-keypairs", by=by, at=at, json=body)


async def listed(cloud, query="", **kwargs):
    body = await cloud.get(f"/os-keypairs{query}", **{"by": "member", **kwargs})
    return [item["keypair"]["name"] for item in body["keypairs"]]


async def test_a_given_key_is_kept_with_its_fingerprint(cloud):
    answer = await make(cloud, public_key=PUBLIC)
    assert answer.status_code == 200
    made = answer.json()["keypair"]
    assert made["public_key"] == PUBLIC
    assert made["fingerprint"] == FINGERPRINT
    assert set(made) == {"name", "public_key", "fingerprint", "user_id"}
    shown = (await cloud.get("/os-keypairs/k", by="member"))["keypair"]
    assert shown["created_at"] == "2023-11-14T22:13:20.000000"
    assert (shown["deleted"], shown["deleted_at"], shown["updated_at"]) == (False, None, None)
    assert isinstance(shown["id"], int)


@pytest.mark.slow
async def test_a_made_key_is_shown_once_and_fits_its_public_half(cloud):
    made = (await make(cloud, at="2.2")).json()["keypair"]
    private = serialization.load_pem_private_key(made["private_key"].encode(), None)
    public = private.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    assert made["public_key"].startswith(public.decode())
    assert "private_key" not in (await cloud.get("/os-keypairs/k", by="member"))["keypair"]


@pytest.mark.slow
async def test_a_certificate_is_made_for_windows_and_a_given_one_has_the_same_fingerprint(cloud):
    made = (await make(cloud, at="2.2", type="x509")).json()["keypair"]
    certificate = x509.load_pem_x509_certificate(made["public_key"].encode())
    assert (
        b"user-member@localhost"
        in certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        ).value.public_bytes()
    )
    again = await make(cloud, "again", at="2.2", type="x509", public_key=made["public_key"])
    assert again.status_code == 201
    assert again.json()["keypair"]["fingerprint"] == made["fingerprint"]
    assert made["fingerprint"].count(":") == 19


async def test_codes_and_the_type_change_at_2_2(cloud):
    assert (await make(cloud, "a", at="2.1", public_key=PUBLIC)).status_code == 200
    answer = await make(cloud, "b", at="2.2", public_key=PUBLIC)
    assert answer.status_code == 201
    assert answer.json()["keypair"]["type"] == "ssh"
    assert (await make(cloud, "c", at="2.1", type="ssh", public_key=PUBLIC)).status_code == 400
    assert (await cloud.ask("DELETE", "/os-keypairs/a", by="member")).status_code == 202
    assert (await cloud.ask("DELETE", "/os-keypairs/b", by="member", at="2.2")).status_code == 204
    assert (await cloud.ask("DELETE", "/os-keypairs/b", by="member", at="2.2")).status_code == 404


async def test_a_key_is_its_users_own_and_another_user_does_not_find_it(cloud):
    await make(cloud, public_key=PUBLIC)
    assert await listed(cloud) == ["k"]
    assert await listed(cloud, by="manager") == []
    assert (await cloud.ask("GET", "/os-keypairs/k", by="manager")).status_code == 404
    assert (await make(cloud, public_key=PUBLIC)).status_code == 409
    assert (await make(cloud, by="manager", public_key=PUBLIC)).status_code == 200


async def test_an_admin_handles_the_keys_of_others_from_2_10_on(cloud):
    other = "?user_id=user-member"
    fields = {"public_key": PUBLIC, "user_id": "user-member"}
    assert (await make(cloud, by="admin", at="2.9", **fields)).status_code == 400
    answer = await make(cloud, by="admin", at="2.10", **fields)
    assert answer.json()["keypair"]["user_id"] == "user-member"
    assert await listed(cloud) == ["k"]
    assert await listed(cloud, other, by="admin", at="2.10") == ["k"]
    assert await listed(cloud, other, by="admin", at="2.9") == []
    mine = await cloud.ask("GET", "/os-keypairs?user_id=user-admin", by="member", at="2.10")
    assert mine.status_code == 403
    assert (await make(cloud, by="manager", at="2.10", **fields)).status_code == 403
    gone = await cloud.ask("DELETE", f"/os-keypairs/k{other}", by="admin", at="2.10")
    assert gone.status_code == 204
    assert await listed(cloud) == []


async def test_keys_page_by_name_from_2_35_on(cloud):
    for name in ("c", "a", "b"):
        await make(cloud, name, public_key=PUBLIC)
    assert await listed(cloud, "?limit=1") == ["a", "b", "c"]
    body = await cloud.get("/os-keypairs?limit=2", by="member", at="2.35")
    assert [item["keypair"]["name"] for item in body["keypairs"]] == ["a", "b"]
    assert body["keypairs_links"][0]["href"].endswith("marker=b")
    assert await listed(cloud, "?limit=2&marker=b", at="2.35") == ["c"]
    missing = await cloud.ask("GET", "/os-keypairs?marker=x", by="member", at="2.35")
    assert missing.status_code == 400


@pytest.mark.parametrize(
    "fields",
    [
        {"public_key": ""},
        {"public_key": "ssh-rsa"},
        {"public_key": "ssh-rsa " + "A" * 2048 + " openstack@ubuntu"},
        {"public_key": "ssh-rsa JUNK nova@ubuntu"},
        {"public_key": "é"},
        {"public_key": PUBLIC, "name": ""},
        {"public_key": PUBLIC, "name": "a/b"},
        {"public_key": PUBLIC, "name": "x" * 256},
        {"public_key": PUBLIC, "name": " x"},
        {"public_key": PUBLIC, "name": "a@b"},
        {"public_key": PUBLIC, "unknown": 1},
    ],
)
async def test_what_is_no_key_or_no_name_is_refused(cloud, fields):
    answer = await make(cloud, fields.pop("name", "k"), **fields)
    assert answer.status_code == 400, answer.text
    assert await listed(cloud) == []


async def test_a_text_is_no_certificate(cloud):
    answer = await make(cloud, at="2.2", type="x509", public_key=PUBLIC)
    assert answer.status_code == 400


async def test_from_2_92_on_the_public_key_must_be_given_and_names_may_be_addresses(cloud):
    assert (await make(cloud, at="2.92")).status_code == 400
    answer = await make(cloud, "me.and@here x", at="2.92", public_key=PUBLIC)
    assert answer.status_code == 201
    assert await listed(cloud) == ["me.and@here x"]


async def test_a_user_has_as_many_keys_as_the_quota_allows(cloud):
    body = {"quota_set": {"key_pairs": 1}}
    await cloud.ask("PUT", "/os-quota-sets/p1", json=body)
    assert (await make(cloud, "a", public_key=PUBLIC)).status_code == 200
    answer = await make(cloud, "b", public_key=PUBLIC)
    assert answer.status_code == 403
    assert answer.json()["forbidden"]["message"] == "Quota exceeded, too many key pairs."
