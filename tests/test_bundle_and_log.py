"""A bundle says what the audit log says, or says that it does not; and the log names every bundle."""

import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from incident_events import NORMAL, SAFE, at, signal, status
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session
from test_evidence import PUBLIC, a_bundle, an_incident, asked, audit
from typer.testing import CliRunner

from infra.checkpoints import (
    Checkpoint,
    evidence_key,
    keep_note,
    kept_notes,
    public_key_file,
    read_note,
    read_public_key,
    write_note,
)
from infra.db import Sessions, reading, writing
from infra.merkle import leaf_hash
from infra.people_tables import ActRow, PersonKeyRow
from infra.settings import Settings
from infra.tables import AuditRow, EffectRow, IncidentRow, NoticeRow, RolloutRow, TimelineRow
from responders.engine import outbox
from responders.engine.store import Store
from responders.people import people
from responders.people.access import Deed
from responders.people.acts import Signed, Statement, key_id, public_of, sign
from responders.playbooks import playbooks
from responders.proof import auditing, evidence, sealings
from responders.proof.evidence import About, Proven, Verified, seal, verify
from responders.proof.keeping import record_audit
from responders.regular.schedule import Outcome
from responders.rollouts.store import Rollouts
from streams.command_line import app
from streams.console import jobs
from streams.console.evidence import seal_incident
from streams.errors import BadInput, KerbwatchError, Tampered
from streams.events import Context, Phase

pytest_plugins = ["databases"]

LATER = at(13 * 3600)
WHO = "operator-1"


def sealed(settings: Settings, sessions: Sessions, id_: str, now: datetime = LATER) -> Verified:
    return verify(seal_incident(sessions, settings, id_, now), evidence_key(settings).public_key())


def job(settings: Settings, sessions: Sessions, now: datetime = LATER) -> jobs.Said:
    said = jobs.carry_out("evidence", jobs.Run(settings, sessions, now))
    audit(sessions)
    return said


def place(settings: Settings, id_: str) -> Path:
    return settings.home / "evidence" / f"{id_}.tar"


def verified(settings: Settings, monkeypatch: pytest.MonkeyPatch, path: Path, *words: str) -> str:
    """What `incidents verify` says; our own errors are raised."""
    monkeypatch.setenv("KERBWATCH_HOME", str(settings.home))
    if settings.database_url is not None:
        monkeypatch.setenv("KERBWATCH_DATABASE_URL", settings.database_url.reveal())
    result = CliRunner().invoke(app, ["incidents", "verify", str(path), *words])
    if isinstance(result.exception, KerbwatchError):
        raise result.exception
    return result.output


def rewrite(sessions: Sessions, number: int) -> None:
    """As who owns the database would: an entry's bytes and its leaf hash."""
    with writing(sessions) as session:
        row = session.get_one(AuditRow, number)
        changed = row.body.replace(b"responder", b"nobody-xx", 1)
        assert changed != row.body
        row.body, row.leaf_hash = changed, leaf_hash(changed)


def acted(sessions: Sessions, id_: str, key: Ed25519PrivateKey, comment: str, *, deed: Deed = Deed.CLOSE) -> Signed:
    said = Statement(actor=WHO, deed=deed, target=id_, comment=comment, time=at(20))
    act = sign(key, said)
    with writing(sessions) as session:
        keep(session, act, said, key)
        outbox.post_act(session, act, said, at(20))
    return act


def keep(session: Session, act: Signed, said: Statement, key: Ed25519PrivateKey) -> None:
    session.add(
        ActRow(
            id=act.id, actor=said.actor, deed=said.deed, target=said.target, time=said.time, key_id=key_id(public_of(key)),
            with_code=False, body=act.body, signature=act.signature,
        )
    )  # fmt: skip


def with_a_key(sessions: Sessions) -> Ed25519PrivateKey:
    key = Ed25519PrivateKey.generate()
    with writing(sessions) as session:
        people.begin(session, WHO, public_of(key), at(1))
    return key


