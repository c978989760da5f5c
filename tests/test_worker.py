"""The worker's promises, without a broker: doubles stand for Kafka's clients and for the network."""

import threading
from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from a_worker import NORMAL, NOW, OTHER, SAFE, Network, Site, load
from kafka.errors import RebalanceInProgressError

from inference.service.backlog import Backlog, Batches
from inference.service.forward import Forward
from inference.service.serving import View
from responders.engine.incident import Finding
from streams import topics
from streams.errors import BrokenContract, Refusal, Tampered, Unavailable
from streams.events import Candidate, Context, DeadLetter, Detections, Kind, Mode, Phase, RolloutPhase, Signal, WorkerStatus
from streams.sources.base import Picture


@pytest.fixture
def site() -> Site:
    site = Site()
    for context in Context:
        site.serve(context)
    return site


def test_no_frame_is_read_before_every_context_has_weights() -> None:
    site = Site()
    site.serve(Context.URBAN)
    site.shoot(0)
    site.rounds(3)
    assert site.read(topics.DETECTIONS) == []
    assert site.log.committed == 0
    assert {status.health for status in site.read(topics.WORKER_STATUS)} == {"failing"}


def test_every_frame_is_judged_and_says_by_which_weights(site: Site) -> None:
    for sequence in range(9):
        site.shoot(sequence)
    site.rounds(5)
    judged: list[Detections] = site.read(topics.DETECTIONS)
    assert [one.sequence for one in judged] == list(range(9))
    assert {(one.weights_digest, one.mode, one.decision_id) for one in judged} == {(NORMAL, Mode.NORMAL, "initial-urban")}
    assert [one.frame_offset for one in judged] == list(range(9))
    assert any(one.scores.inconsistency is not None for one in judged)


def test_a_switch_is_reported_with_the_offset_from_which_it_holds(site: Site) -> None:
    for sequence in range(4):
        site.shoot(sequence)
    site.rounds(4)
    site.serve(Context.URBAN, SAFE, Mode.SAFE, "decision-7")
    for sequence in range(4, 8):
        site.shoot(sequence)
    site.rounds(4)
    judged: list[Detections] = site.read(topics.DETECTIONS)
    last: WorkerStatus = site.read(topics.WORKER_STATUS)[-1]
    (urban,) = [serving for serving in last.serving if serving.context == Context.URBAN]
    assert (urban.weights_digest, urban.decision_id) == (SAFE, "decision-7")
    assert [one.weights_digest for one in judged] == [NORMAL] * 4 + [SAFE] * 4
    assert urban.from_offsets[0].offset == judged[4].frame_offset
    assert {one.scores.reference_digest for one in judged} == {NORMAL}


def test_the_same_order_again_changes_nothing(site: Site) -> None:
    site.rounds()
    before = site.read(topics.WORKER_STATUS)[-1].serving
    site.serve(Context.URBAN)
    site.shoot(0)
    site.rounds(3)
    assert site.read(topics.WORKER_STATUS)[-1].serving == before


def test_an_old_order_that_arrives_late_is_not_obeyed(site: Site) -> None:
    site.serve(Context.URBAN, SAFE, Mode.SAFE, "decision-7", later_s=5)
    site.serve(Context.URBAN, NORMAL, Mode.NORMAL, "decision-6", later_s=3)
    site.rounds(2)
    modes = {serving.context: serving.mode for serving in site.read(topics.WORKER_STATUS)[-1].serving}
    assert modes[Context.URBAN] == Mode.SAFE


def test_weights_that_were_tampered_with_are_not_served_and_not_reported(site: Site) -> None:
    site.rounds()
    site.serve(Context.URBAN, OTHER, Mode.SAFE, "decision-8")
    site.shoot(0)
    site.rounds(3)
    last: WorkerStatus = site.read(topics.WORKER_STATUS)[-1]
    assert last.health == "failing"
    assert {serving.weights_digest for serving in last.serving} == {NORMAL}
    assert site.read(topics.DETECTIONS)[0].weights_digest == NORMAL
    assert site.read(topics.DEAD_LETTER)[0].topic == topics.MODEL_STATE.name


