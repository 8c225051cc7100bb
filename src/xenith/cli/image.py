"""``xenith image``: images made here, without root and without a download by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from xenith.cli.output import Output, show

app = App(help="Build the tiny image that boots in seconds.")


@app.command
def build(
    name: Literal["tiny"] = "tiny",
    *,
    to: Annotated[Path | None, Parameter(help="Where to write it.")] = None,
    output: Output = "table",
) -> None:
    """Build a bootable disk from Debian packages: a cloud kernel, busybox, and a login prompt."""
    from xenith.dev.tiny_image import build_tiny_image, find_or_build  # noqa: PLC0415

    assert name == "tiny", "there is no other image yet"
    path = find_or_build() if to is None else build_tiny_image(to)
    show({"image": name, "path": str(path), "mib": path.stat().st_size // 2**20}, output)
