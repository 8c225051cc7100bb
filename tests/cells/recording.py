"""Records what an older peer says, for tests of upgrades: ``python tests/cells/recording.py FILE``.

Run with the older version. It writes, as hex, every frame of a small seeded tree from its start to
the end of a build, a change and a delete, and the keys and documents to read them with.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

EACH_SECOND = {"ping", "pong", "heads", "capacity", "capacity_delta"}
SHAPE = {"api": (), "r1": ("api",), "c1": ("r1",)}


def load_nodes() -> Any:
    if "nodes" not in sys.modules:
        path = Path(__file__).parent / "nodes.py"
        spec = importlib.util.spec_from_file_location("nodes", path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules["nodes"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["nodes"])
    return sys.modules["nodes"]


def record() -> dict[str, Any]:
    """Play a small tree's life and give what was said."""
    nodes = load_nodes()
    frames: list[dict[str, Any]] = []

    async def scenario(simulation: Any) -> dict[str, Any]:
        async with nodes.Tree(simulation, SHAPE) as tree:
            tree.air.listeners.append(
                lambda spoken: frames.append(
                    {
                        "sender": spoken.sender,
                        "receiver": spoken.receiver,
                        "kinds": spoken.kinds,
                        "frame": spoken.data.hex(),
                    }
                )
            )
            await tree.start()
            await tree.ready()
            await tree.wish("a")
            await tree.reaches("a", "owned")
            await tree.order("a", "set", value="new")
            await tree.settle()
            await tree.nodes["api"].ask("c1", "echo", {})
            await asyncio.sleep(130)
            await tree.order("a", "delete")
            await tree.settle()
            seeds = {name: name for name in SHAPE}
            return {"topology": tree.signed.hex(), "key_seeds": seeds}

    found = nodes.play(scenario)
    return {"version": "0.2.0", **found, "frames": thinned(frames)}


def thinned(frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out most of those that say the same each second."""
    kept: list[dict[str, Any]] = []
    seen: dict[Any, int] = {}
    for frame in frames:
        key = (frame["sender"], frame["receiver"], tuple(frame["kinds"]))
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= 3 or not EACH_SECOND.issuperset(frame["kinds"]):
            kept.append(frame)
    return kept


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(record(), indent=1) + "\n")