def test_weights_that_were_tampered_with_are_signalled_once_until_an_order_verifies(site: Site) -> None:
    site.rounds()
    site.serve(Context.URBAN, OTHER, Mode.NORMAL, "decision-8")
    site.rounds(3)
    site.serve(Context.URBAN, SAFE, Mode.SAFE, "decision-9", later_s=1)
    site.rounds(3)
    signals: list[Signal] = site.read(topics.SIGNALS)
    assert [(one.kind, one.phase, one.detector) for one in signals] == [
        (Kind.TAMPERING, Phase.RAISED, "model-check"),
        (Kind.TAMPERING, Phase.CALM, "model-check"),
    ]
    assert "not what they were" in signals[0].message


def test_a_candidate_that_was_tampered_with_is_signalled_though_it_serves_nothing(site: Site) -> None:
    site.rounds()
    candidate = Candidate(weights_digest=OTHER, phase=RolloutPhase.SHADOW, share=0.0, rollout_id="r")
    site.serve(Context.URBAN, decision="decision-8", candidate=candidate, later_s=1)
    site.rounds(3)
    [signal] = site.read(topics.SIGNALS)
    assert (signal.phase, signal.detector, signal.context) == (Phase.RAISED, "standby-check", Context.URBAN)
    site.serve(Context.URBAN, decision="decision-9", later_s=2)
    site.rounds(3)
    assert site.read(topics.SIGNALS)[-1].phase is Phase.CALM


def test_a_bad_frame_is_dead_lettered_signalled_and_the_stream_goes_on(site: Site) -> None:
    site.shoot(0)
    site.shoot(1, signature="forged")
    site.shoot(2)
    site.rounds(3)
    (letter,) = site.read(topics.DEAD_LETTER)
    (signal,) = site.read(topics.SIGNALS)
    assert isinstance(letter, DeadLetter)
    assert isinstance(signal, Signal)
    assert (letter.reason, letter.offset) == (Refusal.BAD_SIGNATURE, 1)
    assert (signal.phase, signal.camera_id) == (Phase.RAISED, "gate")
    assert [one.sequence for one in site.read(topics.DETECTIONS)] == [0, 2]


def test_nothing_is_committed_before_the_broker_has_what_came_of_it(site: Site) -> None:
    site.rounds()
    site.shoot(0)
    site.log.away = True
    with pytest.raises(Unavailable, match="takes no messages"):
        site.rounds(2)
    assert site.log.committed == 0
    again = Site(site.log)
    again.log.away = False
    again.rounds(3)
    assert [one.sequence for one in again.read(topics.DETECTIONS)] == [0]


def test_a_worker_that_starts_again_judges_the_same_frame_under_the_same_id(site: Site) -> None:
    site.shoot(0)
    site.rounds(2)
    site.log.committed = 0  # killed before it could commit
    Site(site.log).rounds(2)
    first, second = site.read(topics.DETECTIONS)
    assert first.id == second.id


def test_a_switch_to_safe_mode_loads_nothing_and_holds_for_the_very_next_frame() -> None:
    loaded: list[str] = []
    site = Site(load=lambda digest: loaded.append(digest) or load(digest))
    for context in Context:
        site.serve(context)
    for sequence in range(20):
        site.shoot(sequence)
    site.rounds(4)  # in the middle of a backlog, with large batches
    assert sorted(loaded) == [NORMAL, SAFE]
    before = len(site.read(topics.DETECTIONS))
    site.serve(Context.URBAN, SAFE, Mode.SAFE, "decision-7")
    site.rounds()
    (first,) = site.read(topics.DETECTIONS)[before:]
    assert (first.weights_digest, first.mode) == (SAFE, Mode.SAFE)
    assert sorted(loaded) == [NORMAL, SAFE]


def test_a_model_that_verifies_but_answers_with_nonsense_does_not_serve() -> None:
    class Broken:
        def look(self, pictures: Sequence[Picture]) -> list[View]:
            raise RuntimeError(f"{len(pictures)} nonsense")

    site = Site(load=lambda digest: Broken() if digest == OTHER else load(digest))
    for context in Context:
        site.serve(context)
    site.rounds()
    site.serve(Context.URBAN, OTHER, Mode.NORMAL, "decision-8")
    site.shoot(0)
    site.rounds(2)
    last: WorkerStatus = site.read(topics.WORKER_STATUS)[-1]
    assert last.health == "failing"
    assert "nonsense" in last.subject
    assert site.metrics.registry.get_sample_value("kerbwatch_model_faults", {"worker": "w1"}) == 1
    assert site.read(topics.DETECTIONS)[0].weights_digest == NORMAL


