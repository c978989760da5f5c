"""Records are written once, and what is set aside is sealed, whole and findable."""

import hashlib
from collections.abc import Sequence

import pytest
from incident_events import NORMAL, at
from sqlalchemy import select, update

from infra.db import Sessions, reading, writing
from infra.merkle import leaf_hash
from infra.settings import Settings
from infra.tables import AuditRow, EffectRow, JudgedFrame, QuarantinedFrame
from responders.engine import outbox
from responders.proof.keeping import record_audit, record_judged
from responders.proof.signers import waiting
from responders.proof.strangers import displaced, filed_apart
from responders.quarantine.quarantine import listed, offsets_of, open_frame, set_aside
from streams import codec
from streams.errors import BadInput, Tampered, Unavailable
from streams.events import (
    AuditEntry,
    Context,
    Detections,
    Features,
    Frame,
    InputScores,
    Mode,
    QuarantineOrder,
    Timings,
    Window,
    event_id,
)

pytest_plugins = ["databases"]

PICTURE = b"\xff\xd8 not really a picture" * 50
INCIDENT = event_id("incident", "x")
ORDER = QuarantineOrder(
    id="order",
    source="responder/store",
    time=at(0),
    subject="cam1",
    decision_id="order",
    incident_id=INCIDENT,
    camera_id="cam1",
    context=Context.URBAN,
    window=Window(epoch=1, first_sequence=3, last_sequence=7),
    reason="evasion",
)


def detections(sequence: int, digest: str = NORMAL) -> Detections:
    return Detections(
        id=event_id("detections", "cam1", 1, sequence),
        source="inference/w1",
        time=at(sequence / 5 + 0.1),
        subject="cam1",
        camera_id="cam1",
        context=Context.URBAN,
        epoch=1,
        sequence=sequence,
        frame_id=event_id("frame", "cam1", 1, sequence),
        frame_partition=2,
        frame_offset=100 + sequence,
        camera_time=at(sequence / 5),
        boxes=(),
        weights_digest=digest,
        mode=Mode.NORMAL,
        decision_id="initial-urban",
        features=Features(
            brightness=0.5, contrast=0.2, sharpness=0.1, people=2, score_mean=0.5, score_max=0.6, height_mean_px=40.0, heat=0.1
        ),
        scores=InputScores(reference_digest=NORMAL, inconsistency=0.25 if sequence % 4 == 0 else None),
        timings=Timings(infer_ms=1.0, scores_ms=1.0),
    )


def frame(sequence: int, camera: str = "cam1") -> Frame:
    return Frame(
        id=event_id("frame", camera, 1, sequence),
        source=f"camera/{camera}",
        time=at(sequence / 5),
        subject=camera,
        camera_id=camera,
        context=Context.URBAN,
        epoch=1,
        sequence=sequence,
        width_px=640,
        height_px=320,
        content_type="image/jpeg",
        digest=hashlib.sha256(PICTURE).hexdigest(),
        signature="",
    )


def entry(number: int) -> bytes:
    made = AuditEntry(
        id=f"e{number}",
        source="x/y",
        time=at(number),
        subject="",
        actor="operator-1",
        action="a",
        target="t",
        why="w",
        cause_id="c",
    )
    return codec.encode(made).replace(b'"actor"', b' "actor"')  # bytes that our own encoder would not write


def test_a_frame_is_on_record_once_with_the_weights_that_judged_it_first(sessions: Sessions) -> None:
    batch = [detections(n) for n in range(500)]
    for expected in (500, 0):
        with writing(sessions) as session:
            assert record_judged(session, batch) == expected
    with writing(sessions) as session:
        assert record_judged(session, [*(detections(n, "f" * 64) for n in range(498, 503)), detections(502)]) == 3
        assert record_judged(session, []) == 0
    with reading(sessions) as session:
        digests = session.execute(select(JudgedFrame.sequence, JudgedFrame.weights_digest).order_by(JudgedFrame.sequence)).all()
        row = session.scalars(select(JudgedFrame).where(JudgedFrame.sequence == 8)).one()
    assert [digest for _, digest in digests] == [NORMAL] * 500 + ["f" * 64] * 3
    assert (row.camera_time, row.judged_time, row.inconsistency, row.people) == (at(1.6), at(1.7), 0.25, 2)


