"""Times in answers: a kind of their own in XML-RPC, texts in JSON and in the records.

Source: xapi, whose XML-RPC writes ``dateTime.iso8601``; the official SDK gives a ``DateTime``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xmlrpc.client import DateTime

from xenith.toolstack.schema import BY_LOWER_NAME, CLASSES

_FIELDS = {
    class_name: frozenset(name for name, field in fields.items() if field.kind == "date")
    for class_name, fields in CLASSES.items()
}
#: What gives records by their references, by the end of its name.
_MANY = ("get_all_records", "get_all_records_where")
_MESSAGES = frozenset(("message.get", "message.get_since"))
_TIMES = frozenset(("host.get_servertime", "host.get_server_localtime")) | {
    f"{class_name}.get_{name}" for class_name, fields in _FIELDS.items() for name in fields
}


def dated(method: str, result: Any) -> Any:
    """Give what a method answers with its times as times; what has none is given as it is."""
    class_name, _, verb = method.partition(".")
    if method in _TIMES:
        return DateTime(result)
    if verb in _MANY or method in _MESSAGES:
        return _records(class_name, result)
    if verb == "get_record":
        return dated_record(class_name, result)
    if method == "event.from":
        return {**result, "events": [_event(event) for event in result["events"]]}
    if method == "event.next":
        return [_event(event) for event in result]
    return result


def _records(class_name: str, records: Mapping[str, Any]) -> Mapping[str, Any]:
    if not _FIELDS.get(class_name):
        return records
    return {ref: dated_record(class_name, record) for ref, record in records.items()}


def dated_record(class_name: str, record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give a record with its times as times."""
    # Records are the database's own: they are copied where there is something to change.
    fields = _FIELDS.get(class_name)
    if not fields:
        return record
    return {**record, **{name: DateTime(record[name]) for name in fields if name in record}}


def _event(event: Mapping[str, Any]) -> Mapping[str, Any]:
    if "snapshot" not in event:
        return event
    return {**event, "snapshot": dated_record(BY_LOWER_NAME[event["class"]], event["snapshot"])}
