"""Archives as clients read them: what is new in many (`/rrd_updates`), or all of one (a dump).

Source: rrdtool's xport and dump formats, as xen-api's rrd_updates.ml and rrd.ml write them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

import msgspec
import numpy as np

from xenith.toolstack.rrd.archive import CFS, LEVELS, STEP_S, XFF, Archives, Floats, Level
from xenith.toolstack.rrd.sources import HEARTBEAT_S, source

#: Source: rrdtool, the version of its dumps that xapi has written from the first.
VERSION = "0003"


class Updates(NamedTuple):
    """Rows of several archives side by side, newest first."""

    start_s: int
    step_s: int
    end_s: int
    #: What each column is: ``AVERAGE:vm:<uuid>:cpu0``.
    legend: list[str]
    times: list[int]
    #: (row, column)
    values: Floats


def best_level(start_s: float, now_s: float, interval_s: int) -> Level:
    """Choose the finest level that reaches back to ``start_s`` with rows of at least so long."""
    latest = now_s // STEP_S * STEP_S
    for level in LEVELS:
        if level.row_s >= interval_s and start_s > latest - level.span_s:
            return level
    return LEVELS[-1]


def updates(
    named: Sequence[tuple[str, Archives]],
    *,
    start_s: int,
    now_s: float,
    interval_s: int = 0,
    cf: str | None = None,
) -> Updates:
    """Give the rows from ``start_s`` on; below zero it is so many seconds before now."""
    if start_s < 0:
        start_s += int(now_s)
    level = best_level(start_s, now_s, interval_s)
    ways = [at for at, name in enumerate(CFS) if cf in (None, name)]
    end_s = int(now_s // level.row_s) * level.row_s
    count = min(level.rows, max(0, (end_s - start_s) // level.row_s + 1))
    legend: list[str] = []
    columns: list[Floats] = []
    for prefix, archives in named:
        rows = archives.levels[LEVELS.index(level)].rows(count)
        for way in ways:
            legend += [f"{CFS[way]}:{prefix}:{name}" for name in archives.names]
            columns.append(rows[:, way, :])
    values = np.concatenate(columns, axis=1) if columns else np.empty((count, 0))
    times = [end_s - at * level.row_s for at in range(count)]
    first_s = start_s // level.row_s * level.row_s + level.row_s
    return Updates(first_s, level.row_s, end_s, legend, times, values)


def updates_xml(found: Updates) -> Iterator[bytes]:
    """Write updates as rrdtool's xport, a row at a time."""
    legend = "".join(f"<entry>{escape(entry)}</entry>" for entry in found.legend)
    meta = _tags(_meta(found))
    yield f"<xport><meta>{meta}<legend>{legend}</legend></meta><data>".encode()
    for time, row in zip(found.times, found.values, strict=True):
        yield f"<row><t>{time}</t>{_cells(row.tolist())}</row>".encode()
    yield b"</data></xport>"


def updates_json(found: Updates) -> Iterator[bytes]:
    """Write updates as JSON of the same shape, a row at a time.

    What is unknown is the text "NaN", as in xapi since 23.17: JSON has no such number.
    """
    meta = msgspec.json.encode({**_meta(found), "legend": found.legend})
    yield b'{"meta":' + meta + b',"data":['
    for at, (time, row) in enumerate(zip(found.times, found.values, strict=True)):
        values = [_finite(value) for value in row.tolist()]
        yield b"," * (at > 0) + msgspec.json.encode({"t": time, "values": values})
    yield b"]}"


def _meta(found: Updates) -> dict[str, int]:
    return {
        "start": found.start_s,
        "step": found.step_s,
        "end": found.end_s,
        "rows": len(found.times),
        "columns": len(found.legend),
    }


def dump_xml(archives: Archives) -> Iterator[bytes]:
    """Write all archives of one host or VM as rrdtool's dump, an archive at a time."""
    sources = "".join(f"<ds>{_tags(row)}</ds>" for row in _sources(archives))
    yield f"<rrd>{_tags(_head(archives))}{sources}".encode()
    for row in _archives(archives):
        head = _tags({"cf": row["cf"], "pdp_per_row": row["pdp_per_row"]})
        cdps = "".join(f"<ds>{_tags(cdp)}</ds>" for cdp in row["cdp_prep"]["ds"])
        rows = "".join(f"<row>{_cells(values)}</row>" for values in row["database"])
        yield (
            f"<rra>{head}<params>{_tags(row['params'])}</params><cdp_prep>{cdps}</cdp_prep>"
            f"<database>{rows}</database></rra>"
        ).encode()
    yield b"</rrd>"


def dump_json(archives: Archives) -> Iterator[bytes]:
    """Write all archives of one host or VM as JSON of the dump's shape."""
    head = msgspec.json.encode(
        {**_head(archives), "ds": [_finite_map(row) for row in _sources(archives)]}
    )
    yield head[:-1] + b',"rra":['
    for at, row in enumerate(_archives(archives)):
        cdps = [_finite_map(cdp) for cdp in row["cdp_prep"]["ds"]]
        rows = [[_finite(value) for value in values] for values in row["database"]]
        whole = {**row, "cdp_prep": {"ds": cdps}, "database": rows}
        yield b"," * (at > 0) + msgspec.json.encode(whole)
    yield b"]}"


def _head(archives: Archives) -> dict[str, Any]:
    return {"version": VERSION, "step": STEP_S, "lastupdate": int(archives.updated_s)}


def _sources(archives: Archives) -> Iterator[dict[str, Any]]:
    for at, name in enumerate(archives.names):
        told = source(name)
        yield {
            "name": name,
            "type": "DERIVE" if told.is_counter else "GAUGE",
            "minimal_heartbeat": HEARTBEAT_S,
            "min": 0.0,
            "max": told.maximum,
            "last_ds": float(archives.raw[at]),
            "value": float(archives.latest[at]),
            "unknown_sec": 0,
        }


def _archives(archives: Archives) -> Iterator[dict[str, Any]]:
    for archive in archives.levels:
        # Oldest first, as rrdtool has them; clients ask for the newest first elsewhere.
        rows = archive.rows(archive.level.rows)[::-1]
        making, known = archive.prepared()
        unknown = int(archives.updated_s // STEP_S) % archive.level.points - known
        for way, cf in enumerate(CFS):
            yield {
                "cf": cf,
                "pdp_per_row": archive.level.points,
                "params": {"xff": XFF},
                "cdp_prep": {
                    "ds": [
                        {
                            "primary_value": 0.0,
                            "secondary_value": 0.0,
                            "value": float(value),
                            "unknown_datapoints": max(0, int(points)),
                        }
                        for value, points in zip(making[way], unknown, strict=True)
                    ]
                },
                "database": rows[:, way, :].tolist(),
            }


def _tags(values: Mapping[str, Any]) -> str:
    return "".join(f"<{tag}>{escape(_text(value))}</{tag}>" for tag, value in values.items())


def _cells(values: Sequence[float]) -> str:
    return "".join([f"<v>{_text(value)}</v>" for value in values])


def _text(value: Any) -> str:
    """Write a number as xapi does. Source: xen-api, rrd_utils.ml, f_to_s."""
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return f"{value:.15g}" if value else "0.0"


def _finite(value: Any) -> Any:
    return value if not isinstance(value, float) or math.isfinite(value) else _text(value)


def _finite_map(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _finite(value) for name, value in values.items()}
