"""An experiment's result on disk: NAME.json, NAME.md and NAME.png beside one another.

It decides names and order - the numbers first, so that what took hours to measure outlives a table or a picture that fails - and
refuses nothing. What stands in table and picture is each report's own. No topic.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import matplotlib as mpl
import msgspec

from inference.training.curves import whole

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
    whole(paths[0], lambda path: path.write_bytes(msgspec.json.format(data, indent=1) + b"\n"))
    whole(paths[1], lambda path: path.write_text(markdown(result), encoding="utf-8"))
    draw(result, paths[2])
    return paths


def pyplot() -> Any:
    """Matplotlib's pyplot, drawing into files only."""
    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the backend is chosen

    return plt