def test_batches_grow_under_backlog_and_are_single_frames_when_idle() -> None:
    batches = Batches(8)
    sizes = []
    for came in (1, 2, 4, 8, 8, 8, 3, 1, 0, 0):
        sizes.append(batches.size)
        batches.read(came)
    assert sizes == [1, 2, 4, 8, 8, 8, 8, 3, 1, 1]


class Small(Network):
    """Has memory for `room` pictures at once."""

    room = 2
    passes: list[int]

    def look(self, pictures: Sequence[Picture]) -> list[View]:
        self.passes.append(len(pictures))
        if len(pictures) > self.room:
            raise RuntimeError("[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer of size 9")
        return super().look(pictures)


def test_a_batch_that_does_not_fit_into_memory_is_halved_until_it_does_and_stays_so() -> None:
    network, forward = Small(NORMAL), Forward(most_px=8 * 100)
    network.passes = []
    pictures = [np.zeros((10, 10, 3), np.uint8)] * 8
    assert len(forward.look(network, pictures)) == 8
    assert network.passes == [8, 4, 2, 2, 2, 2]
    network.passes = []
    forward.look(network, pictures)
    assert network.passes == [2, 2, 2, 2]
    assert forward.shortages == 2
    network.room = 0
    assert forward.look(network, pictures[:2]) == [None, None]
    with pytest.raises(RuntimeError, match="else"):
        forward.look(Failing(NORMAL), pictures)


class Failing(Network):
    def look(self, pictures: Sequence[Picture]) -> list[View]:
        raise RuntimeError(f"something else with {len(pictures)} pictures")


def test_a_frame_that_fits_into_no_memory_is_left_out_on_the_record_and_the_stream_goes_on(site: Site) -> None:
    site.rounds(2)
    loaded: dict[str, Any] = site.worker._judge.models._loaded
    small = Small(NORMAL)
    small.passes, small.room = [], 0
    whole, loaded[NORMAL] = loaded[NORMAL], small
    site.shoot(0)
    site.rounds()
    loaded[NORMAL] = whole
    site.shoot(1)
    site.rounds()
    assert [one.sequence for one in site.read(topics.DETECTIONS)] == [1]
    (letter,) = site.read(topics.DEAD_LETTER)
    assert (letter.reason, letter.offset) == (Refusal.OVERLOAD, 0)


class Blinded(Network):
    """Has no finite answer to a bright picture, as half precision may."""

    def look(self, pictures: Sequence[Picture]) -> list[View]:
        if any(picture.mean() > 200 for picture in pictures):
            raise BrokenContract("numbers that are not finite")
        return super().look(pictures)


def blinded(digest: str) -> Any:
    return Blinded(digest) if digest == NORMAL else load(digest)


def test_a_frame_that_the_model_does_not_answer_is_left_out_alone_and_told_and_the_stream_goes_on() -> None:
    site = Site(load=blinded)
    for context in Context:
        site.serve(context)
    for sequence in range(8):
        site.shoot(sequence, grey=250 if sequence == 5 else 90, camera="bridge" if sequence % 2 else "gate")
    site.rounds(5)
    assert sorted(one.sequence for one in site.read(topics.DETECTIONS)) == [0, 1, 2, 3, 4, 6, 7]
    (letter,) = site.read(topics.DEAD_LETTER)
    assert (letter.reason, letter.offset, letter.body) == (Refusal.AGENT_FAULT, 5, b"")
    (signal,) = [one for one in site.read(topics.SIGNALS) if one.kind is Kind.BAD_INPUT]
    assert (signal.phase, signal.camera_id) == (Phase.RAISED, "bridge")
    assert "not finite" in site.read(topics.WORKER_STATUS)[-1].subject
    assert site.log.committed == 8
    for sequence in range(8, 120):
        site.shoot(sequence)
    site.rounds(40)
    assert site.read(topics.WORKER_STATUS)[-1].subject == "w1"
    assert len(site.read(topics.DETECTIONS)) == 119


