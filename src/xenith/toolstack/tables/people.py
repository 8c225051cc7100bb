"""Who calls and what runs for them: sessions, tasks, roles, subjects, secrets, messages."""

from __future__ import annotations

from xenith.toolstack.fields import (
    NAMED,
    OPERATIONS,
    Field,
    date,
    number,
    ref,
    refs,
    text,
    texts,
    truth,
)

PEOPLE: dict[str, dict[str, Field]] = {
    "session": {
        "uuid": text("R"),
        "this_host": ref(),
        "this_user": ref(),
        "last_active": date(),
        "pool": ref(),
        "other_config": texts(),
        "is_local_superuser": truth(default=True),
        "subject": ref(),
        "auth_user_name": text("R"),
        "originator": text("R"),
        "tasks": refs(),
        "parent": ref(),
    },
    "task": {
        **NAMED,
        **OPERATIONS,
        "created": date(),
        "finished": date(),
        "status": text("R", "pending"),
        "resident_on": ref(),
        "progress": Field("float", "R", 0.0),
        "type": text("R", "<none/>"),
        "result": text("R"),
        "error_info": refs(),
        "other_config": texts(),
        "subtask_of": ref(),
        "subtasks": refs(),
        "backtrace": text("R", "()"),
    },
    "role": {
        "uuid": text("R"),
        "name_label": text("R"),
        "name_description": text("R"),
        "subroles": refs(),
        "is_internal": truth(),
    },
    "subject": {
        "uuid": text("R"),
        "subject_identifier": text("C"),
        "other_config": texts("C"),
        "roles": refs(),
    },
    "secret": {"uuid": text("R"), "value": text("RW"), "other_config": texts()},
    "message": {
        "uuid": text("R"),
        "name": text("R"),
        "priority": number(),
        "cls": text("R"),
        "obj_uuid": text("R"),
        "timestamp": date(),
        "body": text("R"),
    },
    "blob": {
        **NAMED,
        "size": number(),
        "public": truth("RW"),
        "last_updated": date(),
        "mime_type": text("R"),
    },
}
