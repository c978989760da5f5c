"""`kerbwatch audit`: what was changed is found and named, copies and proofs are checked without database and home."""

import base64
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from sqlalchemy import delete
from typer.testing import CliRunner, Result

from infra.checkpoints import kept_notes, public_key_file, verifier_key
from infra.db import Sessions, reading, writing
from infra.keys import make_person_key, person_key_file, read_person_key
from infra.merkle import Tree, consistent, leaf_hash, root_around
from infra.people_tables import ActRow, PersonKeyRow
from infra.proofs import Consistency, Inclusion, read_proof, write_proof
from infra.settings import Settings
from infra.tables import AuditRow, EffectRow
from responders.people.access import Deed
from responders.people.acts import Statement, key_id, public_of, sign
from responders.people.login import Login, first_operator
from responders.proof import auditing
from responders.proof.export import lines
from responders.proof.keeping import record_audit
from responders.proof.signers import Signers
from streams import codec
from streams.command_line import app
from streams.errors import BadInput, Tampered, Unavailable
from streams.events import AuditEntry, event_id
from streams.topics import AUDIT

pytest_plugins = ["databases"]

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
LEAVES = [leaf_hash(bytes([n])) for n in range(33)]

Command = Callable[..., Result]


def command(*words: str) -> Result:
    result = CliRunner().invoke(app, ["audit", *words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def told(*words: str) -> dict[str, object]:
    """What `verify --json` says, whether or not the log holds."""
    result = CliRunner().invoke(app, ["audit", "verify", "--json", *words])
    found: dict[str, object] = json.loads(result.stdout)
    assert isinstance(result.exception, Tampered) is (not found["holds"])
    return found


def faults(*words: str) -> str:
    return "; ".join(told(*words)["faults"])  # type: ignore[arg-type]


def entry(number: int, *, actor: str = "responder", hour: int = 0) -> bytes:
    return codec.encode(
        AuditEntry(
            id=event_id("entry", number), source="responder/store", time=NOON + timedelta(hours=hour), subject="1", actor=actor,
            action="incident.note", target="1", why=f"entry {number}", cause_id="c",
        )
    )  # fmt: skip


def write(sessions: Sessions, *bodies: bytes) -> None:
    with writing(sessions) as session:
        record_audit(session, bodies)


def keep(sessions: Sessions) -> None:
    """What the keeper does with the entries that were sent."""
    with reading(sessions) as session:
        rows = session.query(EffectRow).filter_by(topic=AUDIT.name).order_by(EffectRow.number)
        bodies = [row.payload for row in rows]
    write(sessions, *bodies)


def acts(settings: Settings, sessions: Sessions, *comments: str) -> None:
    for comment in comments:
        Login(settings, sessions, "operator-1").does(Deed.CLOSE, "1" * 32, comment)


@pytest.fixture
def here(database: Settings, sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A log of a first operator's acts and of twelve entries an hour apart, signed where it stood at two moments."""
    settings = replace(database, person="operator-1")
    monkeypatch.setenv("KERBWATCH_HOME", str(settings.home))
    monkeypatch.setenv("KERBWATCH_PERSON", "operator-1")
    monkeypatch.setenv("COLUMNS", "250")
    if settings.database_url is not None:
        monkeypatch.setenv("KERBWATCH_DATABASE_URL", settings.database_url.reveal())
    first_operator(settings, datetime.now(UTC))
    acts(settings, sessions, "seen")
    keep(sessions)
    write(sessions, *(entry(number, hour=number) for number in range(6)))
    command("checkpoint")
    write(sessions, *(entry(number, hour=number) for number in range(6, 12)))
    command("checkpoint")
    return settings


@pytest.fixture
def elsewhere(here: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where somebody else keeps the public key and the checkpoints."""
    folder = tmp_path_factory.mktemp("elsewhere")
    shutil.copy(public_key_file(here), folder / "evidence.pub")
    for note in kept_notes(here):
        shutil.copy(note, folder / note.name)
    return folder


@given(st.integers(1, 33), st.data())
def test_a_log_is_proven_to_have_grown_from_every_earlier_one_and_from_no_other(size: int, data: st.DataObject) -> None:
    tree, at = Tree(LEAVES[:size]), data.draw(st.integers(1, size))
    old, new, proof = (at, Tree(LEAVES[:at]).root), (size, tree.root), tree.consistency(at)
    assert consistent(old, new, proof)
    assert not consistent((at, leaf_hash(b"another")), new, proof)
    assert not consistent(old, (size, leaf_hash(b"another")), proof)
    assert not consistent(old, new, (*proof, LEAVES[0]))
    assert at == size or not consistent(old, new, proof[:-1])


def test_consistency_proofs_are_those_of_the_standard() -> None:
    """RFC 6962 section 2.1.3: the seven leaves' proofs from 3, 4 and 6, by the names of their nodes."""
    tree = Tree(LEAVES[:7])
    c, d, g = LEAVES[2], LEAVES[3], Tree(LEAVES[:2]).root
    i, j, k, right = Tree(LEAVES[4:6]).root, LEAVES[6], Tree(LEAVES[:4]).root, Tree(LEAVES[4:7]).root
    assert tree.consistency(3) == (c, d, g, right)
    assert tree.consistency(4) == (right,)
    assert tree.consistency(6) == (i, j, k)


@given(st.integers(1, 33), st.data())
def test_a_stretch_of_a_log_leads_to_its_root_and_nothing_else_does(size: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, size - 1))
    end = data.draw(st.integers(first + 1, size))
    tree = Tree(LEAVES[:size])
    outside, inside = tree.outside(first, end), LEAVES[first:end]
    assert root_around(inside, first, end, size, outside) == tree.root
    assert root_around([leaf_hash(b"another"), *inside[1:]], first, end, size, outside) != tree.root
    assert root_around(inside[1:], first, end, size, outside) is None
    assert root_around(inside, first, end, size, (*outside, LEAVES[0])) is None


@given(st.binary(max_size=40), st.lists(st.binary(min_size=32, max_size=32), max_size=4), st.integers(0, 10**9), st.data())
def test_a_proof_reads_as_it_was_written_and_in_no_other_bytes(
    body: bytes, path: list[bytes], number: int, data: st.DataObject
) -> None:
    for proof in (Inclusion(body, number, tuple(path), b"note\n"), Consistency(number, tuple(path), b"note\n")):
        text = write_proof(proof)
        assert read_proof(text) == proof
        place = data.draw(st.integers(0, len(text) - 1))
        try:
            other = read_proof(text[:place] + b"#" + text[place + 1 :])
        except BadInput:
            continue
        assert other != proof


def test_proofs_and_keys_are_written_as_the_standards_say() -> None:
    """The structures of c2sp.org/tlog-proof, c2sp.org/tlog-witness and c2sp.org/signed-note, line by line."""
    one = base64.b64encode(LEAVES[1]).decode()
    assert write_proof(Inclusion(b"entry", 7, (LEAVES[1],), b"note\n")).decode() == (
        f"c2sp.org/tlog-proof@v1\nextra ZW50cnk=\nindex 7\n{one}\n\nnote\n"
    )
    assert write_proof(Consistency(7, (LEAVES[1],), b"note\n")).decode() == f"old 7\n{one}\n\nnote\n"
    public = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()
    name, key_hash, key = verifier_key(public).split("+", 2)
    coded = b"\x01" + public.public_bytes_raw()
    assert (key, key_hash) == (base64.b64encode(coded).decode(), sha256(name.encode() + b"\n" + coded).hexdigest()[:8])


def test_a_log_that_holds_is_said_to_with_figures(here: Settings, sessions: Sessions) -> None:
    found = told()
    assert (found["holds"], found["faults"], found["checkpoints"], found["acts"], found["waiting"]) == (True, [], 2, 1, 0)
    assert found["entries"] == found["newest"]
    acts(here, sessions, "seen again")
    write(sessions, entry(99))
    said = command("verify").stdout
    assert "1 entries came later and are not signed yet" in said
    assert "1 entries were sent and are not in it yet" in said
    assert "nothing was changed" in said


def test_a_changed_entry_is_named_and_so_is_where_history_was_rewritten(here: Settings, sessions: Sessions) -> None:
    with writing(sessions) as session:
        row = session.get_one(AuditRow, 10)
        row.body = row.body.replace(b"entry 7", b"entry 8") if b"entry 7" in row.body else row.body + b" "
    assert "audit entry 10 is not the one that was written" in faults()
    with writing(sessions) as session:  # whoever can write to the database mends the hash as well
        row = session.get_one(AuditRow, 10)
        row.leaf_hash = leaf_hash(row.body)
    first, second = (int(note.stem) for note in kept_notes(here))
    assert f"an entry below {second} was changed, and none below {first}" in faults()
    with pytest.raises(Tampered, match=r"docs/audit\.md"):
        command("verify")


def test_entries_that_were_taken_away_are_missed(here: Settings, sessions: Sessions) -> None:
    size = int(kept_notes(here)[-1].stem)
    with writing(sessions) as session:
        session.execute(delete(AuditRow).where(AuditRow.number == size - 1))
    assert "entries were removed" in faults()
    with writing(sessions) as session:
        session.execute(delete(AuditRow).where(AuditRow.number == 3))
    assert "audit entry 3 is missing" in faults()
    assert "a gap" in CliRunner().invoke(app, ["audit", "verify"]).stdout


def test_acts_and_keys_that_differ_from_the_log_are_named(here: Settings, sessions: Sessions) -> None:
    with writing(sessions) as session:
        [act] = session.query(ActRow)
        kept = {name: getattr(act, name) for name in ActRow.__table__.columns.keys()}  # noqa: SIM118 - columns are no mapping
        session.delete(act)
    assert "no longer in table acts" in faults()
    with writing(sessions) as session:
        session.add(ActRow(**kept | {"signature": bytes(64)}))
    assert "its signature does not hold" in faults()
    stranger = public_of(make_person_key(here.home / "stranger.key"))
    with writing(sessions) as session:
        session.query(ActRow).one().signature = kept["signature"]
        session.add(PersonKeyRow(key_id=key_id(stranger), name="stranger", public_key=stranger, since=NOON, until=None))
    assert f"key {key_id(stranger)[:12]} of stranger is in table person_keys, but the log never told" in faults()


def test_an_act_in_the_log_must_be_signed_by_a_key_that_its_person_had_then(here: Settings, sessions: Sessions) -> None:
    acts(here, sessions, "later")
    with reading(sessions) as session:
        rows = session.query(EffectRow).filter_by(topic=AUDIT.name).order_by(EffectRow.number).all()
    real = codec.decode(rows[-1].payload, AUDIT, AuditEntry).event
    forged = base64.b64encode(read_person_key(person_key_file(here, "operator-1")).sign(b"something else")).decode()
    write(sessions, codec.encode(msgspec.structs.replace(real, id=event_id("lie"), signature=forged)))
    write(sessions, codec.encode(msgspec.structs.replace(real, id=event_id("copy"), target="2" * 32)))
    write(sessions, codec.encode(msgspec.structs.replace(real, id=event_id("bare"), signed="", signature="")))
    found = faults()
    assert "bears an act that cannot be read" in found
    assert "close is not signed with a key that they had then" in found
    assert "says something else than what was signed (close by operator-1)" in found


def test_entries_that_strangers_wrote_are_named_until_somebody_disowns_them_and_are_told_of_after(
    here: Settings, sessions: Sessions, elsewhere: Path
) -> None:
    """A stolen certificate: an act that nobody can read, an entry in the place of a genuine one, a key in somebody's name."""
    acts(here, sessions, "later")
    with reading(sessions) as session:
        sent = session.query(EffectRow).filter_by(topic=AUDIT.name).order_by(EffectRow.number).all()[-1].payload
        first = auditing.length(session)
    real = codec.decode(sent, AUDIT, AuditEntry).event
    thief = public_of(make_person_key(here.home / "thief.key"))
    why = f"signs with {base64.b64encode(thief).decode()} from now on (key {key_id(thief)})"
    key = msgspec.structs.replace(
        real, id="stranger-3", action="people.key", target=real.actor, why=why, signed="", signature="", time=NOON
    )
    write(
        sessions,
        codec.encode(msgspec.structs.replace(real, id="stranger-1", signed="{}", signature="AA==")),
        codec.encode(msgspec.structs.replace(real, why="nothing was done", signed="", signature="")),
        codec.encode(key),
    )
    keep(sessions)
    named = told()["faults"]
    assert isinstance(named, list)
    assert [fault.split(" (")[0].split(" bears")[0].split(" gives")[0] for fault in named] == [
        f"audit entry {first + n}" for n in range(3)
    ]
    assert "is not what was sent under it: somebody else wrote it" in named[1]
    assert told()["waiting"] == 0, "the genuine entry is in the log"
    with pytest.raises(Tampered, match=r"and 2 more .* the log is signed as it stands"):
        command("checkpoint")
    assert int(kept_notes(here)[-1].stem) == told()["entries"]
    for number in range(first, first + 3):
        command("disown", str(number), "-m", "a stolen certificate")
    with pytest.raises(BadInput, match="no audit entry 900"):
        command("disown", "900", "-m", "none")
    assert len(faults().split("; ")) == 3, "until the acts are in the log"
    keep(sessions)
    after = told()
    assert (after["holds"], after["faults"], len(after["disowned"])) == (True, [], 3)  # type: ignore[arg-type]
    assert "disowned by operator-1" in command("verify").stdout
    command("checkpoint")
    command("export", "--out", str(elsewhere / "copy.jsonl"))
    copied = told("--file", str(elsewhere / "copy.jsonl"), "--key", str(elsewhere / "evidence.pub"))
    assert (copied["holds"], len(copied["disowned"])) == (True, 3)  # type: ignore[arg-type]
    with writing(sessions) as session:  # a disowning is of that entry and of no other in its place
        row = session.get_one(AuditRow, first)
        row.body = row.body.replace(b"AA==", b"AB==")
        row.leaf_hash = leaf_hash(row.body)
    assert "bears an act that cannot be read" in faults()


def test_an_entry_that_another_displaced_before_is_missed(here: Settings, sessions: Sessions) -> None:
    """Logs of before: the first entry of an id was kept, and the genuine one came to nothing."""
    acts(here, sessions, "later")
    with writing(sessions) as session:
        genuine = session.query(EffectRow).filter_by(topic=AUDIT.name).order_by(EffectRow.number).all()[-1]
        lie = msgspec.structs.replace(
            codec.decode(genuine.payload, AUDIT, AuditEntry).event, action="incident.note", signed="", signature=""
        )
        number, body = auditing.length(session), codec.encode(lie)
        session.add(AuditRow(number=number, event_id=genuine.id, body=body, leaf_hash=leaf_hash(body)))
    found = told()
    assert found["waiting"] == 1
    assert found["faults"] == [
        f"audit entry {number} bears id {lie.id[:12]} and is not what was sent under it: somebody else wrote it"
    ]


def test_a_key_counts_from_when_it_was_given_until_the_next_one_or_its_person_goes() -> None:
    """By the log alone, in whatever order its entries came."""
    first, second = (Ed25519PrivateKey.from_private_bytes(bytes([n] * 32)) for n in (1, 2))

    def said(key: Ed25519PrivateKey, hour: float) -> bytes:
        moment = NOON + timedelta(hours=hour)
        act = sign(key, Statement(actor="lin", deed=Deed.NOTE, target="1", comment="seen", time=moment))
        signature = base64.b64encode(act.signature).decode()
        return told_entry("people.act", "1", "seen", hour, cause=act.id, signed=act.body.decode(), signature=signature)

    def given_key(key: Ed25519PrivateKey, hour: float) -> bytes:
        public = public_of(key)
        why = f"signs with {base64.b64encode(public).decode()} from now on (key {key_id(public)})"
        return told_entry("people.key", "lin", why, hour)

    log = [
        said(first, 0.5), given_key(first, 0), given_key(second, 1), said(second, 1.5), said(first, 1.5), said(second, 0.5),
        said(first, -1), told_entry("people.drop", "lin", "removed", 2), said(second, 3),
    ]  # fmt: skip
    signers = Signers()
    for number, body in enumerate(log):
        signers.hear(number, body)
    assert [fault.split(" (lin): ") for fault in signers.judged().faults] == [
        ["audit entry 4", "note is not signed with a key that they had then"],
        ["audit entry 5", "note is not signed with a key that they had then"],
        ["audit entry 6", "the log tells of no key that they had at 2026-11-01 11:00:00 UTC"],
        ["audit entry 8", "the log tells of no key that they had at 2026-11-01 15:00:00 UTC"],
    ]
    assert signers.acts == 6


def told_entry(
    action: str, target: str, why: str, hour: float, *, cause: str = "c", signed: str = "", signature: str = ""
) -> bytes:
    moment = NOON + timedelta(hours=hour)
    return codec.encode(
        AuditEntry(
            id=event_id("told", action, moment.isoformat()), source="responder/store", time=moment, subject=target, actor="lin",
            action=action, target=target, why=why, cause_id=cause, signed=signed, signature=signature,
        )
    )  # fmt: skip


def test_a_copy_is_checked_with_the_key_alone_and_every_changed_byte_is_found(
    here: Settings, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = elsewhere / "audit.jsonl"
    command("export", "--out", str(copy))
    with pytest.raises(BadInput, match="nothing is written over it"):
        command("export", "--out", str(copy))
    command("export", "--out", str(elsewhere / "again.jsonl"))
    assert copy.read_bytes() == (elsewhere / "again.jsonl").read_bytes()
    monkeypatch.setenv("KERBWATCH_HOME", str(elsewhere / "empty"))
    monkeypatch.delenv("KERBWATCH_DATABASE_URL", raising=False)
    key = ("--key", str(elsewhere / "evidence.pub"))
    found = told("--file", str(copy), "--checkpoints", str(elsewhere), *key)
    assert (found["holds"], found["checkpoints"], found["acts"]) == (True, 3, 1)
    assert not (elsewhere / "empty").exists()

    text = copy.read_bytes().splitlines(keepends=True)
    one = json.loads(text[6])
    body = base64.b64encode(base64.b64decode(one["body"]).replace(b"incident.note", b"incident.nite")).decode()
    mended = one | {"body": body, "leaf": base64.b64encode(leaf_hash(base64.b64decode(body))).decode()}
    harmed = {
        "audit entry 5 is not the one": [*text[:6], json.dumps(one | {"body": body}).encode() + b"\n", *text[7:]],
        "line 7 is audit entry 6": [*text[:6], *text[7:]],
        "the file ends after": text[:-1],
        "entries were left out, added or moved": [*text, text[-1]],
        "should be audit entry 5 and is none": [*text[:6], b"{}\n", *text[7:]],
        "one was changed, here or among those left out": [
            *text[:6], json.dumps(mended).encode() + b"\n", *text[7:],
        ],
    }  # fmt: skip
    for expected, bad in harmed.items():
        (elsewhere / "harmed.jsonl").write_bytes(b"".join(bad))
        assert expected in faults("--file", str(elsewhere / "harmed.jsonl"), *key), expected
    (elsewhere / "harmed.jsonl").write_bytes(b"".join(text).replace(b"kerbwatch-audit", b"kerbwatch-adult", 1))
    with pytest.raises(Tampered, match="checkpoint"):
        command("verify", "--file", str(elsewhere / "harmed.jsonl"), *key)
    assert here


def test_a_stretch_of_time_is_copied_whole_with_who_had_which_key(here: Settings, sessions: Sessions, elsewhere: Path) -> None:
    later = datetime.now(UTC)
    acts(here, sessions, "later")
    keep(sessions)
    command("checkpoint")
    copy, key = elsewhere / "stretch.jsonl", ("--key", str(elsewhere / "evidence.pub"))
    hours = ("--since", "2026-11-01T15:00:00", "--until", "2026-11-01T18:00:00")
    assert json.loads(command("export", "--out", str(copy), *hours, "--json").stdout)["entries"] == 3
    entries = [json.loads(line) for line in copy.read_bytes().splitlines()[1:]]
    assert [json.loads(base64.b64decode(one["body"]))["why"] for one in entries] == ["entry 3", "entry 4", "entry 5"]
    assert told("--file", str(copy), *key)["holds"]

    with reading(sessions) as session:
        text = [*lines(session, *auditing.newest_note(here), lambda _done, _of: None, since=later, until=None)]
    copy.write_bytes(b"".join(text))
    found = told("--file", str(copy), *key)
    assert (found["holds"], found["entries"], found["acts"]) == (True, 1, 1)
    head = json.loads(text[0])
    [given] = head["people"]
    for people, fault in (
        ([], "the log tells of no key that they had"),
        ([given | {"number": 3}], "in the head, is not in the log"),
    ):
        copy.write_bytes(b"".join([json.dumps(head | {"people": people}).encode() + b"\n", *text[1:]]))
        assert fault in faults("--file", str(copy), *key)
    with pytest.raises(BadInput, match="none of the"):
        command("export", "--out", str(elsewhere / "none.jsonl"), "--since", "2100-01-01")
    assert not (elsewhere / "none.jsonl").exists()


def test_an_entry_is_proven_by_number_and_by_id_and_the_proof_holds_elsewhere(
    here: Settings, sessions: Sessions, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof = elsewhere / "5.tlog-proof"
    command("prove", "5", "--out", str(proof))
    with reading(sessions) as session:
        row = session.get_one(AuditRow, 5)
    assert command("prove", row.event_id[:12]).stdout_bytes == proof.read_bytes()
    wrong = row.event_id[:6] + ("0" if row.event_id[6] != "0" else "1") + row.event_id[7:]
    with pytest.raises(BadInput, match=f"did you mean {row.event_id}"):
        command("prove", wrong)
    with pytest.raises(BadInput, match="no audit entry 900"):
        command("prove", "900")
    write(sessions, entry(50))
    with pytest.raises(BadInput, match="newer than the newest checkpoint"):
        command("prove", event_id("entry", 50))
    monkeypatch.setenv("KERBWATCH_HOME", str(elsewhere / "empty"))
    key = ("--key", str(elsewhere / "evidence.pub"))
    said = json.loads(command("verify", "--proof", str(proof), *key, "--json").stdout)
    assert (said["index"], said["entry"]["id"]) == (5, row.event_id)
    assert f"entry 5 of the log of {said['size']}" in command("verify", "--proof", str(proof), *key).stdout
    good = read_proof(proof.read_bytes())
    assert isinstance(good, Inclusion)
    for harmed in (Inclusion(good.body + b" ", 5, good.path, good.note), Inclusion(good.body, 4, good.path, good.note)):
        proof.write_bytes(write_proof(harmed))
        with pytest.raises(Tampered, match="the proof does not hold"):
            command("verify", "--proof", str(proof), *key)
    assert here


def test_growth_is_proven_from_a_checkpoint_kept_elsewhere_unless_history_was_rewritten(
    here: Settings, sessions: Sessions, elsewhere: Path
) -> None:
    first, second = (int(note.stem) for note in kept_notes(here))
    proof, old = elsewhere / "growth", elsewhere / f"{first}.note"
    command("prove", "--from", str(first), "--out", str(proof))
    assert f"the log of {second} entries is the one of {first}" in command("verify", "--proof", str(proof)).stdout
    assert json.loads(command("verify", "--proof", str(proof), "--checkpoints", str(old), "--json").stdout)["size"] == second
    with pytest.raises(BadInput, match=f"begins at {first}"):
        command("verify", "--proof", str(proof), "--checkpoints", str(elsewhere / f"{second}.note"))
    with pytest.raises(BadInput, match="fewer than 9000"):
        command("prove", "--from", "9000")
    with writing(sessions) as session:  # the machine's owner writes the whole history anew, and signs it with the same key
        row = session.get_one(AuditRow, first - 1)
        row.body += b" "
        row.leaf_hash = leaf_hash(row.body)
    for note in kept_notes(here):
        note.unlink()
    command("checkpoint")
    assert told()["holds"]
    assert "an entry below" in faults("--checkpoints", str(elsewhere))
    proof.unlink()
    command("prove", "--from", str(first), "--out", str(proof))
    with pytest.raises(Tampered, match="history was rewritten"):
        command("verify", "--proof", str(proof), "--checkpoints", str(old))


def test_before_the_first_checkpoint_the_next_step_is_named(database: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERBWATCH_HOME", str(database.home))
    if database.database_url is not None:
        monkeypatch.setenv("KERBWATCH_DATABASE_URL", database.database_url.reveal())
    assert "audit checkpoint" in command("verify").stdout
    for words in (("prove", "0"), ("export", "--out", str(database.home / "audit.jsonl"))):
        with pytest.raises(Unavailable, match="audit checkpoint"):
            command(*words)
    with pytest.raises(BadInput, match="give an entry, or --from"):
        command("prove")