def test_a_reference_that_does_not_answer_costs_the_frame_its_scores_and_nobody_the_safe_model() -> None:
    site = Site(load=blinded)
    for context in Context:
        site.serve(context, SAFE, Mode.SAFE, f"safe-{context}")
    for sequence in range(12):
        site.shoot(sequence, grey=250 if sequence < 6 else 90)
    site.rounds(6)
    judged: list[Detections] = site.read(topics.DETECTIONS)
    assert [(one.sequence, one.weights_digest) for one in judged] == [(sequence, SAFE) for sequence in range(12)]
    assert {one.sequence >= 6 for one in judged if one.scores.inconsistency is not None} == {True}
    status: WorkerStatus = site.read(topics.WORKER_STATUS)[-1]
    assert {one.decision_id for one in status.serving} == {"safe-urban", "safe-highway"}
    assert "not finite" in status.subject
    assert site.read(topics.DEAD_LETTER) == []


def late(site: Site, *ages_s: float) -> None:
    """A frame for each age that it has already."""
    start = site.log.time_s
    for number, age_s in enumerate(ages_s, start=len(site.log.records[topics.FRAMES.name])):
        site.log.time_s = start - age_s
        site.shoot(number)
    site.log.time_s = start


def test_frames_that_waited_too_long_are_dropped_each_with_a_record_and_committed(site: Site) -> None:
    late(site, *[60.0] * 7, *[1.0] * 6)
    site.rounds(9)
    assert [one.sequence for one in site.read(topics.DETECTIONS)] == list(range(7, 13))
    letters: list[DeadLetter] = site.read(topics.DEAD_LETTER)
    assert [(letter.offset, letter.reason) for letter in letters] == [(offset, Refusal.OVERLOAD) for offset in range(7)]
    assert all(letter.body == b"" and letter.body_bytes > 0 for letter in letters)
    assert site.log.committed == 13
    signals: list[Signal] = site.read(topics.SIGNALS)
    assert [one.phase for one in signals] == [Phase.RAISED, Phase.ONGOING, Phase.ONGOING, Phase.CALM]
    assert {(one.kind, one.camera_id) for one in signals} == {(Kind.HEALTH, "w1")}
    assert [one.evidence[0].value for one in signals] == [1, 3, 6, 7]


def newer(signals: Sequence[Signal]) -> bool:
    """Whether the responder takes each of one detector's signals for news after the one before."""
    said = [Finding(one.detector, one.phase, one.window.epoch, one.window.last_sequence) for one in signals]
    return all(before.is_older_than(after) for before, after in pairwise(said))


def test_what_a_worker_says_of_its_backlog_is_news_each_time_although_no_partition_is_ahead_of_another() -> None:
    backlog, told = Backlog("inference/w1", "w1", limit_s=10.0, every=2, calm_after=2), list[Signal]()
    for age_s, at_s in [*[(60.0, 0)] * 5, *[(1.0, 0)] * 2, *[(60.0, -3)] * 3, *[(1.0, -3)] * 2]:  # the clock is set back, too
        signal = backlog.noted(Context.URBAN, age_s, NOW + timedelta(seconds=at_s), dropped=age_s > 10)
        told += [signal] if signal is not None else []
    raised, ongoing, calm = Phase.RAISED, Phase.ONGOING, Phase.CALM
    assert [one.phase for one in told] == [raised, ongoing, ongoing, calm, raised, ongoing, calm]
    assert newer(told)
    assert len({one.id for one in told}) == len(told)


def test_a_worker_that_starts_again_says_calm_of_its_backlog_after_enough_frames_in_time(site: Site) -> None:
    late(site, *[60.0] * 2)
    site.rounds(3)
    again = Site(site.log)
    late(again, *[1.0] * 4)
    again.rounds(4)
    assert [one.phase for one in site.read(topics.SIGNALS)] == [Phase.RAISED]
    late(again, *[1.0] * 9)
    again.rounds(5)
    assert [one.phase for one in site.read(topics.SIGNALS)] == [Phase.RAISED, Phase.CALM]


def intake_says(site: Site, camera: str = "gate") -> list[Signal]:
    return [one for one in site.read(topics.SIGNALS) if one.kind is Kind.BAD_INPUT and one.camera_id == camera]


