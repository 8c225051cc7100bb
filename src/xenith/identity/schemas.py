"""What request bodies look like.

Most nouns of identity keep attributes that it does not know (``email`` on a user), so their bodies
are open objects: the known part is described by a struct, the rest is kept as it came.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from xenith.core.errors import Invalid
from xenith.http import validation

Id = Annotated[str, Meta(min_length=1, max_length=64)]
Name = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"\S")]
ProjectName = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"\S")]
Text = Annotated[str, Meta(max_length=65535)]
Password = Annotated[str, Meta(max_length=4096)]
Url = Annotated[str, Meta(min_length=1, max_length=2048, pattern=r"^[a-zA-Z0-9+.-]+://")]
Tag = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"^[^/,]+$")]
Tags = Annotated[list[Tag], Meta(max_length=80)]
Count = Annotated[int, Meta(ge=-1, le=2147483647)]


# -- signing in


class DomainRef(Struct, frozen=True):
    """A domain by id or name."""

    id: Id | None = None
    name: str | None = None


class ProjectRef(Struct, frozen=True):
    """A project by id, or by name and domain."""

    id: Id | None = None
    name: str | None = None
    domain: DomainRef | None = None


class PasswordUser(Struct, frozen=True):
    """A user by id, or by name and domain, with the password."""

    password: Password
    id: Id | None = None
    name: str | None = None
    domain: DomainRef | None = None


class PasswordMethod(Struct, frozen=True):
    """Signing in with a password."""

    user: PasswordUser


class TokenMethod(Struct, frozen=True):
    """Signing in with a token."""

    id: str


class UserRef(Struct, frozen=True):
    """A user by id, or by name and domain."""

    id: Id | None = None
    name: str | None = None
    domain: DomainRef | None = None


class AppCredMethod(Struct, frozen=True):
    """Signing in with an application credential, by id or by its user and name."""

    secret: Password
    id: Id | None = None
    name: str | None = None
    user: UserRef | None = None


class AuthIdentity(Struct, frozen=True):
    """Who signs in, and how."""

    methods: Annotated[list[str], Meta(max_length=10)]
    password: PasswordMethod | None = None
    token: TokenMethod | None = None
    application_credential: AppCredMethod | None = None


class SystemScope(Struct, frozen=True):
    """The whole system."""

    all: bool


class ScopeRef(Struct, frozen=True):
    """For what a token is asked."""

    project: ProjectRef | None = None
    domain: DomainRef | None = None
    system: SystemScope | None = None
    unscoped: dict[str, Any] | None = None


class Auth(Struct, frozen=True):
    """One sign-in."""

    identity: AuthIdentity
    #: The word "unscoped", or a scope.
    scope: ScopeRef | str | None = None


class AuthBody(Struct, frozen=True):
    """Body of a sign-in."""

    auth: Auth


# -- open objects


def known(struct: type[Struct]) -> Meta:
    """Describe the known part of an open object, for the OpenAPI document."""
    (schema,), components = msgspec.json.schema_components([struct])
    described = components[schema["$ref"].rpartition("/")[2]]
    return Meta(extra_json_schema={"properties": described["properties"]})


def split(body: dict[str, Any], struct: type[Struct]) -> tuple[Any, dict[str, Any]]:
    """Give the known part of an open object as a struct, and the rest.

    Raises:
        Invalid: the known part is not of its form.
    """
    fields = validation.convert(body, struct)
    names = {field.encode_name for field in msgspec.structs.fields(struct)}
    extra = {key: value for key, value in body.items() if key not in names and key != "links"}
    if len(extra) > EXTRA_MAX:
        raise Invalid(f"There are more than {EXTRA_MAX} attributes that are not known.")
    return fields, extra


def given(fields: Struct) -> dict[str, Any]:
    """Give the fields that the body named."""
    return {
        name: value
        for name in fields.__struct_fields__
        if (value := getattr(fields, name)) is not UNSET
    }


#: Attributes of the client's own on one thing.
EXTRA_MAX = 64

Options = dict[str, Any]


class NewDomain(Struct, frozen=True):
    """A domain to make."""

    name: ProjectName
    description: Text | None = None
    enabled: bool = True
    options: Options = {}


class DomainChange(Struct, frozen=True):
    """What changes of a domain."""

    name: ProjectName | UnsetType = UNSET
    description: Text | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET
    options: Options | UnsetType = UNSET


class NewProject(Struct, frozen=True):
    """A project to make."""

    name: ProjectName
    domain_id: Id | None = None
    parent_id: Id | None = None
    is_domain: bool = False
    description: Text | None = None
    enabled: bool = True
    options: Options = {}
    tags: Tags = []


class ProjectChange(Struct, frozen=True):
    """What changes of a project."""

    name: ProjectName | UnsetType = UNSET
    domain_id: Id | UnsetType | None = UNSET
    parent_id: Id | UnsetType | None = UNSET
    is_domain: bool | UnsetType = UNSET
    description: Text | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET
    options: Options | UnsetType = UNSET
    tags: Tags | UnsetType = UNSET


class NewUser(Struct, frozen=True):
    """A user to make."""

    name: Name
    domain_id: Id | None = None
    password: Password | None = None
    default_project_id: Id | None = None
    enabled: bool = True
    options: Options = {}


class UserChange(Struct, frozen=True):
    """What changes of a user."""

    name: Name | UnsetType = UNSET
    domain_id: Id | UnsetType = UNSET
    password: Password | UnsetType | None = UNSET
    default_project_id: Id | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET
    options: Options | UnsetType = UNSET


class NewGroup(Struct, frozen=True):
    """A group to make."""

    name: ProjectName
    domain_id: Id | None = None
    description: Text | None = None


class GroupChange(Struct, frozen=True):
    """What changes of a group."""

    name: ProjectName | UnsetType = UNSET
    domain_id: Id | UnsetType = UNSET
    description: Text | UnsetType | None = UNSET


class NewRole(Struct, frozen=True):
    """A role to make."""

    name: Name
    domain_id: Id | None = None
    description: Text | None = None
    options: Options = {}


class RoleChange(Struct, frozen=True):
    """What changes of a role."""

    name: Name | UnsetType = UNSET
    domain_id: Id | UnsetType | None = UNSET
    description: Text | UnsetType | None = UNSET
    options: Options | UnsetType = UNSET


class NewRegion(Struct, frozen=True):
    """A region to make."""

    id: Annotated[str, Meta(max_length=255)] | None = None
    parent_region_id: Annotated[str, Meta(max_length=255)] | None = None
    description: Text | None = None


class RegionChange(Struct, frozen=True):
    """What changes of a region."""

    parent_region_id: Annotated[str, Meta(max_length=255)] | UnsetType | None = UNSET
    description: Text | UnsetType | None = UNSET


class NewService(Struct, frozen=True):
    """A service of the catalog to make."""

    type: Name
    name: Annotated[str, Meta(max_length=255)] | None = None
    description: Text | None = None
    enabled: bool = True


class ServiceChange(Struct, frozen=True):
    """What changes of a service."""

    type: Name | UnsetType = UNSET
    name: Annotated[str, Meta(max_length=255)] | UnsetType | None = UNSET
    description: Text | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET


Interface = Annotated[str, Meta(pattern="^(public|internal|admin)$")]


class NewEndpoint(Struct, frozen=True):
    """An endpoint of the catalog to make."""

    service_id: Id
    interface: Interface
    url: Url
    region_id: Annotated[str, Meta(max_length=255)] | None = None
    #: An older name of ``region_id``.
    region: Annotated[str, Meta(max_length=255)] | None = None
    name: Annotated[str, Meta(max_length=255)] | None = None
    enabled: bool = True


class EndpointChange(Struct, frozen=True):
    """What changes of an endpoint."""

    service_id: Id | UnsetType = UNSET
    interface: Interface | UnsetType = UNSET
    url: Url | UnsetType = UNSET
    region_id: Annotated[str, Meta(max_length=255)] | UnsetType | None = UNSET
    region: Annotated[str, Meta(max_length=255)] | UnsetType | None = UNSET
    name: Annotated[str, Meta(max_length=255)] | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET


class NewCredential(Struct, frozen=True):
    """A credential to keep for a user."""

    blob: Text
    type: Name
    user_id: Id | None = None
    project_id: Id | None = None


class CredentialChange(Struct, frozen=True):
    """What changes of a credential."""

    blob: Text | UnsetType = UNSET
    type: Name | UnsetType = UNSET
    user_id: Id | UnsetType = UNSET
    project_id: Id | UnsetType | None = UNSET


# -- bodies


class DomainBody(Struct, frozen=True):
    """Body with a domain to make."""

    domain: Annotated[dict[str, Any], known(NewDomain)]


class DomainChangeBody(Struct, frozen=True):
    """Body with a domain's changes."""

    domain: Annotated[dict[str, Any], known(DomainChange)]


