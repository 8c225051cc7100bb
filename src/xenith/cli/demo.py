"""``xenith demo``: the main job, shown: a cloud, an image, real servers through their life."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from xenith.cli import down
from xenith.cli.output import Output, show

app = App(help="Start a cloud, boot a server, walk it through its life.")

#: Lines of the console that are shown.
CONSOLE_LINES = 30


@app.default
def demo(
    *,
    servers: Annotated[int, Parameter(help="How many servers.")] = 2,
    backend: Annotated[str, Parameter(help="auto, sim or qemu.")] = "auto",
    image: Annotated[Path | None, Parameter(help="A bootable disk, not the tiny one.")] = None,
    data: Annotated[
        Path | None, Parameter(help="Where the cloud is kept; else it is removed at the end.")
    ] = None,
    keep: Annotated[bool, Parameter(help="Leave the cloud and its servers running.")] = False,
    output: Output = "table",
) -> int:
    """Do the main job and show the time of each step; 0 only if all of it held."""
    from xenith.dev.tiny_image import find_or_build  # noqa: PLC0415 - --help pays for nothing

    is_shown = output == "table"
    directory = (data or Path(tempfile.mkdtemp(prefix="xenith-demo-"))).absolute()
    times: list[dict[str, Any]] = []
    started = time.monotonic()

    def begin(name: str) -> None:
        # What runs now, on the line that its time will take; only where somebody looks.
        if is_shown and sys.stdout.isatty():
            print(f"        …    {name}", end="\r", flush=True)

    def done(name: str, seconds: float, note: str) -> None:
        times.append({"step": name, "seconds": round(seconds, 2), "note": note})
        if is_shown:
            print(f"  {seconds:7.2f} s  {name}{': ' if note else ''}{note}", flush=True)

    began = time.monotonic()
    begin("the image is at hand")
    is_real = backend == "qemu" or (backend == "auto" and _has_qemu())
    disk = image or (find_or_build() if is_real else _blank_disk(directory))
    done("the image is at hand", time.monotonic() - began, f"{disk.stat().st_size / 2**20:.0f} MiB")
    began = time.monotonic()
    begin("the cloud is up")
    _start(directory, "qemu" if is_real else "sim")
    done("the cloud is up", time.monotonic() - began, f"{'qemu' if is_real else 'sim'} hosts")
    try:
        console = asyncio.run(
            _walk(
                directory,
                disk,
                servers=servers,
                is_real=is_real,
                is_kept=keep,
                begin=begin,
                done=done,
            )
        )
    finally:
        if not keep:
            _stop(directory, is_removed=data is None)
    total = round(time.monotonic() - started, 2)
    if is_shown:
        if console:
            print("\nthe console of the first server ends:\n")
            print("\n".join("  | " + line for line in console.splitlines()[-CONSOLE_LINES:]))
        print(f"\nall {len(times)} steps held in {total} s")
        if keep:
            print(f"the cloud runs on in {directory}: xenith down --data {directory}")
    else:
        show({"steps": times, "seconds": total, "console": console}, output)
    return 0


async def _walk(
    directory: Path,
    disk: Path,
    *,
    servers: int,
    is_real: bool,
    is_kept: bool,
    begin: Any,
    done: Any,
) -> str:
    from xenith.dev.client import ApiClient  # noqa: PLC0415
    from xenith.dev.demo import Demo  # noqa: PLC0415

    async with ApiClient.of_directory(directory) as api:
        walk = Demo(
            api,
            disk,
            is_real=is_real,
            server_count=servers,
            on_step=begin,
            on_done=lambda step: done(step.name, step.seconds, step.note),
        )
        await walk.run(is_kept=is_kept)
    return walk.console


def _start(directory: Path, backend: str) -> None:
    from xenith.cli.up import start_detached  # noqa: PLC0415
    from xenith.core.settings import load  # noqa: PLC0415

    flags = {"data": str(directory), "listen": "127.0.0.1:0", "backend": backend, "hosts": 2}
    start_detached(load(flags=flags), None, flags)


def _stop(directory: Path, *, is_removed: bool) -> None:
    import contextlib  # noqa: PLC0415
    import io  # noqa: PLC0415
    import shutil  # noqa: PLC0415

    with contextlib.redirect_stdout(io.StringIO()):
        down.down(data=str(directory))
    if is_removed:
        shutil.rmtree(directory, ignore_errors=True)


def _has_qemu() -> bool:
    import shutil  # noqa: PLC0415

    return shutil.which("qemu-system-x86_64") is not None


def _blank_disk(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = directory / "blank.raw"
    with path.open("wb") as file:
        file.truncate(1024 * 1024)
    return path
