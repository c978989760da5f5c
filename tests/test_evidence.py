"""A sealed bundle holds to the last byte, or says which member does not."""

import tarfile
from io import BytesIO
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from incident_events import NOON, NORMAL, SAFE, at, signal, status
from typer.testing import CliRunner

from infra import checkpoints
from infra.checkpoints import Checkpoint, evidence_key, read_note, read_public_key, write_note
from infra.db import Sessions, reading, writing
from infra.merkle import Tree, leaf_hash, root_of
from infra.settings import Secret, Settings
from infra.tables import EffectRow
from responders.engine.store import Store
from responders.people.access import Deed
from responders.people.acts import Statement, public_of, sign
from responders.playbooks import playbooks
from responders.proof import material
from responders.proof.evidence import About, Proven, SignedAct, Verified, seal, verify
from responders.proof.keeping import record_audit
from responders.proof.trail import follow
from streams import codec
from streams.command_line import app
from streams.console.evidence import seal_incident
from streams.errors import BadInput, Tampered, Unavailable
from streams.events import AuditEntry, Context, ModelState, Phase, event_id
from streams.topics import AUDIT, MODEL_STATE

pytest_plugins = ["databases"]

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key()
ABOUT = About(incident_id="1" * 32, sealed_at=NOON, kerbwatch="0.1.0")


def an_incident(sessions: Sessions) -> str:
    """Opened, contained, recovered and closed, all of it audited."""
    store = Store(sessions, playbooks.load(), worker_lost_s=60, clock_allowance_s=60)
    store.assign(Context.URBAN, NORMAL, SAFE, at(0))
    [id_] = store.accept(signal(Phase.RAISED, 10, 14), at(3)).incident_ids
    store.accept(status("w1", 4, asked(sessions)), at(4))
    store.accept(signal(Phase.CALM, 15, 40), at(9))
    store.accept(status("w1", 10, asked(sessions)), at(10))
    audit(sessions)
    return id_


def asked(sessions: Sessions) -> ModelState:
    with reading(sessions) as session:
        rows = session.query(EffectRow).filter_by(topic=MODEL_STATE.name).order_by(EffectRow.number).all()
    return codec.decode(rows[-1].payload, MODEL_STATE, ModelState).event


def audit(sessions: Sessions) -> None:
    """What the keeper does with the entries that were sent."""
    with writing(sessions) as session:
        rows = session.query(EffectRow).filter_by(topic=AUDIT.name).order_by(EffectRow.number)
        record_audit(session, [row.payload for row in rows])


def audit_entry(number: int) -> bytes:
    entry = AuditEntry(
        id=event_id("entry", number),
        source="responder/store",
        time=at(number),
        subject="1",
        actor="responder",
        action="incident.open",
        target="1",
        why="a test",
        cause_id="c",
    )
    return codec.encode(entry)


def an_act(key: Ed25519PrivateKey) -> bytes:
    """What a person signed, as a line of the member."""
    said = Statement(actor="operator-1", deed=Deed.CLOSE, target="1" * 32, comment="seen", time=NOON)
    act = sign(key, said)
    return (
        msgspec.json.encode(SignedAct(body=act.body, signature=act.signature, public_key=public_of(KEY), with_code=False)) + b"\n"
    )


def a_bundle(sessions: Sessions, settings: Settings, id_: str) -> bytes:
    with reading(sessions) as session:
        found = material.gather(session, settings, id_)
        trail = follow(session, settings, id_)
    assert (trail.waiting, len(trail.entries) > 3, trail.checkpoint is None) == ((), True, False)
    assert trail.checkpoint is not None
    return seal(material.members(found, trail, write_note(KEY, trail.checkpoint)), ABOUT, KEY)


@pytest.fixture
def bundle(sessions: Sessions, database: Settings) -> bytes:
    return a_bundle(sessions, database, an_incident(sessions))


def member_at(bundle: bytes, place: int) -> str:
    """Which member a byte belongs to, by tarfile's own reading."""
    with tarfile.open(fileobj=BytesIO(bundle)) as archive:
        for one in archive:
            end = one.offset_data + one.size + -one.size % 512
            if one.offset <= place < end:
                return one.name
    return "end of the archive"


