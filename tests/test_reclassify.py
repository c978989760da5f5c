"""An incident that turns out to be of another kind, in the store."""

from dataclasses import replace

import pytest
from incident_events import NORMAL, SAFE, act, at, signal, status

from infra.db import Sessions, reading
from infra.tables import EffectRow, IncidentRow, JudgedFrame
from responders.engine.incident import Verb
from responders.engine.records import listed, shown
from responders.engine.store import Store
from responders.playbooks import playbooks
from responders.playbooks.playbooks import State
from streams import codec
from streams.errors import BadInput
from streams.events import Context, Kind, Mode, ModelState, Phase
from streams.topics import MODEL_STATE

pytest_plugins = ["databases"]


@pytest.fixture
def store(sessions: Sessions) -> Store:
    made = Store(sessions, playbooks.load(), worker_lost_s=600, clock_allowance_s=600)
    made.assign(Context.URBAN, NORMAL, SAFE, at(0))
    return made


def asked(sessions: Sessions) -> ModelState:
    with reading(sessions) as session:
        row = max(session.query(EffectRow).filter_by(topic=MODEL_STATE.name), key=lambda effect: effect.number)
    return codec.decode(row.payload, MODEL_STATE, ModelState).event


def judged(sessions: Sessions, sequence: int, seconds: float) -> None:
    with sessions.begin() as session:
        session.add(
            JudgedFrame(
                frame_id=f"f{sequence}", camera_id="cam1", context="urban", epoch=1, sequence=sequence, weights_digest=SAFE,
                mode="safe", decision_id="d", frame_partition=0, frame_offset=sequence, camera_time=at(seconds),
                judged_time=at(seconds), people=0, inconsistency=None,
            )
        )  # fmt: skip


def test_what_was_no_attack_is_watched_and_normal_service_comes_back_in_the_closed_loop(store: Store, sessions: Sessions) -> None:
    [id_] = store.accept(signal(Phase.RAISED, 10, 14), at(3)).incident_ids
    store.accept(status("w1", 4, asked(sessions)), at(4))
    other_words = replace(act(Verb.RECLASSIFY, id_, 6, kind=Kind.CAMERA), plan=None)
    store.accept(other_words, at(6))
    with reading(sessions) as session:
        full = shown(session, id_)
        assert session.get_one(IncidentRow, id_).kind == Kind.CAMERA
    assert (full.incident.kind, full.step, full.playbook) == (Kind.CAMERA, "watch", "camera v1")
    again = store.accept(signal(Phase.ONGOING, 10, 30), at(7))
    assert not again.decisions, "the detector's words belong to it still, and set nothing aside any more"
    store.accept(signal(Phase.CALM, 10, 60), at(12))
    judged(sessions, 60, 12)
    assert not store.tick(at(100)).decisions, "no frame has been judged since"
    judged(sessions, 61, 60)
    store.tick(at(101))
    assert asked(sessions).mode is Mode.NORMAL
    store.accept(status("w1", 102, asked(sessions)), at(102))
    with reading(sessions) as session:
        [one] = listed(session)
    assert (one.state, one.id) == (State.CLOSED, id_)


def test_a_camera_keeps_one_open_incident_of_a_kind(store: Store) -> None:
    [first] = store.accept(signal(Phase.RAISED, 10, 14), at(3)).incident_ids
    [second] = store.accept(signal(Phase.RAISED, 10, 14, kind=Kind.COMPROMISE, detector="answers"), at(4)).incident_ids
    with pytest.raises(BadInput, match="already"):
        store.accept(act(Verb.RECLASSIFY, second, 6, kind=Kind.EVASION), at(6))
    assert store.accept(act(Verb.NOTE, second, 7), at(7)).incident_ids == (second,)
    assert first != second