class ProjectBody(Struct, frozen=True):
    """Body with a project to make."""

    project: Annotated[dict[str, Any], known(NewProject)]


class ProjectChangeBody(Struct, frozen=True):
    """Body with a project's changes."""

    project: Annotated[dict[str, Any], known(ProjectChange)]


class TagsBody(Struct, frozen=True):
    """Body with all tags of a project."""

    tags: Tags


class UserBody(Struct, frozen=True):
    """Body with a user to make."""

    user: Annotated[dict[str, Any], known(NewUser)]


class UserChangeBody(Struct, frozen=True):
    """Body with a user's changes."""

    user: Annotated[dict[str, Any], known(UserChange)]


class PasswordChange(Struct, frozen=True):
    """A user's own change of password."""

    password: Annotated[str, Meta(min_length=1, max_length=4096)]
    original_password: Password


class PasswordBody(Struct, frozen=True):
    """Body with a change of password."""

    user: PasswordChange


class GroupBody(Struct, frozen=True):
    """Body with a group to make."""

    group: Annotated[dict[str, Any], known(NewGroup)]


class GroupChangeBody(Struct, frozen=True):
    """Body with a group's changes."""

    group: Annotated[dict[str, Any], known(GroupChange)]


class RoleBody(Struct, frozen=True):
    """Body with a role to make."""

    role: Annotated[dict[str, Any], known(NewRole)]


