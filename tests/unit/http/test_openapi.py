"""The document tells what the tables tell."""

from __future__ import annotations

from typing import Any

from xenith.http.openapi import document


def test_paths_bodies_actions_and_rules_are_in_the_document(client: Any) -> None:
    paths = document(client.site.services)["paths"]
    show = paths["/compute/v1/things/{thing_id}"]["get"]
    assert show["x-policy"] == "things:show"
    assert {p["name"] for p in show["parameters"]} == {
        "thing_id",
        "limit",
        "OpenStack-API-Version",
    }
    action = paths["/compute/v1/things/{thing_id}/action"]["post"]
    assert action["x-openstack-actions"] == ["os-start", "reboot"]
    created = paths["/compute/v1/things"]["post"]["requestBody"]["content"]["application/json"]
    assert created["schema"] == {"$ref": "#/components/schemas/LaterBody"}


def test_every_reference_points_at_a_schema(client: Any) -> None:
    whole = document(client.site.services)
    known = set(whole["components"]["schemas"])

    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            own = {value["$ref"].rpartition("/")[2]} if "$ref" in value else set()
            return own.union(*(references(item) for item in value.values()), set())
        if isinstance(value, list):
            return set().union(*(references(item) for item in value))
        return set()

    assert references(whole["paths"]) <= known
