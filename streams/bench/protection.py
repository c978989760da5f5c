"""What protection costs in operation: `kerbwatch bench protection` and `kerbwatch bench sanitise`.

It decides on which frames: a calm camera on the drawn street, signed and encoded as a camera sends them, judged with the shipped
models in one thread. What is measured and how is in `inference.service.bench`. No topic and no broker.

Source: paper section 6 (latency with and without protection, sanitising ms).
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec.structs import replace
from rich.console import Console

from inference.provenance.registry import registry_of, shipped
from infra.keys import camera_key, model_key, verify_frame
from infra.settings import Settings, read_settings
from streams.bench.stream import HEIGHT_PX, WIDTH_PX, progress, reel
from streams.camera import Body
from streams.events import Context, Mode
from streams.sources.street import Street

_CHAINS = ("median-3", "median-5", "bits-5", "jpeg-75", "jpeg-50", "median-3+jpeg-60")
_FPS = 5.0
_PICTURES = 72


def protection(
    frames: Annotated[int, typer.Option(help="How many are timed.", min=64)] = 512,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Protected beside unprotected inference, frame by frame, and the switch. Example: `kerbwatch bench protection --json`."""
    from inference.service import bench as service  # noqa: PLC0415 - needs torch

    with tempfile.TemporaryDirectory(prefix="kwb") as folder, progress() as say:
        settings = replace(read_settings(), home=Path(folder))
        load, digests = _shipped(settings)
        say("drawing frames")
        arrived = _arrived(settings, service.WARM_UP + frames)
        network = load(digests[Mode.NORMAL])
        say(f"{frames} frames, protected and unprotected")
        every, clean = settings.score_every, settings.sanitise_normal
        found = service.bench_protection(network, arrived, partial(verify_frame, settings), score_every=every, sanitise=clean)
        say("switching to safe mode and back")
        switch_ms = service.bench_switch(load, digests[Mode.NORMAL], digests[Mode.SAFE], arrived[0])
    if as_json:
        typer.echo(json.dumps({**asdict(found), "switch_ms": switch_ms}))
        return
    console = Console()
    console.print(f"unprotected    {found.unprotected_ms:8.2f} ms a frame")
    console.print(f"protected      {found.protected_ms:8.2f} ms a frame, {found.second_looks:.1%} of them looked at twice")
    console.print(
        f"ratio          {found.ratio:8.3f}    ({found.ratio_low:.3f} to {found.ratio_high:.3f}; processor {found.cpu_ratio:.3f})"
    )
    console.print(f"safe mode after{switch_ms:8.1f} ms")


def sanitise(as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False) -> None:
    """What cleaning pictures costs, each kind beside the forward pass. Example: `kerbwatch bench sanitise --json`."""
    from inference.service import bench as service  # noqa: PLC0415 - needs torch

    with tempfile.TemporaryDirectory(prefix="kwb") as folder, progress() as say:
        settings = replace(read_settings(), home=Path(folder))
        load, digests = _shipped(settings)
        say("cleaning")
        pictures = [shot.picture for shot in reel(Context.URBAN)] * 2
        rows = service.bench_sanitise(load(digests[Mode.NORMAL]), pictures, _CHAINS)
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows]))
        return
    for row in rows:
        Console().print(f"{row.chain:18} {row.clean_ms:7.2f} ms a picture, {row.share_of_inference:6.1%} of the forward pass")


def _shipped(settings: Settings) -> tuple[Callable[[str], Any], dict[Mode, str]]:
    """How to load models in one thread, and the shipped ones' digests, in a registry of this home."""
    from inference.service.serving import load  # noqa: PLC0415 - needs torch

    model_key(settings)
    registry = registry_of(settings)
    return partial(load, registry, threads=1), shipped(registry)


def _arrived(settings: Settings, count: int) -> list[Any]:
    """A calm camera's signed messages: one walk along a street, there and back."""
    from inference.service.bench import arrived  # noqa: PLC0415 - needs torch

    street = [shot.picture for shot in Street(Context.URBAN, width_px=WIDTH_PX, height_px=HEIGHT_PX, fps=_FPS, frames=_PICTURES)]
    walk = [*street, *reversed(street[1:-1])]
    camera = Body("bench", Context.URBAN, camera_key(settings, "bench"))
    start = datetime.now(UTC)
    messages = (
        camera.message(walk[number % len(walk)], 1, number, start + timedelta(seconds=number / _FPS)) for number in range(count)
    )
    return [arrived(message.frame, message.body) for message in messages]
