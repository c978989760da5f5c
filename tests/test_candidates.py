"""A candidate in shadow and as a canary: compared, served to its share of the cameras, and never at the price of service."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import Any

import pytest
from a_worker import NORMAL, OTHER, SAFE, Network, Site, load
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.service.comparison import agreement
from inference.service.models import Models
from inference.service.serving import View
from streams import topics
from streams.errors import Tampered
from streams.events import Box, Candidate, Context, Detections, Mode, RolloutPhase, WorkerStatus, rollout_share
from streams.sources.base import Picture

CANDIDATE = "d" * 64
SIDES = st.floats(1, 50)
BOXES = st.lists(st.builds(Box, st.floats(0, 90), st.floats(0, 90), SIDES, SIDES, st.floats(0, 1)), max_size=6)


class New(Network):
    """The candidate: sees the same person, less surely."""

    def look(self, pictures: Sequence[Picture]) -> list[View]:
        return [View((Box(1, 2, 3, 4, 0.7),), view.heat, view.embedding) for view in Network(NORMAL).look(pictures)]


def load_all(digest: str) -> Any:
    return New(digest) if digest == CANDIDATE else load(digest)


def rollout(phase: RolloutPhase, share: float = 0.0, digest: str = CANDIDATE) -> Candidate:
    return Candidate(weights_digest=digest, phase=phase, share=share, rollout_id="rollout-1")


def site_with(candidate: Candidate, loader: Callable[[str], Any] = load_all) -> Site:
    site = Site(load=loader)
    for context in Context:
        site.serve(context, candidate=candidate if context is Context.URBAN else None)
    site.rounds(2)
    return site


def shoot(site: Site, cameras: Sequence[str], frames: int = 8) -> list[Detections]:
    for sequence in range(frames):
        for camera in cameras:
            site.shoot(sequence, camera=camera)
    site.rounds(4 + frames * len(cameras) // 4)
    found: list[Detections] = site.read(topics.DETECTIONS)
    assert len(found) == frames * len(cameras)
    return found


def reported(site: Site, context: Context = Context.URBAN) -> str | None:
    site.rounds(2)
    last: WorkerStatus = site.read(topics.WORKER_STATUS)[-1]
    assert last.health == "serving"
    (serving,) = [one for one in last.serving if one.context == context]
    return serving.candidate_digest


def test_in_shadow_the_model_in_service_answers_and_the_candidate_is_compared_on_one_frame_in_four() -> None:
    site = site_with(rollout(RolloutPhase.SHADOW))
    found = shoot(site, ["gate"])
    assert {one.weights_digest for one in found} == {NORMAL}
    compared = {one.sequence: one.compared for one in found if one.compared is not None}
    assert set(compared) == {0, 4}
    for one in compared.values():
        assert (one.weights_digest, one.people, one.agreement) == (CANDIDATE, 1, 1.0)
        assert one.score_mean == pytest.approx(0.7)
    assert (reported(site), reported(site, Context.HIGHWAY)) == (CANDIDATE, None)


def test_a_canary_serves_exactly_the_cameras_that_the_rollout_reaches() -> None:
    cameras = [f"camera-{number}" for number in range(8)]
    share = sorted(rollout_share("rollout-1", camera) for camera in cameras)[3]
    site = site_with(rollout(RolloutPhase.CANARY, share))
    for one in shoot(site, cameras):
        reached = rollout_share("rollout-1", one.camera_id) < share
        assert one.weights_digest == (CANDIDATE if reached else NORMAL)
        assert (one.compared is not None) == (reached and one.sequence % 4 == 0)
        if one.compared is not None:
            assert one.compared.weights_digest == NORMAL
        assert one.scores.reference_digest == NORMAL


def test_in_safe_mode_the_safe_model_answers_although_a_candidate_is_in_shadow() -> None:
    site = site_with(rollout(RolloutPhase.SHADOW))
    site.serve(Context.URBAN, SAFE, Mode.SAFE, "decision-2", later_s=1, candidate=rollout(RolloutPhase.SHADOW))
    assert {one.weights_digest for one in shoot(site, ["gate"])} == {SAFE}


@pytest.mark.parametrize("phase", RolloutPhase)
def test_a_candidate_that_does_not_load_is_reported_and_the_stream_goes_on(phase: RolloutPhase) -> None:
    site = site_with(rollout(phase, 1.0, OTHER))
    found = shoot(site, ["gate"])
    assert {(one.weights_digest, one.compared) for one in found} == {(NORMAL, None)}
    assert reported(site) is None
    assert "not what they were" in site.read(topics.WORKER_STATUS)[-1].subject
    assert site.metrics.registry.get_sample_value("kerbwatch_model_faults", {"worker": "w1"}) == 1


@pytest.mark.parametrize("phase", RolloutPhase)
def test_a_candidate_that_fails_at_work_is_left_out_and_no_frame_stays_unanswered(phase: RolloutPhase) -> None:
    class Tiring(New):
        looks = 0

        def look(self, pictures: Sequence[Picture]) -> list[View]:
            self.looks += 1
            if self.looks > 2:
                raise RuntimeError("no more")
            return super().look(pictures)

    site = site_with(rollout(phase, 1.0), lambda digest: Tiring(digest) if digest == CANDIDATE else load(digest))
    found = shoot(site, ["gate"], frames=16)
    answered = [one.weights_digest for one in found]
    assert answered[-1] == NORMAL
    assert (CANDIDATE in answered) == (phase is RolloutPhase.CANARY)
    assert [one.sequence for one in found] == list(range(16))
    assert reported(site) is None
    assert "no more" in site.read(topics.WORKER_STATUS)[-1].subject


def test_another_order_gives_a_candidate_another_chance_and_its_end_takes_it_out() -> None:
    broken = [True]

    def loader(digest: str) -> Any:
        if digest == CANDIDATE and broken.pop():
            raise Tampered("half written")
        return load_all(digest)

    site = site_with(rollout(RolloutPhase.SHADOW), loader)
    assert reported(site) is None
    broken.append(False)
    site.serve(Context.URBAN, decision="decision-2", later_s=1, candidate=rollout(RolloutPhase.SHADOW))
    assert reported(site) == CANDIDATE
    site.serve(Context.URBAN, decision="decision-3", later_s=2)
    assert reported(site) is None
    assert site.worker._judge.models._loaded.keys() == {NORMAL, SAFE}


def test_a_candidate_is_loaded_beside_the_stream_which_does_not_wait_for_it() -> None:
    class Later(Executor):
        def __init__(self) -> None:
            self.waiting: list[tuple[Future[Any], Callable[[], Any]]] = []

        def submit(self, fn: Callable[..., Any], /, *args: Any, **_: Any) -> Future[Any]:
            future: Future[Any] = Future()
            self.waiting.append((future, lambda: fn(*args)))
            return future

    site = Site()
    later = Later()
    site.worker._judge.models = site.worker._orders._models = Models(load_all, later)
    for context in Context:
        site.serve(context, candidate=rollout(RolloutPhase.CANARY, 1.0))
    assert {one.weights_digest for one in shoot(site, ["gate"], frames=2)} == {NORMAL}
    for future, work in later.waiting:
        future.set_result(work())
    site.shoot(2)
    site.rounds()
    assert site.read(topics.DETECTIONS)[-1].weights_digest == CANDIDATE


@settings(max_examples=30, deadline=None)
@given(one=BOXES, other=BOXES)
def test_agreement_is_symmetric_and_between_nothing_and_all(one: list[Box], other: list[Box]) -> None:
    assert 0 <= agreement(one, other) <= 1
    assert agreement(one, other) == pytest.approx(agreement(other, one))
    assert agreement(one, one) == 1
    assert agreement(one, []) == (0 if one else 1)


def test_agreement_counts_each_box_once() -> None:
    person, copy, elsewhere = Box(0, 0, 10, 20, 0.9), Box(1, 0, 10, 20, 0.8), Box(50, 50, 10, 20, 0.9)
    assert agreement([person], [person, copy]) == pytest.approx(2 / 3)
    assert agreement([person, elsewhere], [copy, elsewhere]) == 1
