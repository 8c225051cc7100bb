"""The same service on PostgreSQL, where transactions run in threads and commits race."""

from __future__ import annotations

import asyncio

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.e2e]


@pytest.fixture
def database_url(fresh_postgres_url):
    return fresh_postgres_url


async def test_tokens_are_made_and_voided_on_postgresql(cloud):
    project = await cloud.make("project", name="p", tags=["a"])
    user = await cloud.make("user", name="u", password="p")
    role = await cloud.role_id("member")
    grant = f"/projects/{project['id']}/users/{user['id']}/roles/{role}"
    assert (await cloud.admin.put(grant)).status_code == 204
    token = await cloud.token("u", "p", scope={"project": {"id": project["id"]}})
    assert await cloud.is_good(token)
    listed = await cloud.admin.get(f"/role_assignments?effective&user.id={user['id']}")
    assert len(listed.json()["role_assignments"]) == 2
    found = await cloud.admin.get("/projects?tags=a&name__icontains=P&enabled=true")
    assert [one["id"] for one in found.json()["projects"]] == [project["id"]]
    assert (await cloud.admin.delete(grant)).status_code == 204
    assert not await cloud.is_good(token)


async def test_of_many_who_make_one_name_at_once_only_one_succeeds(cloud):
    answers = await asyncio.gather(
        *(cloud.admin.post("/projects", json={"project": {"name": "one"}}) for _ in range(8))
    )
    codes = sorted(answer.status_code for answer in answers)
    assert codes == [201] + [409] * 7