def test_a_worker_that_starts_again_proves_by_good_frames_of_a_camera_that_its_trouble_is_over(site: Site) -> None:
    for sequence in range(6):
        site.shoot(sequence, signature="good" if sequence < 3 else "forged")
    site.rounds(5)
    again = Site(site.log)
    for sequence in range(10, 49):
        again.shoot(sequence)
        again.shoot(sequence, camera="bridge")
    again.rounds(25)
    assert [one.phase for one in intake_says(site)] == [Phase.RAISED]
    again.shoot(50)
    for sequence in range(51, 130):
        again.shoot(sequence)
    again.rounds(25)
    assert [one.phase for one in intake_says(site)] == [Phase.RAISED, Phase.CALM]
    assert newer(intake_says(site))
    assert intake_says(site, "bridge") == []


def test_what_a_worker_told_of_cameras_that_others_had_meanwhile_counts_no_more(site: Site) -> None:
    for sequence in range(6):
        site.shoot(sequence, signature="good" if sequence < 3 else "forged")
    site.rounds(5)
    site.worker._frames.on_partitions_assigned(site.worker._frames._consumer.assignment())
    site.shoot(10)
    site.rounds(3)
    site.shoot(11, signature="forged")
    for sequence in range(12, 60):
        site.shoot(sequence)
    site.rounds(20)
    assert [one.phase for one in intake_says(site)] == [Phase.RAISED, Phase.RAISED, Phase.CALM]
    assert newer(intake_says(site))


def test_dropped_frames_are_not_committed_before_the_broker_has_their_record(site: Site) -> None:
    site.rounds()
    late(site, 60.0)
    site.log.away = True
    with pytest.raises(Unavailable):
        site.rounds(3)
    assert site.log.committed == 0


def test_evidence_is_judged_however_late_it_is(site: Site) -> None:
    site.rounds()
    site.worker._judge.sampler._cameras.clear()
    late(site, 60.0)
    site.rounds()
    site.serve(Context.URBAN, SAFE, Mode.SAFE, "decision-7")  # an incident is open
    late(site, 60.0)
    site.rounds()
    site.serve(Context.URBAN, NORMAL, Mode.NORMAL, "decision-8")
    late(site, 60.0)
    site.rounds()
    assert [one.sequence for one in site.read(topics.DETECTIONS)] == [1]


def test_newest_first_gives_up_the_backlog_for_fresh_frames() -> None:
    ages = [60.0, 9.0, 5.0, 2.0, 9.0]
    judged = {}
    for newest_first in (False, True):
        site = Site(newest_first=newest_first)
        for context in Context:
            site.serve(context)
        late(site, *ages)
        site.rounds(6)
        judged[newest_first] = [one.sequence for one in site.read(topics.DETECTIONS)]
    assert judged == {False: [1, 2, 3, 4], True: [3, 4]}


def test_a_worker_that_starts_carries_out_the_newest_order_of_each_context_and_none_before_it() -> None:
    loaded: list[str] = []
    site = Site(load=lambda digest: loaded.append(digest) or load(digest))
    site.serve(Context.URBAN, OTHER, decision="gone since", later_s=1)
    site.serve(Context.HIGHWAY)
    site.serve(Context.URBAN, SAFE, Mode.SAFE, "newest", later_s=3)
    site.serve(Context.URBAN, OTHER, decision="late", later_s=2)  # a stalled responder's, behind the newer one
    site.rounds()
    status: WorkerStatus = site.read(topics.WORKER_STATUS)[-1]
    assert {(one.context, one.decision_id) for one in status.serving} == {
        (Context.URBAN, "newest"),
        (Context.HIGHWAY, "initial-highway"),
    }
    assert OTHER not in loaded
    assert site.read(topics.DEAD_LETTER) == []


def test_a_worker_that_starts_knows_the_newest_of_many_orders_before_it_judges() -> None:
    site = Site()
    site.serve(Context.HIGHWAY)
    for number in range(600):  # more than a poll brings by itself
        site.serve(Context.URBAN, decision=f"before-{number}", later_s=number)
    site.serve(Context.URBAN, SAFE, Mode.SAFE, "newest", later_s=601)
    site.shoot(0)
    site.rounds()
    assert [one.decision_id for one in site.read(topics.DETECTIONS)] == ["newest"]