def test_audit_entries_are_kept_byte_for_byte_and_numbered_without_gaps(sessions: Sessions) -> None:
    with writing(sessions) as session:
        assert record_audit(session, [entry(0), entry(1), entry(0)]) == 2
    with writing(sessions) as session:
        assert record_audit(session, [entry(1), entry(2), entry(0), entry(3)]) == 2
        assert record_audit(session, []) == 0
    with reading(sessions) as session:
        rows = session.scalars(select(AuditRow).order_by(AuditRow.number)).all()
    assert [row.number for row in rows] == [0, 1, 2, 3]
    assert [row.body for row in rows] == [entry(n) for n in range(4)]
    assert all(row.leaf_hash == hashlib.sha256(b"\0" + row.body).digest() == leaf_hash(row.body) for row in rows)


def sent(sessions: Sessions) -> bytes:
    """An entry that the outbox recorded, and the bytes that go to the topic: written anew, by whichever version sends them."""
    with writing(sessions) as session:
        outbox.post_audit(session, "decision", "responder", "incident.open", target="1", why="evasion", now=at(1))
        body = session.scalars(select(EffectRow.payload)).one()
    return body.replace(b'"actor"', b' "actor"')


def forged(body: bytes, why: bytes = b"nothing was done") -> bytes:
    return body.replace(b'"evasion"', b'"' + why + b'"')


@pytest.mark.parametrize("batches", ["fg", "f,g", "f,f,g,g", "g,f", "gf", "f,x,g,f", "xf,gx"])
def test_a_forged_entry_takes_no_genuine_ones_place_and_neither_is_lost(batches: str, sessions: Sessions) -> None:
    genuine = sent(sessions)
    which = {"g": genuine, "f": forged(genuine), "x": forged(genuine, b"another lie")}
    with writing(sessions) as session:
        news = [record_audit(session, [which[one] for one in batch]) for batch in batches.split(",")]
    with reading(sessions) as session:
        rows = session.scalars(select(AuditRow).order_by(AuditRow.number)).all()
        there = session.scalars(select(AuditRow).where(AuditRow.event_id == event_id("audit", "decision"))).one()
    kinds = set(batches) - {","}
    assert sum(news) == len(rows) == len(kinds)
    assert [row.number for row in rows] == list(range(len(kinds)))
    assert {row.body for row in rows} == {which[one] for one in kinds}
    assert there.body == genuine


def test_an_entry_that_came_before_the_genuine_one_was_thought_of_makes_way_for_it(sessions: Sessions) -> None:
    """Ids can be computed by whoever knows the signal's: the forger need not wait."""
    lie = entry(0).replace(b'"e0"', f'"{event_id("audit", "decision")}"'.encode())
    with writing(sessions) as session:
        assert record_audit(session, [lie]) == 1
    genuine = sent(sessions)
    with reading(sessions) as session:
        assert [(one.number, one.body) for one in displaced(session)] == [(0, lie)]
        assert [one.action for one in waiting(session)] == ["incident.open"]
    with writing(sessions) as session:
        assert record_audit(session, [genuine]) == 1
        assert record_audit(session, [lie, genuine]) == 0
    with reading(sessions) as session:
        assert [row.body for row in session.scalars(select(AuditRow).order_by(AuditRow.number))] == [lie, genuine]
        assert (list(displaced(session)), waiting(session)) == ([], ())


def test_nobody_can_take_the_name_by_which_another_entry_is_filed_apart(sessions: Sessions) -> None:
    genuine = sent(sessions)
    lie = forged(genuine)
    thief = entry(0).replace(b'"e0"', f'"{filed_apart(lie)}"'.encode())
    with writing(sessions) as session:
        assert [record_audit(session, [body]) for body in (thief, lie, genuine)] == [1, 1, 1]


def test_a_batch_with_something_else_in_it_is_refused_whole(sessions: Sessions) -> None:
    with pytest.raises(BadInput), writing(sessions) as session:
        record_audit(session, [entry(0), b"{}"])
    with reading(sessions) as session:
        assert session.scalars(select(AuditRow)).all() == []


