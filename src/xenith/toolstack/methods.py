"""The table of methods: what is generated for each class, and what the classes add by hand.

A hand-written method is a function of the host and the call's parameters, under its XenAPI name;
its own signature says how many it takes. Those marked ``is_async`` can be asked as ``Async.…``.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from xenith.toolstack import roles
from xenith.toolstack.schema import CLASSES, Kind, coerce, convert
from xenith.toolstack.where import parse
from xenith.xapi import NULL
from xenith.xapi.faults import XapiFault

if TYPE_CHECKING:
    from xenith.toolstack.server import HostServer

Function = Callable[..., Any]

#: What a parameter must be, by how a method's function is annotated.
_KINDS: dict[str, Kind] = {
    "str": "text",
    "int": "int",
    "float": "float",
    "bool": "bool",
    "dict[str, Any]": "any",
    "Any": "any",
    "dict[str, str]": "map",
    "dict[str, str] | None": "map",
    "list[str]": "texts",
    "list[str] | None": "texts",
}


@dataclass(frozen=True, slots=True)
class Method:
    """One method of the API."""

    name: str
    function: Function
    #: What each parameter must be; those after ``least`` may be left out.
    kinds: tuple[Kind, ...]
    least: int
    is_async: bool = False
    #: Called without a session, and given none.
    is_open: bool = False
    #: Only waits: it ends when its client hangs up, as all others do not.
    is_wait: bool = False
    #: The least role that may call it, by its place among the roles.
    rank: int = 0

    @property
    def most(self) -> int:
        """How many parameters it takes at most."""
        return len(self.kinds)

    def run(self, host: HostServer, given: list[Any]) -> Any:
        """Check the parameters and call the function; gives a result, or what is to be awaited.

        Raises:
            XapiFault: FIELD_TYPE_ERROR, a parameter is of the wrong type, or the call failed.
        """
        for at, value in enumerate(given):
            kind = self.kinds[at]
            if not (kind == "text" and type(value) is str):
                given[at] = convert(kind, value, name=self.name)
        return self.function(host, *given)


METHODS: dict[str, Method] = {}


def method(
    name: str, *, is_async: bool = False, is_open: bool = False, is_wait: bool = False
) -> Callable[[Function], Function]:
    """Enter a function under its XenAPI name."""

    def enter(function: Function) -> Function:
        parameters = list(inspect.signature(function).parameters.values())[1:]
        METHODS[name] = Method(
            name,
            function,
            tuple(_KINDS[item.annotation] for item in parameters),
            sum(1 for item in parameters if item.default is inspect.Parameter.empty),
            is_async=is_async,
            is_open=is_open,
            is_wait=is_wait,
        )
        return function

    return enter


async def maybe(result: Any) -> Any:
    """Give a result, waiting for it if it is to be waited for."""
    if isinstance(result, Awaitable):
        return await result
    return result


# -- what every class has


def _get_all(host: HostServer, *, of: str) -> list[str]:
    return list(host.objects.all(of))


def _get_all_records(host: HostServer, *, of: str) -> dict[str, Any]:
    return host.objects.all(of)


def _get_all_records_where(host: HostServer, expression: str, *, of: str) -> dict[str, Any]:
    holds = parse(expression, of)
    return {ref: record for ref, record in host.objects.all(of).items() if holds(record)}


def _get_all_where(host: HostServer, expression: str, *, of: str) -> list[str]:
    return list(_get_all_records_where(host, expression, of=of))


def _get_by_uuid(host: HostServer, uuid: str, *, of: str) -> str:
    return host.objects.by_uuid(of, uuid)


def _get_by_name_label(host: HostServer, label: str, *, of: str) -> list[str]:
    return host.objects.by_label(of, label)


def _get_record(host: HostServer, ref: str, *, of: str) -> dict[str, Any]:
    return host.objects.get(of, ref)


def _get_field(host: HostServer, ref: str, *, of: str, field: str) -> Any:
    return host.objects.get(of, ref)[field]


def _set_field(host: HostServer, ref: str, value: Any, *, of: str, field: str) -> None:
    host.objects.get(of, ref)
    host.objects.update(of, ref, **{field: coerce(of, field, value)})


def _add_to(host: HostServer, ref: str, key: str, value: str, *, of: str, field: str) -> None:
    record = host.objects.get(of, ref)
    if key in record[field]:
        raise XapiFault("MAP_DUPLICATE_KEY", of, field, record["uuid"], key)
    host.objects.update(of, ref, **{field: {**record[field], key: value}})


def _remove_from(host: HostServer, ref: str, key: str, *, of: str, field: str) -> None:
    record = host.objects.get(of, ref)
    if key in record[field]:
        kept = {name: value for name, value in record[field].items() if name != key}
        host.objects.update(of, ref, **{field: kept})


def _add_member(host: HostServer, ref: str, value: str, *, of: str, field: str) -> None:
    host.objects.get(of, ref)
    host.objects.link(of, ref, field, value)


def _remove_member(host: HostServer, ref: str, value: str, *, of: str, field: str) -> None:
    host.objects.get(of, ref)
    host.objects.unlink(of, ref, field, value)


_OF_CLASS: tuple[tuple[str, Function, int], ...] = (
    ("get_all", _get_all, 0),
    ("get_all_records", _get_all_records, 0),
    ("get_all_records_where", _get_all_records_where, 1),
    ("get_all_where", _get_all_where, 1),
    ("get_by_uuid", _get_by_uuid, 1),
    ("get_record", _get_record, 1),
)


def generate() -> dict[str, Method]:
    """Make the methods that the class tables imply; hand-written ones win over them."""
    made: dict[str, Method] = {}

    def enter(name: str, function: Function, count: int, **fixed: str) -> None:
        kinds: list[Kind] = ["text"] * count
        if function is _set_field:
            kinds[1] = "any"
        made[name] = Method(name, partial(function, **fixed), tuple(kinds), count)

    for of, fields in CLASSES.items():
        for name, function, count in _OF_CLASS:
            # Whoever could list sessions could take them over.
            if not (of == "session" and name.startswith("get_all")):
                enter(f"{of}.{name}", function, count, of=of)
        if "name_label" in fields:
            enter(f"{of}.get_by_name_label", _get_by_name_label, 1, of=of)
        for name, field in fields.items():
            enter(f"{of}.get_{name}", _get_field, 1, of=of, field=name)
            if field.access != "RW":
                continue
            enter(f"{of}.set_{name}", _set_field, 2, of=of, field=name)
            if field.kind == "map":
                enter(f"{of}.add_to_{name}", _add_to, 3, of=of, field=name)
                enter(f"{of}.remove_from_{name}", _remove_from, 2, of=of, field=name)
            elif field.kind == "set":
                enter(f"{of}.add_{name}", _add_member, 2, of=of, field=name)
                enter(f"{of}.remove_{name}", _remove_member, 2, of=of, field=name)
    made.update(METHODS)
    return {name: replace(row, rank=roles.rank_of(name)) for name, row in made.items()}


def creation(class_name: str, given: Any) -> dict[str, Any]:
    """Check a record that a client wants created; keys that are not fields are left out.

    Raises:
        XapiFault: FIELD_TYPE_ERROR, something required is missing or of the wrong type.
    """
    if not isinstance(given, dict):
        raise XapiFault("FIELD_TYPE_ERROR", "record")
    for name in _REQUIRED[class_name]:
        if name not in given:
            raise XapiFault("FIELD_TYPE_ERROR", name)
    kinds = _GIVEN[class_name]
    return {
        name: value
        if kinds[name] == "str" and type(value) is str
        # The commonest case is tried before the call.
        else convert(kinds[name], value, name=name)
        for name, value in given.items()
        if name in kinds
    }


#: What a create may give, by class and field; and what it must.
_GIVEN: dict[str, dict[str, Kind]] = {
    class_name: {name: field.kind for name, field in fields.items() if field.access != "R"}
    for class_name, fields in CLASSES.items()
}
_REQUIRED = {
    class_name: [name for name, field in fields.items() if field.is_required]
    for class_name, fields in CLASSES.items()
}


def is_null(ref: str) -> bool:
    """Tell whether a reference refers to nothing."""
    return ref in ("", NULL)