def test_a_worker_that_was_held_up_for_seconds_judges_nothing_before_it_knows_what_was_asked_for_meanwhile(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: Any = site.worker._clients.states
    poll = states.poll
    site.rounds(2)
    monkeypatch.setattr(states, "poll", lambda timeout_ms=0, **limits: poll(**limits) if timeout_ms else {})  # it is under way
    site.serve(Context.URBAN, SAFE, Mode.SAFE, "meanwhile", later_s=1)
    site.shoot(0)
    site.clock_s += 8.0
    site.rounds()
    assert [one.decision_id for one in site.read(topics.DETECTIONS)] == ["meanwhile"]
    states.away = True
    site.shoot(1)
    site.clock_s += 8.0
    with pytest.raises(Unavailable, match="what is to be served"):
        site.rounds()
    assert len(site.read(topics.DETECTIONS)) == 1


def test_a_worker_that_its_group_does_not_take_back_for_a_minute_starts_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise RebalanceInProgressError

    site.rounds()
    commit = site.worker._clients.frames.commit
    for refused in (refuse, commit, refuse):  # what is taken back in between counts anew
        monkeypatch.setattr(site.worker._clients.frames, "commit", refused)
        for _ in range(2):
            site.rounds()
            site.clock_s += 20.0
    site.clock_s += 30.0
    with pytest.raises(Unavailable, match="has not taken this one back for 60 s"):
        site.rounds()


def test_an_order_that_nobody_understands_hides_no_order_before_it() -> None:
    site = Site()
    for context in Context:
        site.serve(context)
    site.log.put(topics.MODEL_STATE.name, b"{", Context.URBAN.encode())
    site.rounds()
    status: WorkerStatus = site.read(topics.WORKER_STATUS)[-1]
    assert {one.context for one in status.serving} == set(Context)
    assert len(site.read(topics.DEAD_LETTER)) == 1


def test_after_an_error_nothing_is_committed_that_may_not_be_judged(site: Site) -> None:
    site.rounds()
    site.shoot(0)
    site.worker._judge.models._loaded[NORMAL] = Failing(NORMAL)
    with pytest.raises(RuntimeError, match="something else"):
        site.worker.run(threading.Event())
    assert site.log.committed == 0
    again = Site(site.log)
    again.rounds(3)
    assert [one.sequence for one in again.read(topics.DETECTIONS)] == [0]


def test_an_order_that_waits_for_its_weights_is_not_displaced_by_an_older_one() -> None:
    weights = {NORMAL: Network(NORMAL), SAFE: Network(SAFE)}
    missing = Unavailable("its file is being replaced")

    def opened(digest: str) -> Any:
        if digest in weights:
            return weights[digest]
        raise missing

    site = Site(load=opened)
    for context in Context:
        site.serve(context)
    site.rounds()
    site.serve(Context.URBAN, OTHER, decision="newer", later_s=5)
    site.rounds()
    site.serve(Context.URBAN, SAFE, Mode.SAFE, "stalled", later_s=2)
    site.rounds()
    weights[OTHER] = Network(SAFE)
    site.rounds(12)
    status: WorkerStatus = site.read(topics.WORKER_STATUS)[-1]
    assert {one.decision_id for one in status.serving} == {"newer", "initial-highway"}
    assert status.health == "serving"


def test_weights_that_were_missing_and_come_back_altered_are_told_as_tampered() -> None:
    errors: list[Exception] = [Unavailable("its file is being replaced"), Tampered("its file was altered")]
    site = Site(load=lambda digest: load(digest) if digest != OTHER else refuse(errors[0]))

    def refuse(error: Exception) -> Any:
        raise error

    for context in Context:
        site.serve(context)
    site.serve(Context.URBAN, OTHER, decision="newer", later_s=5)
    site.rounds(2)
    assert site.read(topics.SIGNALS) == []
    del errors[0]
    site.rounds(12)
    assert [(one.detector, one.phase) for one in site.read(topics.SIGNALS)] == [("model-check", Phase.RAISED)]
    assert "altered" in site.read(topics.WORKER_STATUS)[-1].subject