@given(st.lists(st.binary(max_size=8), max_size=40))
def test_every_entry_is_proven_by_every_tree_that_holds_it(entries: list[bytes]) -> None:
    leaves = [leaf_hash(entry) for entry in entries]
    tree = Tree(leaves)
    for index, leaf in enumerate(leaves):
        proof = tree.proof(index)
        assert root_of(leaf, index, tree.size, proof) == tree.root
        assert root_of(leaf_hash(b"another entry"), index, tree.size, proof) != tree.root
        assert root_of(leaf, index, tree.size, (*proof, leaf)) is None
        assert root_of(leaf, index + 1, tree.size, proof) != tree.root or leaves[: index + 2].count(leaf) > 1


def test_roots_are_those_of_the_standard() -> None:
    """The eight entries of certificate-transparency-go's merkle tests (RFC 6962)."""
    entries = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    leaves = [leaf_hash(bytes.fromhex(entry)) for entry in entries]
    assert Tree([]).root.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert Tree(leaves[:1]).root.hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert Tree(leaves[:5]).root.hex() == "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4"
    assert Tree(leaves).root.hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


@given(st.integers(0, 10_000), st.binary(min_size=32, max_size=32), st.data())
def test_a_checkpoint_holds_to_the_last_byte(size: int, root: bytes, data: st.DataObject) -> None:
    note = write_note(KEY, Checkpoint(size, root))
    assert read_note(note, PUBLIC) == Checkpoint(size, root)
    place, bit = data.draw(st.integers(0, len(note) - 1)), data.draw(st.integers(0, 7))
    with pytest.raises(Tampered, match="checkpoint"):
        read_note(note[:place] + bytes([note[place] ^ 1 << bit]) + note[place + 1 :], PUBLIC)


def test_a_bundle_tells_all_of_an_incident_and_bears_its_log(bundle: bytes) -> None:
    found: Verified = verify(bundle, PUBLIC)
    assert found.about == ABOUT
    assert list(found.members)[:4] == ["incident.json", "timeline.jsonl", "events.jsonl", "frames.jsonl"]
    timeline = [msgspec.json.decode(line)["action"] for line in found.members["timeline.jsonl"].splitlines()]
    assert (timeline[0], timeline[-1]) == ("open", "closed")
    assert found.audited == len(found.members["audit.jsonl"].splitlines()) > 3
    assert msgspec.json.decode(found.members["weights.json"])["named"]


def test_the_same_incident_gives_the_same_bytes_but_for_the_time_of_sealing(sessions: Sessions, database: Settings) -> None:
    id_ = an_incident(sessions)
    first = a_bundle(sessions, database, id_)
    Store(sessions, playbooks.load(), 60, 60).accept(signal(Phase.RAISED, 90, 99, camera="cam2", epoch=2), at(60))
    audit(sessions)  # the log grows by others' entries
    assert a_bundle(sessions, database, id_) == first
    later = seal(verify(first, PUBLIC).members, msgspec.structs.replace(ABOUT, sealed_at=at(3600)), KEY)
    assert later != first
    assert verify(later, PUBLIC).members == verify(first, PUBLIC).members


def test_any_byte_that_is_flipped_is_refused_by_the_name_of_its_member() -> None:
    """Every 5th byte of a small bundle: each header, each member, the padding and the end are met many times."""
    entries = [audit_entry(number) for number in range(3)]
    tree = Tree([leaf_hash(entry) for entry in entries])
    proven = [msgspec.json.encode(Proven(number=n, body=body, proof=tree.proof(n))) + b"\n" for n, body in enumerate(entries)]
    checkpoint = write_note(KEY, Checkpoint(tree.size, tree.root))
    parts = {
        "incident.json": b"{}\n",
        "timeline.jsonl": b"",
        "acts.jsonl": an_act(KEY),
        "audit.jsonl": b"".join(proven),
        "waiting.jsonl": b"",
        "checkpoint.note": checkpoint,
        "growth.jsonl": b"",
        "doubts.json": b"[]\n",
    }
    bundle = seal(parts, ABOUT, KEY)
    seen = set()
    for place in range(0, len(bundle), 5):
        touched = bytearray(bundle)
        touched[place] ^= 0x20
        with pytest.raises(Tampered) as caught:
            verify(bytes(touched), PUBLIC)
        name = member_at(bundle, place)
        assert f"{name} " in str(caught.value), (place, name, str(caught.value))
        seen.add(name)
    assert seen == {*parts, "envelope.json", "end of the archive"}