class RoleChangeBody(Struct, frozen=True):
    """Body with a role's changes."""

    role: Annotated[dict[str, Any], known(RoleChange)]


class RegionBody(Struct, frozen=True):
    """Body with a region to make."""

    region: Annotated[dict[str, Any], known(NewRegion)]


class RegionChangeBody(Struct, frozen=True):
    """Body with a region's changes."""

    region: Annotated[dict[str, Any], known(RegionChange)]


class ServiceBody(Struct, frozen=True):
    """Body with a service to make."""

    service: Annotated[dict[str, Any], known(NewService)]


class ServiceChangeBody(Struct, frozen=True):
    """Body with a service's changes."""

    service: Annotated[dict[str, Any], known(ServiceChange)]


class EndpointBody(Struct, frozen=True):
    """Body with an endpoint to make."""

    endpoint: Annotated[dict[str, Any], known(NewEndpoint)]


class EndpointChangeBody(Struct, frozen=True):
    """Body with an endpoint's changes."""

    endpoint: Annotated[dict[str, Any], known(EndpointChange)]


class CredentialBody(Struct, frozen=True):
    """Body with a credential to keep."""

    credential: Annotated[dict[str, Any], known(NewCredential)]


class CredentialChangeBody(Struct, frozen=True):
    """Body with a credential's changes."""

    credential: Annotated[dict[str, Any], known(CredentialChange)]


class RoleRef(Struct, frozen=True):
    """A role by id or name."""

    id: Id | None = None
    name: Name | None = None


class NewAccessRule(Struct, frozen=True):
    """One request that an application credential may make; by id when it is kept already."""

    id: Id | None = None
    path: Annotated[str, Meta(max_length=1024)] | None = None
    method: Annotated[str, Meta(pattern="^(GET|HEAD|POST|PUT|PATCH|DELETE)$")] | None = None
    service: Annotated[str, Meta(max_length=255)] | None = None


class NewAppCred(Struct, frozen=True):
    """An application credential to make."""

    name: Name
    secret: Password | None = None
    description: Text | None = None
    expires_at: Annotated[str, Meta(max_length=64)] | None = None
    roles: Annotated[list[RoleRef], Meta(max_length=100)] | None = None
    unrestricted: bool | None = None
    access_rules: Annotated[list[NewAccessRule], Meta(max_length=100)] | None = None
    #: Named by some clients; only the token's own project is taken.
    project_id: Id | None = None


class AppCredBody(Struct, frozen=True):
    """Body with an application credential to make."""

    application_credential: NewAppCred


class Ec2Body(Struct, frozen=True):
    """Body with the project of an EC2 key pair to make."""

    tenant_id: Id


class NewPolicy(Struct, frozen=True):
    """A policy to keep."""

    blob: Text | dict[str, Any]
    type: Name


class PolicyChange(Struct, frozen=True):
    """What changes of a policy."""

    blob: Text | dict[str, Any] | UnsetType = UNSET
    type: Name | UnsetType = UNSET


class PolicyBody(Struct, frozen=True):
    """Body with a policy to keep."""

    policy: Annotated[dict[str, Any], known(NewPolicy)]


class PolicyChangeBody(Struct, frozen=True):
    """Body with a policy's changes."""

    policy: Annotated[dict[str, Any], known(PolicyChange)]
