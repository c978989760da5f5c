"""Signed frames of a calm camera, and how much memory a worker's inference holds with each kind of protection.

It decides what is counted: the resident set of a process of its own, after it judged some frames: only the model in service; the
whole way of a protected frame; and the safe-mode model loaded ahead beside it, as the worker does. Broker, agents and database are
other processes and not counted. It refuses to guess where the system does not tell. No topic.

Source: paper section 6 (2.3 GB more memory for security monitoring).
"""

import hashlib
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import cv2
import msgspec
import numpy as np

from inference.provenance.registry import Registry, registry_of
from inference.service.bench import Arrived, arrived
from inference.service.intake import Intake, decode_picture
from inference.service.judge import Judge
from inference.service.models import Models
from inference.service.sampling import Sampler
from inference.service.serving import load
from infra.keys import camera_key, sign_frame, verify_frame
from infra.settings import Settings
from streams.errors import Unavailable
from streams.events import Context, Frame, Mode, ModelState, event_id
from streams.sources.base import Picture
from streams.sources.street import Street

CAMERA = "overheads"
FPS = 5.0

_FRAMES = 24
_LOOP = 72
_JPEG, _QUALITY = "image/jpeg", 92
_KIB_PER_MIB = 1024


class Footprint(msgspec.Struct, frozen=True, kw_only=True):
    """Resident memory of one process in MiB, and what it had loaded."""

    what: str
    models: tuple[str, ...]
    resident_mib: float


def calm_frames(settings: Settings, count: int, start: datetime) -> Iterator[Arrived]:
    """Messages as a camera signs and encodes them: one walk along a drawn street of 640 x 320 px, there and back, 5 a second.

    Args:
        settings: whose keys; the camera's key is made on first use.
        count: how many.
        start: time of the first, UTC.
    """
    street = [shot.picture for shot in Street(Context.URBAN, frames=min(_LOOP, count), fps=FPS)]
    walk, key = [*street, *reversed(street[1:-1])], camera_key(settings, CAMERA)
    for number in range(count):
        picture = walk[number % len(walk)]
        body = _encoded(picture)
        frame = Frame(
            id=event_id("frame", CAMERA, 1, number), source=f"camera/{CAMERA}", time=start + timedelta(seconds=number / FPS),
            subject=CAMERA, camera_id=CAMERA, context=Context.URBAN, epoch=1, sequence=number, width_px=picture.shape[1],
            height_px=picture.shape[0], content_type=_JPEG, digest=hashlib.sha256(body).hexdigest(), signature="",
        )  # fmt: skip
        yield arrived(sign_frame(key, frame), body)


def footprints(settings: Settings, normal: str, safe: str, quantised: str, start: datetime) -> tuple[Footprint, ...]:
    """Each kind in a fresh process, one after the other; some seconds each.

    Args:
        settings: of the home whose registry holds the models.
        normal: digest of the model in service.
        safe: digest of the safe-mode model.
        quantised: digest of its eight-bit copy.
        start: time of the frames, UTC.

    Raises:
        Unavailable: where the system does not tell a process's memory (it is read from /proc). Else as `Registry.read`.
    """
    kinds: dict[str, tuple[str, ...]] = {
        "unprotected": (normal,),
        "protected": (normal,),
        "protected, safe model loaded ahead": (normal, safe),
        "protected, quantised safe model loaded ahead": (normal, quantised),
    }
    found = []
    for what, models in kinds.items():
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
            mib = fresh.submit(_resident_mib, settings, models, start, protected=what != "unprotected").result()
        found.append(Footprint(what=what, models=models, resident_mib=round(mib, 1)))
    return tuple(found)


def _resident_mib(settings: Settings, models: Sequence[str], start: datetime, *, protected: bool) -> float:
    registry = registry_of(settings)
    frames = list(calm_frames(settings, _FRAMES, start))
    if protected:
        kept: object = _judged(registry, settings, frames, models)
    else:
        kept = network = load(registry, models[0], threads=1)
        for one in frames:
            network.look([decode_picture(one.body, one.frame)])
    found = resident_mib()
    del kept  # it had to be there while memory was read
    return found


def _judged(registry: Registry, settings: Settings, frames: Sequence[Arrived], models: Sequence[str]) -> Judge:
    """A judge that has seen the frames, and has the last of the models at hand beside the first."""
    intake = Intake(verify=partial(verify_frame, settings), allowance_s=60.0)
    with ThreadPoolExecutor(1) as aside:
        judge = Judge(
            Models(partial(load, registry, threads=1), aside),
            "inference/overheads",
            Sampler(settings.score_every),
            time.perf_counter,
        )
        first = frames[0].frame
        judge.models.assign(
            ModelState(
                id="overheads", source="responder/overheads", time=first.time, subject=Context.URBAN, context=Context.URBAN,
                weights_digest=models[0], mode=Mode.NORMAL, reference_digest=models[0], safe_digest=models[-1],
                decision_id="overheads", reason="overheads",
            )
        )  # fmt: skip
        for offset, one in enumerate(frames):
            key = one.frame.camera_id.encode()
            accepted = intake.admit(one.headers, one.body, key=key, partition=0, offset=offset, now=one.frame.time)
            judge.judge([accepted], one.frame.time)
    judge.models.take_in()
    if judge.models.faults:
        raise Unavailable("; ".join(judge.models.faults))
    return judge


def resident_mib() -> float:
    """This process's resident set now. Raises Unavailable without /proc."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / _KIB_PER_MIB
    except (OSError, StopIteration) as error:
        raise Unavailable("/proc/self/status does not tell this process's memory: measure on Linux") from error


def _encoded(picture: Picture) -> bytes:
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(picture[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    assert done
    return data.tobytes()
