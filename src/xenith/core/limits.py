"""Every limit by name, with its reason. Nothing in the tree loops, queues or reads without one."""

from __future__ import annotations

MIB = 1024 * 1024
GIB = 1024 * MIB

#: A JSON request body. Nova's default is 114,688; personality of 2.1 needs more.
JSON_BODY_BYTES_MAX = 1 * MIB
#: One XenAPI request. Source: xapi refuses more than 300 KiB.
XAPI_BODY_BYTES_MAX = 300 * 1024
#: One XenAPI answer: get_all_records of a thousand VMs is about 4 MiB.
XAPI_ANSWER_BYTES_MAX = 64 * MIB
#: An uploaded image. Source: VHD's own limit is 2040 GiB.
IMAGE_BYTES_MAX = 2040 * GIB
#: A page of any list. Source: nova `max_limit`, glance `api_limit_max`.
PAGE_ITEMS_MAX = 1000
#: A page of images when the client names no limit. Source: glance `limit_param_default`.
IMAGE_PAGE_ITEMS_DEFAULT = 25
#: Bytes moved at a time when streaming; large enough to amortise a call, small in memory.
STREAM_CHUNK_BYTES = 256 * 1024
#: Hosts a build is tried on before it ends in ERROR. Source: nova `max_attempts` is 3.
BUILD_ATTEMPTS_MAX = 4
#: Sagas that one compute cell runs at a time; more wait their turn in the database.
SAGAS_RUNNING_MAX = 512
#: A call to a host that does not stream. Nova waited 10 s to log in, 300 s for a reboot.
XAPI_CALL_TIMEOUT_S = 60.0
#: How long a host may be silent before it is held to be down. Source: nova 60 s; ours reconnects.
HOST_SILENCE_MAX_S = 60.0
#: Metadata items on a server, an image or a flavor. Source: nova and glance quotas.
METADATA_ITEMS_MAX = 128
#: Tags on a server. Source: Compute API 2.26.
SERVER_TAGS_MAX = 50
#: The console log that getConsoleOutput can return. Source: XenServer keeps 100 KiB.
CONSOLE_LOG_BYTES_MAX = 100 * 1024
#: User data after decoding. Source: Compute API, "Create Server": 65,535 bytes encoded.
USER_DATA_BYTES_MAX = 65535