def test_members_that_are_missing_added_or_cut_are_named(bundle: bytes) -> None:
    with tarfile.open(fileobj=BytesIO(bundle)) as archive:
        parts = {one.name: (one.offset, one.offset_data + one.size + -one.size % 512) for one in archive}
    start, end = parts["logs.jsonl"]
    for wrong, name in (
        (bundle[:start] + bundle[end:], "logs.jsonl"),
        (bundle[:start] + bundle[start:end] * 2 + bundle[end:], "missing.json"),
        (bundle[: parts["audit.jsonl"][0] + 512], "audit.jsonl"),
        (bundle + bytes(512), "the end of the archive"),
        (b"", "envelope.json"),
    ):
        with pytest.raises(Tampered, match=f"{name} "):
            verify(wrong, PUBLIC)


def test_another_key_and_a_log_that_lacks_an_entry_are_refused(bundle: bytes) -> None:
    other = Ed25519PrivateKey.generate()
    with pytest.raises(Tampered, match=r"envelope\.json is by key"):
        verify(bundle, other.public_key())
    members = dict(verify(bundle, PUBLIC).members)
    with pytest.raises(Tampered, match=r"checkpoint\.note"):
        seal(members, ABOUT, other)
    [doubt, *_] = [one for one in verify(seal(members | {"acts.jsonl": an_act(other)}, ABOUT, KEY), PUBLIC).doubts if "act" in one]
    assert "does not bear the signature of the key that is kept with it" in doubt
    forged = msgspec.structs.replace(msgspec.json.decode(members["audit.jsonl"].splitlines()[0], type=Proven), number=0)
    with pytest.raises(Tampered, match=r"audit\.jsonl has entry 0"):
        seal(members | {"audit.jsonl": msgspec.json.encode(forged) + b"\n"}, ABOUT, KEY)


def test_the_key_is_made_once_and_a_wrong_file_is_told(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    with pytest.raises(Unavailable, match=r"evidence\.pub"):
        read_public_key(checkpoints.public_key_file(settings))
    raw = (serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    assert evidence_key(settings).public_key().public_bytes(*raw) == evidence_key(settings).public_key().public_bytes(*raw)
    assert (tmp_path / "keys" / "evidence.key").stat().st_mode & 0o777 == 0o600
    assert isinstance(read_public_key(checkpoints.public_key_file(settings)), Ed25519PublicKey)
    with pytest.raises(BadInput, match="no Ed25519 public key"):
        read_public_key(tmp_path / "keys" / "evidence.key")


def test_secrets_are_masked_and_what_is_missing_is_said(sessions: Sessions, tmp_path: Path) -> None:
    id_ = an_incident(sessions)
    settings = Settings(home=tmp_path, grafana_token=Secret("s3cret"), kafka_port=1)
    bundle = seal_incident(sessions, settings, id_, NOON)
    assert b"s3cret" not in bundle
    found = verify(bundle, read_public_key(checkpoints.public_key_file(settings)))
    assert "all events by offset: no certificate" in found.members["missing.json"].decode()
    assert "log lines: no process logs to `logs` here" in found.members["missing.json"].decode()
    assert b'"grafana_token": "***"' in found.members["settings.json"]


def test_one_command_checks_a_bundle_with_nothing_but_the_key(bundle: bytes, tmp_path: Path) -> None:
    public = tmp_path / "their.pub"
    public.write_bytes(PUBLIC.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    (tmp_path / "b.tar").write_bytes(bundle)
    told = CliRunner().invoke(app, ["incidents", "verify", str(tmp_path / "b.tar"), "--key", str(public)])
    assert (told.exit_code, "holds: incident " + ABOUT.incident_id in told.output) == (0, True)
    (tmp_path / "b.tar").write_bytes(bundle.replace(b'"closed"', b'"opened"', 1))
    told = CliRunner().invoke(app, ["incidents", "verify", str(tmp_path / "b.tar"), "--key", str(public)])
    assert isinstance(told.exception, Tampered)
