"""A measurement's result on disk: NAME.json, NAME.md and NAME.png beside one another.

It decides names and order - the numbers first, so that what took hours to measure outlives a table or a picture that fails - and
refuses nothing. What stands in table and picture is each report's own. No topic.
"""

import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from infra.files import write_whole

Result = TypeVar("Result", bound=msgspec.Struct)


def write(
    result: Result, name: str, folder: Path, markdown: Callable[[Result], str], draw: Callable[[Result, Path], None]
) -> list[Path]:
    """The three files in the folder, which is made where it is missing; the paths written.

    Args:
        result: becomes the JSON.
        name: of the files, without an ending.
        folder: where they go.
        markdown: the result as text.
        draw: puts the result's picture at a path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{kind}" for kind in ("json", "md", "png")]
    data = msgspec.json.encode(result, enc_hook=float)  # medians come as numpy's floats
    write_whole(paths[0], msgspec.json.format(data, indent=1) + b"\n", mode=0o644)
    write_whole(paths[1], markdown(result).encode(), mode=0o644)
    draw(result, paths[2])
    return paths


def machine() -> str:
    """The machine in words, for results: processor, cores, Python."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"


def pyplot() -> Any:
    """Matplotlib's pyplot, drawing into files only."""
    import matplotlib as mpl  # noqa: PLC0415 - half a second, and few commands draw

    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the backend is chosen

    return plt
