"""What protection costs in operation: protected and unprotected inference on the same frames in one run, cleaning, the switch.

It decides what counts as protection: parsing and verifying the message (header, digest, signature, time, size), cues and features,
second looks as often as the sampler asks for them, cleaning where the mode cleans, and the event; unprotected is decoding, the
forward pass and boxes. Frames of a calm camera: under suspicion every frame is looked at twice, and no figure here hides that. It
refuses to compare runs with one another: the two kinds take turns frame by frame. No topic; `kerbwatch bench` calls it.

Source: paper section 6 (latency with and without protection, sanitising ms); bootstrap over blocks, Efron 1979.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from inference.service.intake import Accepted, Intake, decode_picture
from inference.service.judge import Judge, Unjudged
from inference.service.models import Models, Network
from inference.service.sampling import Sampler
from inference.service.sanitise import chain
from streams import codec
from streams.events import Detections, Frame, Mode, ModelState
from streams.sources.base import Picture

WARM_UP = 112
"""Frames before the clock starts: the camera is not new any more then."""
_RESAMPLES = 2000


@dataclass(frozen=True)
class Arrived:
    """A frame message as it comes from Kafka: description, headers, encoded picture."""

    frame: Frame
    headers: tuple[tuple[str, bytes], ...]
    body: bytes


@dataclass(frozen=True)
class Protection:
    """Milliseconds a frame, and protected over unprotected with a 95 % interval; `cpu_ratio`: of processor time.

    second_looks: share of the frames that were looked at twice.
    """

    frames: int
    unprotected_ms: float
    protected_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    cpu_ratio: float
    second_looks: float


@dataclass(frozen=True)
class Cleaning:
    """What one chain costs: milliseconds a picture, and its share of the forward pass."""

    chain: str
    clean_ms: float
    share_of_inference: float


def bench_protection(
    network: Network,
    arrived: Sequence[Arrived],
    verify: Callable[[Frame], None],
    *,
    score_every: int,
    sanitise: str = "",
    tick: Callable[[], object] = lambda: None,
) -> Protection:
    """Both kinds of inference on the same frames, taking turns, the one that goes first changing from frame to frame.

    Args:
        network: what judges; one thread makes the steadiest figures.
        arrived: one camera's messages in order, at least `WARM_UP + 2 * score_every`.
        verify: as the worker's; raises BadInput for a frame that its camera did not sign.
        score_every: as the setting.
        sanitise: the chain of the mode, as the setting.
        tick: called after each frame.
    """
    first = arrived[0].frame
    intake = Intake(verify=verify, allowance_s=60.0)
    with ThreadPoolExecutor(1) as aside:
        judge = Judge(
            Models(lambda _: network, aside), "inference/bench", Sampler(score_every), time.perf_counter,
            {Mode.NORMAL: chain(sanitise)} if sanitise else {},
        )  # fmt: skip
        judge.models.assign(_order(first, "0" * 64, Mode.NORMAL, first.time, "bench-1"))
        answers: list[Detections | Unjudged] = []

        def protected(one: Arrived, offset: int) -> None:
            key = one.frame.camera_id.encode()
            accepted = intake.admit(one.headers, one.body, key=key, partition=0, offset=offset, now=one.frame.time)
            answers.extend(judge.judge([accepted], one.frame.time))

        def unprotected(one: Arrived) -> None:
            network.look([decode_picture(one.body, one.frame)])

        spent = np.zeros((2, 2, len(arrived)))  # unprotected and protected; wall and processor
        for offset, one in enumerate(arrived):
            turns: list[tuple[int, Callable[[], None]]] = [
                (0, lambda one=one: unprotected(one)),  # type: ignore[misc] # a default binds the loop's value
                (1, lambda one=one, offset=offset: protected(one, offset)),  # type: ignore[misc] # same
            ]
            for kind, run in turns if offset % 2 else reversed(turns):
                wall_s, cpu_s = time.perf_counter(), time.process_time()
                run()
                spent[kind, :, offset] = time.perf_counter() - wall_s, time.process_time() - cpu_s
            tick()
    counted = spent[:, :, WARM_UP:]
    wall, cpu = counted.sum(axis=2).T
    low, high = _interval(counted[:, 0], score_every)
    looked = [one.scores.inconsistency is not None for one in answers[WARM_UP:] if isinstance(one, Detections)]
    frames = counted.shape[2]
    return Protection(
        frames=frames,
        unprotected_ms=round(wall[0] / frames * 1e3, 3),
        protected_ms=round(wall[1] / frames * 1e3, 3),
        ratio=round(wall[1] / wall[0], 4),
        ratio_low=low,
        ratio_high=high,
        cpu_ratio=round(cpu[1] / cpu[0], 4),
        second_looks=round(sum(looked) / len(looked), 4),
    )


def bench_sanitise(network: Network, pictures: Sequence[Picture], chains: Iterable[str]) -> tuple[Cleaning, ...]:
    """What each chain costs a picture beside the forward pass, taken in turns; medians."""
    cleaners = {text: chain(text) for text in chains}
    spent: dict[str, list[float]] = {text: [] for text in ("", *cleaners)}
    for picture in pictures:
        for text, times in spent.items():
            began_s = time.perf_counter()
            if text:
                cleaners[text](picture)
            else:
                network.look([picture])
            times.append(time.perf_counter() - began_s)
    forward_s = float(np.median(spent.pop("")))
    medians = {text: float(np.median(times)) for text, times in spent.items()}
    return tuple(Cleaning(text, round(each_s * 1e3, 3), round(each_s / forward_s, 4)) for text, each_s in medians.items())


def bench_switch(load: Callable[[str], Network], normal: str, safe: str, one: Arrived, times: int = 9) -> float:
    """Milliseconds from the order to serve the other model until a frame judged by it; the median of some switches there and back.

    Args:
        load: opens weights by digest.
        normal: digest of the context's normal model.
        safe: digest of its safe-mode model, loaded ahead as in the worker.
        one: the frame.
        times: how many switches.
    """
    accepted = Accepted(one.frame, decode_picture(one.body, one.frame), 0, 0)
    spent = []
    with ThreadPoolExecutor(1) as aside:
        judge = Judge(Models(load, aside), "inference/bench", Sampler(32), time.perf_counter)
        for number in range(times + 1):
            digest, mode = (safe, Mode.SAFE) if number % 2 else (normal, Mode.NORMAL)
            order = replace(
                _order(one.frame, digest, mode, one.frame.time, f"bench-{number}"), reference_digest=normal, safe_digest=safe
            )
            began_s = time.perf_counter()
            judge.models.assign(order)
            (answer,) = judge.judge([accepted], one.frame.time)
            spent.append(time.perf_counter() - began_s)
            assert isinstance(answer, Detections)
            assert answer.weights_digest == digest
            while number == 0 and not judge.models.take_in():
                time.sleep(0.01)
    return round(float(np.median(spent[1:])) * 1e3, 1)


def _order(frame: Frame, digest: str, mode: Mode, at: datetime, decision: str) -> ModelState:
    return ModelState(
        id=decision, source="responder/bench", time=at, subject=frame.context, context=frame.context,
        weights_digest=digest, mode=mode, reference_digest=digest, decision_id=decision, reason="bench",
    )  # fmt: skip


def _interval(spent: NDArray[np.float64], block: int) -> tuple[float, float]:
    """Of the ratio of sums, 95 %, by drawing blocks of frames: each holds one calm second look."""
    blocks = spent.shape[1] // block
    sums = spent[:, : blocks * block].reshape(2, blocks, block).sum(axis=2)
    drawn = np.random.default_rng(0).integers(0, blocks, (_RESAMPLES, blocks))
    ratios = sums[1][drawn].sum(axis=1) / sums[0][drawn].sum(axis=1)
    low, high = np.percentile(ratios, (2.5, 97.5))
    return round(float(low), 4), round(float(high), 4)


def arrived(frame: Frame, body: bytes) -> Arrived:
    """A signed frame and its encoded picture as they come from Kafka."""
    return Arrived(frame, tuple(codec.encode_frame(frame)), body)
