"""What protection costs, section 6 of the paper measured here: cleaning, latency, processor time, memory, quantised models.

It decides what is measured and how thoroughly; how stands in `inference.service.bench`, `inference.lifecycle.gate` (latency of two
models), `quantisation` and `footprint` beside this module. All in one run and one thread, on frames of a calm camera: under
suspicion every frame is looked at twice. It refuses to compare runs with one another. No topic and no broker.

Source: paper section 6: sanitising 5 to 8 ms a frame; 47 ms against 39 ms with an adversarially trained model; 2.3 GB more memory;
12 to 15 % more processor time; quantised models 8 % over unprotected inference, 94 % of robustness kept.
"""

from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path

import msgspec

from inference.experiments.footprint import Footprint, calm_frames, footprints
from inference.experiments.quantisation import Inference, compare
from inference.lifecycle.gate import latency_ratio
from inference.lifecycle.quantising import calibration, quantised
from inference.provenance.registry import registry_of, shipped
from inference.service.bench import WARM_UP, Cleaning, Protection, bench_protection, bench_sanitise
from inference.service.intake import decode_picture
from inference.service.serving import load
from inference.training.pools import HELD_OUT, SPLIT_SEED
from inference.training.samples import Sample, halved, penn_fudan, split, streets
from infra.keys import model_key, verify_frame
from infra.settings import Settings
from streams.events import Context, Mode
from streams.sources.scenery import Weather

CHAINS = ("jpeg-75", "median-3", "bits-5", "median-3+jpeg-60")
"""Ways of cleaning a picture; the first is what safe mode does by default."""

_STREET_SEEDS, _STREET_SHOTS = range(100, 112), (15, 90)
_WEATHERS = (Weather.DAY, Weather.DUSK)
_CLEANED = 48


class Effort(msgspec.Struct, frozen=True, kw_only=True):
    """How thoroughly: frames judged both ways, rounds of the quantised models' timing, pictures that are attacked."""

    name: str
    frames: int
    rounds: int
    photographs: int
    streets: int


EFFORTS = {
    "full": Effort(name="full", frames=512, rounds=80, photographs=HELD_OUT, streets=16),
    "quick": Effort(name="quick", frames=128, rounds=24, photographs=6, streets=2),
}
"""About five minutes on two quiet cores, and one."""


class Overheads(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. `protection` is without cleaning, `cleaned` with safe mode's.

    safe_over_normal: latency of the adversarially trained model over the normal one's, paired. quantised: the safe model's first.
    photographs: how many of the attacked pictures are real.
    """

    cleaning: tuple[Cleaning, ...]
    protection: Protection
    cleaned: Protection
    safe_over_normal: float
    memory: tuple[Footprint, ...]
    quantised: tuple[Inference, ...]
    effort: Effort
    photographs: int
    command: str
    machine: str


def unseen(shared_data: Path, effort: Effort) -> list[Sample]:
    """Pictures with people that no training and no calibration saw: photographs at half size if at hand, drawn town streets."""
    photographs: list[Sample] = []
    if (shared_data / "pennfudan").is_dir():
        held = split(penn_fudan(shared_data / "pennfudan"), HELD_OUT, SPLIT_SEED)[1]
        photographs = [halved(one) for one in held[: effort.photographs]]
    each = -(-effort.streets // len(_WEATHERS))
    places = -(-each // len(_STREET_SHOTS))
    drawn = [
        one
        for weather in _WEATHERS
        for one in streets(Context.URBAN, weather, _STREET_SEEDS[:places], _STREET_SHOTS, seen=0.0)[:each]
    ]
    return photographs + drawn[: effort.streets]


def measure(
    settings: Settings,
    effort: Effort,
    *,
    now: Callable[[], datetime],
    say: Callable[[str, int, int], object],
    command: str,
    machine: str,
) -> Overheads:
    """Measure everything, in a home of its own.

    Args:
        settings: whose home takes keys and models; it should be an empty one.
        effort: how thoroughly.
        now: the time, UTC.
        say: told what is done, how much of it, and of how much (0: nobody knows).
        command: what was typed, for the result.
        machine: where, in words, for the result.

    Raises:
        Unavailable: where the system does not tell a process's memory. Else as `Registry.read`.
    """
    model_key(settings)
    registry = registry_of(settings)
    models = shipped(registry)
    normal, safe = models[Mode.NORMAL], models[Mode.SAFE]
    say("drawing streets, reading photographs", 0, 0)
    samples, ranges, start = unseen(settings.shared_data, effort), calibration(settings.shared_data), now()
    say("quantising", 0, 0)
    small = {digest: quantised(registry, digest, ranges, now).digest for digest in (safe, normal)}
    total = WARM_UP + effort.frames
    frames = []
    for one in calm_frames(settings, total, start):
        frames.append(one)
        say("drawing frames", len(frames), total)
    network = load(registry, normal, threads=1)
    pictures = [decode_picture(one.body, one.frame) for one in frames[:_CLEANED]]
    say("cleaning", 0, 0)
    cleaning = bench_sanitise(network, pictures, CHAINS)
    both = []
    for number, chain in enumerate(("", CHAINS[0])):
        done = iter(range(1, total + 1))
        what = f"protected and unprotected{', cleaned' if number else ''}"
        both.append(
            bench_protection(
                network, frames, partial(verify_frame, settings), score_every=settings.score_every, sanitise=chain,
                tick=lambda what=what, done=done: say(what, next(done), total),  # type: ignore[misc] # defaults bind the loop's values
            )
        )  # fmt: skip
    say("the safe model beside the normal one", 0, 0)
    safe_over_normal = latency_ratio(registry, safe, normal, pictures[0])
    say("memory, each kind in a process of its own", 0, 0)
    memory = footprints(settings, normal, safe, small[safe], start)
    compared = tuple(compare(registry, small[digest], samples, rounds=effort.rounds, tick=say) for digest in (safe, normal))
    return Overheads(
        cleaning=cleaning,
        protection=both[0],
        cleaned=both[1],
        safe_over_normal=round(safe_over_normal, 4),
        memory=memory,
        quantised=compared,
        effort=effort,
        photographs=sum(1 for one in samples if not one.origin.startswith(Context.URBAN)),
        command=command,
        machine=machine,
    )
