"""What a camera shows lately beside what is usual for it: the context in which triage reads the detectors' verdicts.

Decides what is usual (learned while nothing is found, by context, and of the model's view also by mode) and how far the last few
frames are from it; refuses to say why: `causes.py` does. No clock and no chance: a fold with plain JSON state of some 3 KB a
camera. Topic: detections.

What changes at once was done; what grows is mostly weather.

Source: paper 4.7 (what is monitored); docs/triage.md.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple, NotRequired, TypedDict, TypeVar, cast

from detectors.base import Json
from detectors.calibration import probability
from detectors.triage.layout import STILL, Cells, alike, mixed, packed, striped, told, unpacked
from streams.events import Detections, Mode

LEARN = 40
"""Calm frames before anything counts as usual."""
_MEMORY = 600  # frames over which what is usual follows
_FAST = 0.2  # share of the newest frame in what is shown lately
_FADE = 0.08  # the same for what is not known of every frame
_BEYOND = 6.0  # spreads from usual at which a frame is not learned from, whoever is silent about it
_STRANGE = 3.0  # spreads from usual at which a picture is not usual
_STEP = 2  # frames within which a change counts as sudden
_FLOORS = (0.01, 0.006, 0.0008)  # least spreads of brightness, contrast, sharpness
_VIEW_FLOORS = (0.0015, 0.5)  # of heat and people
_SAMPLES = 8  # calm samples before their usual logit counts
_ALONE = 48  # frames without a second model's word after which no canary answers: one is compared every few frames
_WHOLE = 64  # most numbers of an embedding that is followed
_FARTHEST = 1e4  # squared spreads that one number of an embedding counts at most
_KEPT = 6  # contexts and modes remembered


_T = TypeVar("_T")


class _Level(TypedDict):
    """Running means and variances."""

    count: int
    mean: list[float]
    var: list[float]
    cells: NotRequired[str]  # `layout.packed`
    moves: NotRequired[str]  # how much each usually changes from one frame to the next
    order: NotRequired[list[float]]  # how well the layout correlates with itself, and how striped it is


class _Memory(TypedDict):
    places: dict[str, _Level]  # by context: brightness, contrast, sharpness, seconds waited
    views: dict[str, _Level]  # by context and mode: heat, people
    inner: dict[str, _Level]  # by context and weights: the embedding
    calm: dict[str, list[float]]  # by context and weights that samples are held against: how many, and their usual logit
    picture: list[float]  # lately: brightness, contrast, sharpness
    before: list[list[float]]  # the last frames' own
    jump: list[float]  # most that each changed within two frames since it was usual
    off: int  # frames since the picture or the view is not usual any more
    cells: str
    last: str  # cells of the frame before
    moves: str
    view: list[float]
    attack: float | None  # probability, lately
    logit: float  # the same as a logit, over more samples
    peak: NotRequired[float]  # the highest of them lately, forgotten as newer ones come
    samples: int  # since the picture or the view is not usual any more
    embedding: list[float]
    second: list[float] | None  # agreement with a second model, people by it and by the one that is new
    shared: int  # frames since a second model was asked
    served: NotRequired[dict[str, int]]  # by weights: frames that they answered here; those of the first frame are no news
    context: str
    since_context: int
    waited: float
    refused: float


class _Pattern(NamedTuple):
    """Cells of the picture, and how much each moved."""

    cells: Cells
    moves: Cells


@dataclass(frozen=True)
class Lately:
    """The last few frames beside what is usual. What is not known yet stands at its usual value.

    known: enough calm frames were seen in this context, and in this mode for what is of the model's view.
    brightness, contrast, sharpness: now less usual, in usual spreads; shares: now over usual.
    level: brightness now, 0..1; spread: contrast now.
    layout: how alike the cells are to the usual ones (`layout.alike`), over how alike they usually are, at most 1. striped: share
    of the layout that its rows' or columns' means explain, beyond usual, over what they usually leave. dead: share of cells that
    stand still though they usually move. moves: how much cells move, over usual. sudden: largest share of a change that came within
    two frames. off: frames since the picture or the model's view is not usual any more.
    heat, people: of the model's view, now over usual. blank: heat is as good as nothing.
    attack: probability of adversarial input on the frames lately sampled, None without any. rise: its logit above this camera's
    usual one, over the `samples` taken since the picture or the view is not usual any more; 0 where that is not known. peak: the
    highest probability among these lately.
    inner: mean squared distance of the embedding from its usual place under these weights, in spreads.
    newcomer: frames that the weights that answer have answered here so far, if others did before. stranger: weights answer that are
    neither the reference nor compared with another.
    agreement, missed: of two models on the same frames: F1 of their boxes, and the share of people that the new one does not see.
    moved: frames since another context is claimed. waited_s: seconds beyond usual until a frame is judged. refused: messages
    refused for each that passed.
    """

    known: bool = False
    seen: bool = False
    brightness: float = 0.0
    contrast: float = 0.0
    sharpness: float = 0.0
    contrast_share: float = 1.0
    sharpness_share: float = 1.0
    level: float = 0.5
    spread: float = 0.2
    layout: float = 1.0
    striped: float = 0.0
    dead: float = 0.0
    moves: float = 1.0
    sudden: float = 0.0
    off: int = 0
    heat: float = 1.0
    people: float = 1.0
    blank: bool = False
    attack: float | None = None
    rise: float = 0.0
    peak: float = 1.0
    samples: int = 0
    inner: float = 1.0
    newcomer: int = 10**6
    stranger: bool = False
    agreement: float = 1.0
    missed: float = 0.0
    moved: int = 10**6
    waited_s: float = 0.0
    refused: float = 0.0

    @property
    def picture(self) -> float:
        """How far the picture is from usual: the most of its three numbers, in spreads."""
        return max(abs(self.brightness), abs(self.contrast), abs(self.sharpness))


def follow(state: dict[str, Json], event: Detections, *, learn: bool) -> tuple[dict[str, Json], Lately]:
    """One frame further.

    Args:
        state: what the last call returned, or {}; left untouched.
        event: the judged frame.
        learn: whether nothing is found on this camera, so that the frame may count as usual.

    Returns:
        The new state, and what is to be said of the last frames.
    """
    memory = cast("_Memory", state) if state else _begin(event)
    features, context = event.features, str(event.context)
    picture = [features.brightness, features.contrast, features.sharpness]
    view = [features.heat, float(features.people)]
    embedding = list(features.embedding) if len(features.embedding) <= _WHOLE else []
    key, weights = f"{context}/{event.mode}", f"{context}/{event.weights_digest[:12]}"
    sample = probability(event.scores, event.context)
    waited_s = max(0.0, event.time.timestamp() - event.camera_time.timestamp())
    last = unpacked(memory["last"])
    cells = told(features.fingerprint)
    cells = cells if len(cells) else last
    moved = abs(cells - last) if len(last) else 0 * cells
    pattern = _Pattern(mixed(unpacked(memory["cells"]), cells, _FAST), mixed(unpacked(memory["moves"]), moved, _FAST))
    after: _Memory = {
        **memory,
        "picture": _mixed(memory["picture"], picture, _FAST),
        "before": [*memory["before"], [round(value, 5) for value in picture]][-_STEP - 1 :],
        "cells": packed(pattern.cells),
        "last": packed(cells),
        "moves": packed(pattern.moves),
        "view": _mixed(memory["view"], view, _FAST),
        "attack": _attack(memory["attack"], sample),
        "embedding": _mixed(memory["embedding"], embedding, _FAST) if len(memory["embedding"]) == len(embedding) else embedding,
        "second": _second(memory["second"], event),
        "shared": 0 if event.compared is not None else min(memory["shared"] + 1, 10**6),
        "served": _served(memory, event),
        "context": context,
        "since_context": 0 if context != memory["context"] else min(memory["since_context"] + 1, 10**6),
        "waited": round(memory["waited"] + _FAST * (waited_s - memory["waited"]), 4),
        "refused": round(memory["refused"] + _FAST * (min(event.refused, 1000) - memory["refused"]), 4),
    }
    place, seen = memory["places"].get(context), memory["views"].get(key)
    lately = _compared(after, pattern, place, seen, event)
    after["jump"] = _jumps(after, place)
    strange = lately.known and (lately.picture > _STRANGE or (lately.seen and not 0.25 < lately.heat < 4.0))  # noqa: PLR2004 times
    after["off"] = min(memory["off"] + 1, 10**6) if strange else 0
    _sampled(after, sample)
    against = f"{context}/{event.scores.reference_digest[:12]}"
    calm = memory["calm"].get(against, [0.0, 0.0])
    rise = after["logit"] - calm[1] if after["samples"] and calm[0] >= _SAMPLES else 0.0
    inner = _inner(after["embedding"], memory["inner"].get(weights))
    peak = 1.0 / (1.0 + math.exp(-after.get("peak", 0.0))) if after["samples"] else 1.0
    lately = replace(lately, off=after["off"], rise=rise, peak=peak, samples=after["samples"], inner=inner)
    usual = place is None or place["count"] < LEARN or _away(place, picture) < _BEYOND
    if learn and usual:
        after["places"] = _kept(memory["places"], context, _learned(place, [*picture, waited_s], pattern._replace(moves=moved)))
        after["views"] = _kept(memory["views"], key, _learned(seen, view))
        if embedding:
            after["inner"] = _kept(memory["inner"], weights, _learned(memory["inner"].get(weights), embedding))
        if sample is not None and not strange:
            count = min(calm[0] + 1.0, _MEMORY / 8)
            after["calm"] = _kept(memory["calm"], against, [count, round(calm[1] + (_logit(sample) - calm[1]) / count, 4)])
    return cast("dict[str, Json]", after), lately


def _served(memory: _Memory, event: Detections) -> dict[str, int]:
    """The model that comes back after safe mode is no new one: what it sees here is known."""
    weights = event.weights_digest[:12]
    before = memory.get("served", {weights: 10**6})
    return _kept(before, weights, min(before.get(weights, -1) + 1, 10**6))


def _begin(event: Detections) -> _Memory:
    features = event.features
    return {
        "places": {}, "views": {}, "inner": {}, "calm": {},
        "picture": [features.brightness, features.contrast, features.sharpness], "before": [], "jump": [0.0, 0.0, 0.0], "off": 0,
        "cells": "", "last": "", "moves": "", "view": [features.heat, float(features.people)], "embedding": [],
        "attack": None, "logit": 0.0, "samples": 0, "second": None, "shared": 10**6,
        "served": {event.weights_digest[:12]: 10**6}, "context": str(event.context), "since_context": 10**6,
        "waited": max(0.0, event.time.timestamp() - event.camera_time.timestamp()), "refused": 0.0,
    }  # fmt: skip


def _compared(now: _Memory, pattern: _Pattern, place: _Level | None, seen: _Level | None, event: Detections) -> Lately:
    lately: dict[str, float | bool | int | None] = {
        "level": now["picture"][0],
        "spread": now["picture"][1],
        "attack": now["attack"],
        "newcomer": now["served"][event.weights_digest[:12]],
        "moved": now["since_context"],
        "refused": now["refused"],
        "stranger": event.mode is Mode.NORMAL and event.weights_digest != event.scores.reference_digest and now["shared"] > _ALONE,
    }
    if now["second"] is not None and now["shared"] < LEARN:
        agreement, other, own = now["second"]
        lately |= {"agreement": agreement, "missed": max(0.0, other - own) / max(0.5, other)}
    if place is not None and place["count"] >= LEARN:
        away = [_spreads(place, at, now["picture"][at], floor) for at, floor in enumerate(_FLOORS)]
        usual = _Pattern(unpacked(place["cells"]), unpacked(place["moves"]))
        moving = usual.moves > 2 * STILL
        total = [abs(value - mean) for value, mean in zip(now["picture"], place["mean"], strict=False)]
        sudden = max(
            (jump / each for jump, each, far in zip(now["jump"], total, away, strict=True) if abs(far) > 3 and each > 0),  # noqa: PLR2004 spreads
            default=0.0,
        )
        lately |= {
            "known": True,
            "brightness": away[0],
            "contrast": away[1],
            "sharpness": away[2],
            "contrast_share": now["picture"][1] / max(place["mean"][1], 1e-3),
            "sharpness_share": now["picture"][2] / max(place["mean"][2], 1e-4),
            "layout": min(1.0, alike(pattern.cells, usual.cells) / max(place["order"][0], 0.5)),
            "striped": (striped(pattern.cells) - place["order"][1]) / max(0.05, 1.0 - place["order"][1]),
            "dead": float((pattern.moves < STILL)[moving].mean()) if moving.any() else 0.0,
            "moves": (float(pattern.moves.sum()) + len(moving)) / max(1.0, float(usual.moves.sum()) + len(moving)),
            "sudden": min(1.0, sudden),
            "waited_s": max(0.0, now["waited"] - place["mean"][3]),
        }
    if seen is not None and seen["count"] >= LEARN:
        lately |= {
            "seen": True,
            "heat": now["view"][0] / max(seen["mean"][0], 1e-4),
            "people": (now["view"][1] + 0.5) / (seen["mean"][1] + 0.5),
            "blank": now["view"][0] < 0.05 * seen["mean"][0],
        }
    return Lately(**lately)  # type: ignore[arg-type] # one value a field


def _jumps(now: _Memory, place: _Level | None) -> list[float]:
    """The most that brightness, contrast and sharpness changed within two frames since each was usual."""
    if place is None or len(now["before"]) <= _STEP:
        return now["jump"]
    first, newest = now["before"][0], now["before"][-1]
    return [
        0.0 if abs(_spreads(place, at, newest[at], floor)) < 2 else round(max(now["jump"][at], abs(newest[at] - first[at])), 5)  # noqa: PLR2004 spreads
        for at, floor in enumerate(_FLOORS)
    ]


def _attack(before: float | None, sample: float | None) -> float | None:
    if sample is None:
        return before
    return round(sample if before is None else before + 2 * _FAST * (sample - before), 4)


def _sampled(now: _Memory, sample: float | None) -> None:
    """Takes note of a sample, if there is one, since the camera is not as usual."""
    if now["off"] == 0:
        now["samples"] = 0
    elif sample is not None:
        logit = _logit(sample)
        now["logit"] = round(logit if now["samples"] == 0 else now["logit"] + _FAST * (logit - now["logit"]), 4)
        fading = now.get("peak", logit) + _FADE * (now["logit"] - now.get("peak", logit))
        now["peak"] = round(logit if now["samples"] == 0 else max(logit, fading), 4)
        now["samples"] = min(now["samples"] + 1, 10**6)


def _logit(share: float) -> float:
    return math.log(max(share, 1e-6) / max(1.0 - share, 1e-6))


def _inner(now: list[float], level: _Level | None) -> float:
    if level is None or level["count"] < LEARN or len(level["mean"]) != len(now):
        return 1.0
    far = [
        min(_FARTHEST, (value - middle) ** 2 / max(wide, (0.02 * middle) ** 2, 1e-12))
        for value, middle, wide in zip(now, level["mean"], level["var"], strict=True)
    ]
    return sum(far) / max(1, len(far))


def _second(before: list[float] | None, event: Detections) -> list[float] | None:
    """Agreement of two models, people by the one in service until now, and by the new one: whichever of them answered."""
    other = event.compared
    if other is None:
        return before
    answered_new = event.weights_digest != event.scores.reference_digest
    people = (other.people, event.features.people) if answered_new else (event.features.people, other.people)
    values = [other.agreement, float(people[0]), float(people[1])]
    return values if before is None else _mixed(before, values, 2 * _FADE)


def _learned(level: _Level | None, values: list[float], pattern: _Pattern | None = None) -> _Level:
    if level is None:
        level = {"count": 0, "mean": values, "var": [0.0] * len(values)}
    count = min(level["count"] + 1, _MEMORY)
    mean, var = [], []
    for value, middle, wide in zip(values, level["mean"], level["var"], strict=True):
        away = value - middle
        mean.append(round(middle + away / count, 6))
        var.append(round(wide + (away * away * (1 - 1 / count) - wide) / count, 9))
    learned: _Level = {"count": count, "mean": mean, "var": var}
    if pattern is not None:
        share = max(1 / count, 0.02)
        usual = mixed(unpacked(level.get("cells", "")), pattern.cells, share)
        learned["cells"] = packed(usual)
        learned["moves"] = packed(mixed(unpacked(level.get("moves", "")), pattern.moves, share))
        order = [alike(pattern.cells, usual), striped(pattern.cells)]
        learned["order"] = _mixed(level.get("order", order), order, share)
    return learned


def _kept(levels: dict[str, _T], key: str, level: _T) -> dict[str, _T]:
    """The levels used last."""
    others = {name: one for name, one in levels.items() if name != key}
    return dict(list(others.items())[1 - _KEPT :]) | {key: level}


def _away(place: _Level, picture: list[float]) -> float:
    return max(abs(_spreads(place, at, picture[at], floor)) for at, floor in enumerate(_FLOORS))


def _spreads(place: _Level, at: int, value: float, floor: float) -> float:
    return (value - place["mean"][at]) / max(math.sqrt(max(0.0, place["var"][at])), floor)


def _mixed(before: list[float], now: list[float], share: float) -> list[float]:
    return [round(old + share * (new - old), 6) for old, new in zip(before, now, strict=True)]
