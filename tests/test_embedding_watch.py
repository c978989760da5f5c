"""The watch reads whole embeddings too: another kind of picture is told though no single feature shows it."""

import json

import msgspec
import numpy as np
from test_detectors import judged

from detectors.base import Observation
from detectors.catalogue import VECTORS
from detectors.watch import KEPT_BASELINES, watch
from inference.service.serving import EMBEDDING
from streams.events import Detections, Phase

LEARN = VECTORS["drift-embedding"].learn


def seen(number: int, embedding: np.ndarray, **other: object) -> Detections:
    event = judged(number, **other)  # type: ignore[arg-type]
    return msgspec.structs.replace(event, features=msgspec.structs.replace(event.features, embedding=tuple(embedding.tolist())))


def test_an_embedding_that_turns_another_way_is_told_under_its_weights_and_nothing_else_is() -> None:
    rng = np.random.default_rng(5)
    mix = rng.standard_normal((EMBEDDING, EMBEDDING))
    usual = rng.standard_normal((LEARN + 200, EMBEDDING)) @ mix
    other = (rng.standard_normal((150, EMBEDDING)) + 1.0) @ mix
    state: dict = {}
    told = []
    for number, embedding in enumerate([*usual, *other]):
        state, signals = watch(state, seen(number, embedding))
        told += signals
    raised = [one for one in told if one.phase is Phase.RAISED]
    assert [one.detector for one in raised] == ["drift-embedding"]
    assert raised[0].weights_digest == judged(0).weights_digest
    assert LEARN + 200 <= raised[0].window.last_sequence < LEARN + 260
    assert raised[0].evidence[0].name == "embedding"


def test_a_few_attacked_frames_in_the_clean_stretch_do_not_widen_what_is_usual() -> None:
    detector = VECTORS["drift-embedding"].detector
    rng = np.random.default_rng(7)
    usual = rng.standard_normal((LEARN, EMBEDDING))
    attacked = usual.copy()
    attacked[300:306] += 40.0

    def distance(learned: np.ndarray) -> float:
        state = detector.start()
        for number, parts in enumerate(learned):
            state, _ = detector.step(state, Observation(number, 0.0, 1.0, parts=tuple(parts.tolist())))
        away = np.full(EMBEDDING, 1.0) - np.array(state["mean"])
        return float(away @ np.array(state["inverse"]) @ away)

    assert distance(attacked) > 0.4 * distance(usual)  # at full weight it were a hundredth


def test_embeddings_keep_the_state_bounded_and_those_of_another_size_change_nothing() -> None:
    state: dict = {}
    rng = np.random.default_rng(6)
    for number in range(25 * KEPT_BASELINES):
        state, _ = watch(state, seen(number, rng.standard_normal(EMBEDDING), digest=f"{number // 20:064x}"))
    assert len(json.dumps(state, allow_nan=False)) < 300_000
    assert any("drift-embedding" in key for cells in state["baselines"].values() for key in cells)
    short, _ = watch(state, seen(25 * KEPT_BASELINES, rng.standard_normal(3), digest=f"{14:064x}"))
    before, after = (
        next(cell for key, cell in one["baselines"][f"urban/{14:064x}"].items() if "embedding" in key) for one in (state, short)
    )
    assert before["state"] == after["state"]
