"""Identity's rows, a file per noun; importing this makes all of its tables known."""

from xenith.identity.records import catalog, epochs, people, policies, projects, roles, secrets

__all__ = ["catalog", "epochs", "people", "policies", "projects", "roles", "secrets"]
