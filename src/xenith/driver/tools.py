"""Programs of this machine that disks are made with: no shell, no input, and an end in time."""

from __future__ import annotations

import asyncio

from xenith.core.errors import Unavailable, XenithError

#: Characters of what a program said last that an error tells.
SAID_MAX = 200


async def run_tool(
    *command: str, timeout_s: float, doing: str, failure: type[XenithError] = Unavailable
) -> None:
    """Run a program to its end.

    Raises:
        Unavailable: it did not end in time, and was ended.
        failure: it failed; what it said last is told. ``doing`` is what it was to do.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(timeout_s):
            _, said = await process.communicate()
    except TimeoutError as error:
        raise Unavailable(f"could not {doing} in {timeout_s:g} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        text = said.decode("utf-8", "replace").strip()[-SAID_MAX:]
        raise failure(f"could not {doing}: {text}")