def test_a_log_that_was_rewritten_is_not_signed_and_the_bundle_says_so(
    sessions: Sessions, database: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    id_ = an_incident(sessions)
    with reading(sessions) as session:
        auditing.checkpoint(session, database)
    before = [note.read_bytes() for note in kept_notes(database)]
    rewrite(sessions, 2)
    bundle = seal_incident(sessions, database, id_, LATER)
    found = verify(bundle, evidence_key(database).public_key())
    assert (found.checkpoint, found.audited, found.members["checkpoint.note"]) == (None, 0, b"")
    assert any("an entry below" in doubt and "was changed" in doubt for doubt in found.doubts)
    assert [note.read_bytes() for note in kept_notes(database)] == before, "no second checkpoint of one size"
    (tmp_path / "b.tar").write_bytes(bundle)
    with pytest.raises(Tampered, match="was changed"):
        verified(database, monkeypatch, tmp_path / "b.tar", "--key", str(public_key_file(database)))


def test_a_bundle_is_held_against_checkpoints_that_were_kept_elsewhere(
    sessions: Sessions, database: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    id_ = an_incident(sessions)
    elsewhere = tmp_path / "elsewhere"
    with writing(sessions) as session:
        rows = session.scalars(select(AuditRow).order_by(AuditRow.number)).all()
        later = [row.body for row in rows[5:]]
        for row in rows[5:]:
            session.delete(row)
    with reading(sessions) as session:
        auditing.checkpoint(session, database)  # at five entries
    with writing(sessions) as session:
        record_audit(session, later)
    bundle = tmp_path / "b.tar"
    bundle.write_bytes(seal_incident(sessions, database, id_, LATER))
    shutil.copytree(database.home / "checkpoints", elsewhere)  # those of five entries and of the bundle itself
    key = ("--key", str(public_key_file(database)), "--checkpoints", str(elsewhere))
    assert "2 of the checkpoints given agree, 0 are of sizes" in verified(database, monkeypatch, bundle, *key)
    for size in (5, len(rows)):
        wrong = tmp_path / f"{size}.note"
        signed = read_note((elsewhere / wrong.name).read_bytes(), read_public_key(public_key_file(database)))
        wrong.write_bytes(write_note(evidence_key(database), Checkpoint(signed.size, leaf_hash(b"another log"))))
        with pytest.raises(Tampered, match="history was rewritten"):
            verified(database, monkeypatch, bundle, *key[:3], str(wrong))
    strange = tmp_path / "4.note"
    strange.write_bytes(write_note(evidence_key(database), Checkpoint(4, leaf_hash(b"?"))))
    with pytest.raises(BadInput, match="none of the 1 checkpoints given can be held against it"):
        verified(database, monkeypatch, bundle, *key[:3], str(strange))


def test_acts_are_those_of_the_log_with_the_keys_that_it_tells_of(sessions: Sessions, database: Settings) -> None:
    id_ = an_incident(sessions)
    key = with_a_key(sessions)
    acted(sessions, id_, key, "I saw an attack, do not close")
    audit(sessions)
    whole = sealed(database, sessions, id_)
    logged = b"".join(msgspec.json.decode(line, type=Proven).body for line in whole.members["audit.jsonl"].splitlines())
    assert (whole.acts, whole.doubts) == (1, ())
    assert all(action in logged for action in (b'"people.act"', b'"people.key"'))

    with writing(sessions) as session:
        session.delete(session.scalars(select(ActRow)).one())
    [gone] = sealed(database, sessions, id_).doubts
    assert "is in the log" in gone
    assert "it was taken away" in gone

    theirs = Ed25519PrivateKey.generate()
    said = Statement(actor=WHO, deed=Deed.CLOSE, target=id_, comment="all fine", time=at(21))
    with writing(sessions) as session:
        public = public_of(theirs)
        session.add(PersonKeyRow(key_id=key_id(public), name=WHO, public_key=public, since=at(1), until=None))
        keep(session, sign(theirs, said), said, theirs)
    forged = sealed(database, sessions, id_).doubts
    assert any("is among the acts, and the log never told of it" in doubt for doubt in forged)


def test_an_act_that_another_key_signed_is_a_doubt_though_the_log_has_it(sessions: Sessions, database: Settings) -> None:
    id_ = an_incident(sessions)
    with_a_key(sessions)
    other = Ed25519PrivateKey.generate()
    acted(sessions, id_, other, "all fine")
    with writing(sessions) as session:
        session.add(PersonKeyRow(key_id=key_id(public_of(other)), name=WHO, public_key=public_of(other), since=at(1), until=None))
    audit(sessions)
    assert any("is not signed with a key that they had then" in doubt for doubt in sealed(database, sessions, id_).doubts)


def test_what_is_on_its_way_into_the_log_is_in_the_bundle_and_no_doubt(sessions: Sessions, database: Settings) -> None:
    id_ = an_incident(sessions)
    acted(sessions, id_, with_a_key(sessions), "seen")
    found = sealed(database, sessions, id_)
    assert (found.doubts, found.waiting, found.acts) == ((), 2, 1), "the act and its key"


def test_rollouts_and_incidents_that_hold_each_other_are_no_doubt(sessions: Sessions, database: Settings) -> None:
    """What the timeline alone adds, and entries about rollouts, are the incident's own."""
    store = Store(sessions, playbooks.load(), worker_lost_s=60, clock_allowance_s=60)
    store.assign(Context.URBAN, NORMAL, SAFE, at(0))
    ids = [store.accept(signal(Phase.RAISED, 10, 14, camera=camera), at(3)).incident_ids[0] for camera in ("cam1", "cam2")]
    store.accept(status("w1", 4, asked(sessions)), at(4))
    store.accept(signal(Phase.CALM, 15, 40), at(9))
    act = acted(sessions, ids[0], with_a_key(sessions), "retrain", deed=Deed.RETRAIN)
    Rollouts(store).request(ids[0], WHO, short=True, now=at(30), act_id=act.id)
    audit(sessions)
    with reading(sessions) as session:
        told = session.scalars(select(TimelineRow.what).where(TimelineRow.incident_id == ids[0])).all()
        assert any("(held: another incident" in what for what in told)
    for id_ in ids:
        assert sealed(database, sessions, id_).doubts == ()
    with writing(sessions) as session:  # as if it had never been asked for, in all tables that can be
        session.delete(session.scalars(select(TimelineRow).where(TimelineRow.action == "rollout.request")).one())
        session.execute(update(EffectRow).where(EffectRow.incident_id == ids[0]).values(incident_id=None))
        session.execute(delete(RolloutRow))
    assert any("'rollout.request'" in doubt for doubt in sealed(database, sessions, ids[0]).doubts)


def test_a_bundle_that_was_deleted_and_a_timeline_that_was_rewritten_are_told_when_it_is_sealed_again(
    sessions: Sessions, database: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    id_ = an_incident(sessions)
    assert job(database, sessions).text == "1 bundles sealed"
    bundle = place(database, id_)
    first = shutil.copy(bundle, tmp_path / "first.tar")
    assert "named in the audit log by schedule" in verified(database, monkeypatch, bundle)
    bundle.unlink()
    with writing(sessions) as session:
        rows = session.scalars(select(TimelineRow).where(TimelineRow.incident_id == id_).order_by(TimelineRow.number)).all()
        session.delete(rows[2])
        rows[1].what = "nothing happened"
    said = job(database, sessions, LATER + timedelta(minutes=10))
    assert (said.outcome, bundle.is_file()) == (Outcome.FAILED, True)
    assert f"incident {id_[:8]} is sealed, with 4 doubts" in said.text
    doubts = verify(bundle.read_bytes(), evidence_key(database).public_key()).doubts
    for part in ("was deleted", "taken away or reworded", "'nothing happened'"):
        assert any(part in doubt for doubt in doubts), part
    with pytest.raises(Tampered, match="was deleted"):
        verified(database, monkeypatch, bundle)
    assert "holds" in verified(database, monkeypatch, Path(first)), "a copy of the first one is still the one that was named"
    assert job(database, sessions, LATER + timedelta(minutes=20)).outcome is Outcome.DONE


def test_a_bundle_that_the_log_does_not_name_is_found_at_home(
    sessions: Sessions, database: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    id_ = an_incident(sessions)
    job(database, sessions)
    (tmp_path / "other.tar").write_bytes(seal_incident(sessions, database, id_, at(1)))
    with pytest.raises(Tampered, match="does not tell that this bundle was sealed"):
        verified(database, monkeypatch, tmp_path / "other.tar")
    assert "holds" in verified(database, monkeypatch, tmp_path / "other.tar", "--key", str(public_key_file(database)))
    job(database, sessions)
    with reading(sessions) as session:
        entries = [row.body for row in session.scalars(select(AuditRow)) if b'"evidence.sealed"' in row.body]
    assert len(entries) == 1, "once, however often the job looks"


def test_bundles_of_earlier_versions_hold_as_before_and_are_named_by_the_next_run(
    sessions: Sessions, database: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = an_incident(sessions)
    members = verify(a_bundle(sessions, database, id_), PUBLIC).members
    first = {name: body for name, body in members.items() if name not in {"waiting.jsonl", "growth.jsonl", "doubts.json"}}
    key = evidence_key(database)
    checkpoint = read_note(members["checkpoint.note"], PUBLIC)
    with monkeypatch.context() as patched:
        patched.setattr(evidence, "_PREDICATE", "urn:kerbwatch:evidence:v1")
        patched.setattr(evidence, "_read", lambda *_: None)  # it looked for no such members
        about = About(incident_id=id_, sealed_at=at(60), kerbwatch="0.1.0")
        old = seal(first | {"checkpoint.note": write_note(key, checkpoint)}, about, key)
    place(database, id_).parent.mkdir(exist_ok=True)
    place(database, id_).write_bytes(old)
    found = verify(old, key.public_key())
    assert (found.compared, found.doubts, found.audited > 3) == (False, (), True)
    assert "sealed by an earlier version" in verified(database, monkeypatch, place(database, id_))
    assert job(database, sessions).text == "0 bundles sealed"
    assert "named in the audit log by schedule" in verified(database, monkeypatch, place(database, id_))


def test_one_damaged_incident_stops_no_other_and_is_named(sessions: Sessions, database: Settings) -> None:
    first = an_incident(sessions)
    store = Store(sessions, playbooks.load(), worker_lost_s=60, clock_allowance_s=60)
    ids = [first]
    for number, camera in enumerate(("cam2", "cam3"), 1):
        ids += store.accept(signal(Phase.RAISED, 10, 14, camera=camera), at(700 * number)).incident_ids
        store.accept(status("w1", 700 * number + 1, asked(sessions)), at(700 * number + 1))
        store.accept(signal(Phase.CALM, 15, 40, camera=camera), at(700 * number + 9))
        store.accept(status("w1", 700 * number + 10, asked(sessions)), at(700 * number + 10))
    audit(sessions)
    with writing(sessions) as session:
        session.get_one(IncidentRow, ids[0]).body = b"{}"
        row = next(row for row in session.scalars(select(AuditRow)) if ids[1].encode() in row.body)
        row.body = row.body[:-1] + b" }"
    said = job(database, sessions)
    assert [place(database, id_).is_file() for id_ in ids] == [False, True, True]
    assert (said.outcome, said.text.startswith("2 bundles sealed")) == (Outcome.FAILED, True)
    assert f"incident {ids[0][:8]} is not sealed" in said.text
    assert "if no version of kerbwatch that ever ran here reads them they were changed" in said.text
    assert f"incident {ids[1][:8]} is sealed, with" in said.text
    assert "is not the one that was written" in said.text
    with pytest.raises(Tampered, match="restore them from a backup"):
        seal_incident(sessions, database, ids[0], LATER)
    again = job(database, sessions, LATER + timedelta(minutes=10))
    assert again.outcome is Outcome.FAILED
    assert [sum(id_[:8] in one for one in reminded(sessions)) for id_ in ids] == [1, 1, 1], "each once, whichever run says it first"
    job(database, sessions, LATER + timedelta(days=1))
    assert [sum(id_[:8] in one for one in reminded(sessions)) for id_ in ids] == [2, 1, 1], "what is not sealed, every day"


def test_a_doubt_is_told_though_another_was_told_the_same_day(sessions: Sessions, database: Settings) -> None:
    id_ = an_incident(sessions)
    with writing(sessions) as session:
        body = session.get_one(IncidentRow, id_).body
        session.get_one(IncidentRow, id_).body = b"{}"
    job(database, sessions)
    with writing(sessions) as session:
        session.get_one(IncidentRow, id_).body = body
    rewrite(sessions, 0)
    auditing_note = Checkpoint(1, b"\x11" * 32)
    keep_note(database, auditing_note, write_note(evidence_key(database), auditing_note))
    job(database, sessions, LATER + timedelta(minutes=10))
    first, second = reminded(sessions)
    assert "is not sealed" in first
    assert "is sealed, with" in second


def test_a_bundle_that_was_sealed_again_just_before_a_crash_is_named_by_the_next_run(
    sessions: Sessions, database: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = an_incident(sessions)
    job(database, sessions)
    place(database, id_).unlink()
    with monkeypatch.context() as patched:
        patched.setattr(sealings, "name", killed)
        with pytest.raises(KeyboardInterrupt):
            job(database, sessions, LATER + timedelta(minutes=10))
    assert (place(database, id_).is_file(), reminded(sessions)) == (True, [])
    job(database, sessions, LATER + timedelta(minutes=20))
    with pytest.raises(Tampered, match="was deleted") as told:
        verified(database, monkeypatch, place(database, id_))
    assert "does not tell that this bundle" not in str(told.value)
    assert ["with 1 doubts" in one for one in reminded(sessions)] == [True], "and what it doubts is told then"
    assert job(database, sessions, LATER + timedelta(minutes=30)).outcome is Outcome.DONE


def test_a_bundle_that_only_the_log_tells_of_is_not_named_again(sessions: Sessions, database: Settings) -> None:
    id_ = an_incident(sessions)
    job(database, sessions)
    sealed_again = select(EffectRow.id).where(EffectRow.lane == "audit/schedule")
    with writing(sessions) as session:  # as after a restore, when the log was taken in again
        assert session.scalars(sealed_again).all()
        session.execute(delete(EffectRow).where(EffectRow.lane == "audit/schedule"))
    assert job(database, sessions, LATER + timedelta(minutes=10)).text == "0 bundles sealed"
    with reading(sessions) as session:
        assert session.scalars(sealed_again).all() == [], f"an entry of another time would take the place of the one about {id_}"


def test_where_the_brokers_log_is_lost_as_well_new_bundles_hold_and_old_ones_say_whose_they_are(
    sessions: Sessions, database: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = an_incident(sessions)
    with reading(sessions) as session:
        copied = session.query(AuditRow).count()
    job(database, sessions)
    old = Path(shutil.copy(place(database, id_), database.home / "old.tar"))
    with writing(sessions) as session:
        session.execute(delete(AuditRow).where(AuditRow.number >= copied - 1))
    assert any("entries were removed" in doubt for doubt in sealed(database, sessions, id_).doubts)
    lost = database.home / "checkpoints" / "lost"  # as docs/schedule.md says
    lost.mkdir()
    for note in kept_notes(database):
        if int(note.stem) > copied - 1:
            note.rename(lost / note.name)
    assert not any("entries were removed" in doubt for doubt in sealed(database, sessions, id_).doubts)
    assert "holds" in verified(database, monkeypatch, old, "--key", str(public_key_file(database)))
    with pytest.raises(Tampered, match="the audit log is not the one that the checkpoint over"):
        verified(database, monkeypatch, old)


def test_another_bundle_in_the_place_of_one_is_not_named(sessions: Sessions, database: Settings) -> None:
    id_ = an_incident(sessions)
    other = seal_incident(sessions, database, id_, at(1))
    job(database, sessions)
    place(database, id_).unlink()
    place(database, id_).write_bytes(other)
    said = job(database, sessions, LATER + timedelta(minutes=10))
    assert "is not named in the log" in said.text
    assert "is not in its place any more" in said.text


def test_bundles_are_named_a_few_a_run_and_after_what_is_newly_closed_is_sealed(
    sessions: Sessions, database: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_SEALED_AT_ONCE", 1)
    id_ = an_incident(sessions)
    order: list[str] = []

    def seal_and_say(*given: Any, **how: Any) -> bytes:
        order.append("sealed")
        return seal_incident(*given, **how)

    def look(*_: object) -> tuple[str, ...]:
        order.append("looked")
        return (id_, "the next run's")

    monkeypatch.setattr(jobs, "seal_incident", seal_and_say)
    monkeypatch.setattr(sealings, "unnamed", look)
    assert (job(database, sessions).text, order) == ("1 bundles sealed", ["sealed", "looked"])


def killed(*_: object) -> None:
    raise KeyboardInterrupt


def reminded(sessions: Sessions) -> list[str]:
    """What the job told people, oldest first."""
    with reading(sessions) as session:
        said = [msgspec.json.decode(row.body)["what"] for row in session.scalars(select(NoticeRow).order_by(NoticeRow.created_at))]
    return [one for one in said if one.startswith("scheduled job evidence: ")]