def test_an_orders_frames_are_found_in_the_log_and_what_is_missing_is_said(sessions: Sessions) -> None:
    with writing(sessions) as session:
        record_judged(session, [detections(n) for n in (1, 2, 3, 4, 6, 8)])
    with reading(sessions) as session:
        found = offsets_of(session, ORDER)
    assert [(place.sequence, place.partition, place.offset) for place in found.places] == [(3, 2, 103), (4, 2, 104), (6, 2, 106)]
    assert found.missing == 2


def frames(sequences: Sequence[int]) -> list[tuple[Frame, bytes, Detections | None]]:
    return [(frame(n), PICTURE, detections(n) if n % 2 else None) for n in sequences]


def test_frames_are_sealed_once_however_often_they_are_ordered(database: Settings, sessions: Sessions) -> None:
    first = set_aside(sessions, database, ORDER, frames([3, 4, 5]), at(9))
    again = set_aside(sessions, database, ORDER, frames([3, 4, 5, 6, 7]), at(10))
    assert (first.sealed, first.already, again.sealed, again.already) == (3, 0, 2, 3)
    with reading(sessions) as session:
        kept, total = listed(session, INCIDENT, 2)
        rows = session.scalars(select(QuarantinedFrame).order_by(QuarantinedFrame.sequence)).all()
    assert total == 5
    assert [k.sequence for k in kept] == [7, 6]
    for row in rows:
        sealed = open_frame(database, row)
        assert (sealed.frame, sealed.picture, sealed.order) == (frame(row.sequence), PICTURE, ORDER)
        assert (sealed.detections is not None) == bool(row.sequence % 2)
        path = database.home / row.path
        assert PICTURE[:20] not in path.read_bytes()
        assert path.stat().st_mode & 0o077 == 0


def test_a_crash_between_file_and_row_is_mended_by_the_repeat(
    database: Settings, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crash(BaseException):
        pass

    def die(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as broken:
        broken.setattr("responders.quarantine.quarantine._insert", die)
        with pytest.raises(Crash):
            set_aside(sessions, database, ORDER, frames([3, 4]), at(9))
    assert set_aside(sessions, database, ORDER, frames([3, 4]), at(10)).sealed == 2
    with reading(sessions) as session:
        for row in session.scalars(select(QuarantinedFrame)):
            open_frame(database, row)


def test_touched_or_swapped_or_lost_files_are_noticed(database: Settings, sessions: Sessions) -> None:
    set_aside(sessions, database, ORDER, frames([3, 4]), at(9))
    with reading(sessions) as session:
        one, two = session.scalars(select(QuarantinedFrame).order_by(QuarantinedFrame.sequence))
    path = database.home / one.path
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(Tampered):
        open_frame(database, one)
    path.write_bytes((database.home / two.path).read_bytes())
    with writing(sessions) as session:  # an attacker who mends the row as well
        session.execute(
            update(QuarantinedFrame).where(QuarantinedFrame.frame_id == one.frame_id).values(sealed_sha256=two.sealed_sha256)
        )
    with reading(sessions) as session, pytest.raises(Tampered):
        open_frame(database, session.get_one(QuarantinedFrame, one.frame_id))
    path.unlink()
    with pytest.raises(Unavailable):
        open_frame(database, one)
    assert set_aside(sessions, database, ORDER, frames([3, 4]), at(11)).sealed == 1
    with reading(sessions) as session:
        assert open_frame(database, session.get_one(QuarantinedFrame, one.frame_id)).picture == PICTURE


@pytest.mark.parametrize("wrong", [frame(8), frame(2), frame(4, "cam2")])
def test_a_frame_outside_the_order_is_refused(wrong: Frame, database: Settings, sessions: Sessions) -> None:
    with pytest.raises(BadInput, match="not in quarantine order"):
        set_aside(sessions, database, ORDER, [(wrong, PICTURE, None)], at(9))
    assert not list((database.home / "quarantine").glob("**/*.sealed"))
