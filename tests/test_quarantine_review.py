"""Frames in quarantine are looked at by who may, and released or destroyed by two people only."""

import hashlib
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pytest
from a_person import Command, newcomer, quarantine_command, refusals
from frames import a_frame
from incident_events import NORMAL, SAFE, at, signal, status
from msgspec.structs import replace
from PIL import Image
from sqlalchemy import select
from test_keeping import detections

from infra.clients import producer
from infra.db import Sessions, reading, writing
from infra.keys import open_sealed, quarantine_key, seal
from infra.settings import Settings
from infra.tables import EffectRow, QuarantinedFrame
from responders.engine.incident import Act, Resolution, Verb
from responders.engine.store import Store
from responders.people.roles import Role
from responders.playbooks import playbooks
from responders.proof.keeping import record_judged
from responders.quarantine import quarantine
from responders.quarantine.contact_sheet import difference
from responders.quarantine.quarantine import Place, SealedFrame, Standing, expire, kept_out, open_frame, set_aside
from streams import codec, topics
from streams.command_line import app
from streams.console.quarantine import complete_frame
from streams.console.quarantine_show import drawn, neighbour_of
from streams.errors import BadInput, Tampered, Unavailable
from streams.events import AuditEntry, Box, Context, Detections, Frame, Kind, ModelState, Phase, QuarantineOrder, Window, event_id
from streams.frame_log import read_detections
from streams.topics import AUDIT, DETECTIONS, MODEL_STATE

pytest_plugins = ["databases"]

SIZE = (96, 64)
FIRST, LAST = 10, 14


def picture(sequence: int) -> bytes:
    """A grey slope with a mark that tells the frames apart."""
    pixels = np.tile(np.linspace(40, 200, SIZE[0], dtype=np.uint8)[None, :, None], (SIZE[1], 1, 3))
    pixels[0, sequence] = 255
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def shot(sequence: int) -> tuple[Frame, bytes, Detections | None]:
    body = picture(sequence)
    frame = a_frame(body, camera_id="cam1", epoch=1, sequence=sequence, content_type="image/png", subject="cam1")
    return frame, body, replace(detections(sequence), boxes=(Box(10, 20, 12, 30, 0.91),))


class Site:
    """An incident with five frames in quarantine, and the people who may decide about them."""

    def __init__(self, settings: Settings, sessions: Sessions) -> None:
        self.settings, self.sessions = settings, sessions
        self.store = Store(sessions, playbooks.load(), worker_lost_s=6, clock_allowance_s=5)
        self.store.assign(Context.URBAN, NORMAL, SAFE, at(0))
        with writing(sessions) as session:
            record_judged(session, [detections(n) for n in range(5, 20)])
            self.phones = {
                name: newcomer(session, settings, name, roles, at(0))
                for name, roles in (
                    ("data-1", [Role.DATA_ENGINEER]),
                    ("security-1", [Role.SECMLOPS_ENGINEER]),
                    ("both-1", [Role.DATA_ENGINEER, Role.SECMLOPS_ENGINEER]),
                    ("devops-1", [Role.DEVOPS_ENGINEER]),
                )
            }
        self.id = self.store.accept(signal(Phase.RAISED, FIRST, LAST), at(3)).incident_ids[0]
        self.set_aside(self.order("first"))

    def order(self, id_: str, incident_id: str = "") -> QuarantineOrder:
        return QuarantineOrder(
            id=id_,
            source="responder/store",
            time=at(3),
            subject="cam1",
            decision_id=id_,
            incident_id=incident_id or self.id,
            camera_id="cam1",
            context=Context.URBAN,
            window=Window(epoch=1, first_sequence=FIRST, last_sequence=LAST),
            reason="evasion: squeeze raised",
        )

    def set_aside(self, order: QuarantineOrder) -> quarantine.Outcome:
        return set_aside(self.sessions, self.settings, order, [shot(n) for n in range(FIRST, LAST + 1)], at(4))

    def close(self) -> None:
        act = Act("close", at(5), self.id, Verb.CLOSE, "security-1", "a bus", Resolution.FALSE_ALARM)
        self.store.accept(act, at(5))
        with reading(self.sessions) as session:
            rows = session.scalars(select(EffectRow).where(EffectRow.topic == "model-state"))
            asked = codec.decode(max(rows, key=lambda row: row.number).payload, MODEL_STATE, ModelState).event
        self.store.accept(status("w1", 9, asked), at(9))

    def rows(self) -> list[QuarantinedFrame]:
        with reading(self.sessions) as session:
            return list(session.scalars(select(QuarantinedFrame).order_by(QuarantinedFrame.sequence)))


@pytest.fixture
def site(database: Settings, sessions: Sessions) -> Site:
    return Site(database, sessions)


@pytest.fixture
def command(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    return quarantine_command(app, site.settings, site.phones, monkeypatch, tmp_path)


def test_two_people_release_and_the_frames_may_be_trained_on_again(site: Site, command: Command) -> None:
    site.close()
    with reading(site.sessions) as session:
        assert len(kept_out(site.settings, session)) == 5
    told = json.loads(command("release", site.id, "-m", "a bus", "--json", actor="data-1").stdout)
    assert told == {"frames": 5, "done": False, "by": ["data-1"], "missing": ["R8"]}
    assert {row.state for row in site.rows()} == {Standing.SEALED}
    assert "5 frames released" in command("release", site.id, "-m", "seen too", actor="security-1").stdout
    assert {(row.state, row.reviewed_by) for row in site.rows()} == {(Standing.RELEASED, "data-1, security-1")}
    with reading(site.sessions) as session:
        assert kept_out(site.settings, session) == frozenset()
        bodies = session.scalars(select(EffectRow.payload).where(EffectRow.topic == "audit").order_by(EffectRow.number))
        last = [codec.decode(body, AUDIT, AuditEntry).event for body in bodies][-1]
    assert (last.action, last.actor) == ("quarantine.release", "data-1, security-1")
    assert last.why == "5 frames released (cam1:1:10-14): seen too"
    assert open_frame(site.settings, site.rows()[0]).picture == picture(FIRST)
    assert json.loads(command("list", "--json").stdout)["total"] == 0
    assert json.loads(command("list", "--all", "--json").stdout)["total"] == 5
    with pytest.raises(BadInput, match="no such frames"):
        command("release", site.id, "-m", "again", actor="data-1")


def test_one_person_is_not_two_and_a_role_that_may_not_is_refused(site: Site, command: Command) -> None:
    site.close()
    command("release", site.id, "-m", "a bus", actor="both-1")
    told = json.loads(command("release", site.id, "-m", "a bus", "--json", actor="both-1").stdout)
    assert (told["done"], len(told["missing"])) == (False, 1)
    with pytest.raises(BadInput, match=r"R4 .* or R8"):
        command("release", site.id, "-m", "a bus", actor="devops-1")
    with pytest.raises(BadInput, match="six digits"):
        command("release", site.id, "-m", "a bus", actor="data-1", coded=False)
    command("discard", site.id, "-m", "no", actor="data-1")
    assert {row.state for row in site.rows()} == {Standing.SEALED}, "who releases does not agree with who discards"


def test_what_an_open_incident_needs_stays(site: Site, command: Command) -> None:
    with pytest.raises(BadInput, match="close it first"):
        command("discard", site.id, "-m", "faces", actor="data-1")
    site.close()
    other = site.store.accept(signal(Phase.RAISED, 12, 13), at(60)).incident_ids[0]
    with pytest.raises(BadInput, match=other[:8]):
        command("discard", site.id, "-m", "faces", actor="data-1")
    with pytest.raises(BadInput, match="no incident"):  # nothing was refused: nobody knows what was meant
        command("discard", "zzzz", "-m", "faces", actor="data-1", coded=False)
    told = refusals(site.sessions)
    assert {(entry.actor, entry.action, entry.target) for entry in told} == {("data-1", "people.refuse", site.id)}
    assert [("close it first" in entry.why, entry.why[:8]) for entry in told] == [(True, "discard:")] * 2


def test_discarded_frames_are_gone_with_their_keys_and_stay_out_of_training(site: Site, command: Command) -> None:
    site.close()
    before = [(row, (site.settings.home / row.path).read_bytes()) for row in site.rows()]
    command("discard", site.id, "-m", "faces, no consent", actor="data-1")
    assert "5 frames destroyed" in command("discard", site.id, "-m", "agreed", actor="security-1").stdout
    assert not list((site.settings.home / "quarantine").rglob("*.sealed"))
    for now, (row, copy) in zip(site.rows(), before, strict=True):
        assert (now.state, now.sealed_key) == (Standing.DISCARDED, None)
        with pytest.raises(BadInput, match="discarded by data-1, security-1"):
            open_frame(site.settings, now)
        with pytest.raises(Tampered):  # not even from a backup of the file
            open_sealed(quarantine_key(site.settings), copy, f"{row.incident_id}/{row.frame_id}".encode())
    with reading(site.sessions) as session:
        assert len(kept_out(site.settings, session)) == 5
    assert site.set_aside(site.order("first")).already == 5
    assert not list((site.settings.home / "quarantine").rglob("*.sealed"))


def test_a_crash_while_discarding_leaves_frames_to_be_decided_about(
    site: Site, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.close()
    command("discard", site.id, "-m", "faces", actor="data-1")

    def die(*_: object) -> None:
        raise Unavailable("the disk is gone")

    with monkeypatch.context() as broken:
        broken.setattr("responders.people.desk.use", die)
        with pytest.raises(Unavailable):
            command("discard", site.id, "-m", "agreed", actor="security-1")
    assert {row.state for row in site.rows()} == {Standing.SEALED}
    command("discard", site.id, "-m", "agreed", actor="security-1")
    assert {row.state for row in site.rows()} == {Standing.DISCARDED}


def test_two_people_must_mean_the_same_frames(site: Site, command: Command) -> None:
    site.close()
    command("release", site.id, "--frame", "cam1:1:12", "-m", "one", actor="data-1")
    told = json.loads(command("release", site.id, "-m", "all", "--json", actor="security-1").stdout)
    assert told["missing"] == ["R4"]
    command("release", site.id, "--frame", "cam1:1:12", "-m", "one", actor="security-1")
    assert [row.sequence for row in site.rows() if row.state == Standing.RELEASED] == [12]


def test_a_released_frame_comes_back_by_a_new_order_and_not_by_the_old_one_again(site: Site, command: Command) -> None:
    site.close()
    command("release", site.id, "-m", "a bus", actor="data-1")
    command("release", site.id, "-m", "a bus", actor="security-1")
    assert site.set_aside(site.order("first")).already == 5
    with writing(site.sessions) as session:
        assert len(expire(session, site.settings, at(5), (), by="schedule", now=at(6))) == 5
    assert site.set_aside(site.order("first")).already == 5
    assert {(row.state, row.path) for row in site.rows()} == {(Standing.RELEASED, "")}
    other = event_id("incident", "another")
    assert site.set_aside(site.order("second", other)).sealed == 5
    assert {(row.state, row.incident_id, row.reviewed_by) for row in site.rows()} == {(Standing.SEALED, other, "")}
    assert open_frame(site.settings, site.rows()[0]).order.incident_id == other


def test_a_frame_is_drawn_with_boxes_beside_its_neighbour(site: Site, tmp_path: Path) -> None:
    row = site.rows()[0]
    clean, body, _ = shot(9)
    told = drawn(row, open_frame(site.settings, row), (clean, body), tmp_path / "sheet.png")
    assert (told.people, told.neighbour, told.weights_digest) == (1, 9, NORMAL)
    assert told.mean_difference is not None
    assert 0 < told.mean_difference < 1
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape[0] > SIZE[1]
    assert sheet.shape[1] > 3 * SIZE[0]
    assert (tmp_path / "sheet.png").stat().st_mode & 0o077 == 0
    reddish = (sheet[..., 0] > 240) & (sheet[..., 1] < 90)
    assert reddish[:, : SIZE[0] + 12].sum() > 2 * (12 + 30), "the box is drawn on the frame"
    assert not reddish[:, SIZE[0] + 12 :].any(), "and nowhere else"


def test_a_clean_neighbour_is_none_that_was_ordered_away_and_is_not_sealed_yet(site: Site) -> None:
    def nearest() -> int | None:
        with reading(site.sessions) as session:
            place = neighbour_of(session, site.rows()[0])
        return None if place is None else place.sequence

    assert nearest() == FIRST - 1
    site.store.accept(signal(Phase.RAISED, 7, FIRST - 1, kind=Kind.COMPROMISE), at(6))
    assert nearest() == 6, "7 to 9 wait to be sealed"


def test_a_difference_of_nothing_is_grey_and_a_small_one_is_plain_to_see() -> None:
    flat = np.full((4, 4, 3), 100, np.uint8)
    assert (difference(flat, flat) == 128).all()
    touched = flat.copy()
    touched[0, 0], touched[0, 1] = 108, 92
    seen = difference(touched, flat)
    assert seen[0, 0].tolist() == [192] * 3
    assert seen[0, 1].tolist() == [64] * 3


def test_showing_is_for_who_may_and_is_on_record(site: Site, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.console.quarantine_show.read_frames", lambda *_: iter([shot(9)[:2]]))
    with pytest.raises(BadInput, match="may not open"):
        command("show", "cam1:1:10", actor="devops-1", coded=False)
    told = json.loads(command("show", "cam1:1:10", "--json", actor="data-1", coded=False).stdout)
    assert (told["people"], told["neighbour"], told["reason"]) == (1, 9, "evasion: squeeze raised")
    assert Path(told["picture"]).is_file()
    with pytest.raises(BadInput, match="did you mean cam1:1:1"):
        command("show", "cam1:1:99", actor="data-1", coded=False)
    with pytest.raises(BadInput, match="quarantine list"):
        command("show", "zzzz", actor="data-1", coded=False)
    assert complete_frame("cam1:1:13") == [("cam1:1:13", "")]
    with reading(site.sessions) as session:
        bodies = session.scalars(select(EffectRow.payload).where(EffectRow.topic == "audit"))
        entries = [codec.decode(body, AUDIT, AuditEntry).event for body in bodies]
    looks = [(entry.actor, entry.action) for entry in entries if entry.why.startswith("open: ")]
    assert looks == [("devops-1", "people.refuse"), ("data-1", "people.act")]


def test_files_of_before_open_without_a_key_of_their_own(site: Site) -> None:
    row = site.rows()[0]
    sealed = open_frame(site.settings, row)
    with writing(site.sessions) as session:
        old = session.get_one(QuarantinedFrame, row.frame_id)
        data = seal(quarantine_key(site.settings), msgspec.msgpack.encode(sealed), f"{row.incident_id}/{row.frame_id}".encode())
        (site.settings.home / row.path).write_bytes(data)
        old.sealed_key, old.picture_sha256, old.sealed_sha256 = None, "", hashlib.sha256(data).hexdigest()
    assert isinstance(open_frame(site.settings, site.rows()[0]), SealedFrame)
    with reading(site.sessions) as session:
        assert sealed.frame.digest in kept_out(site.settings, session)
    with writing(site.sessions) as session:
        quarantine.destroy(site.settings, session.get_one(QuarantinedFrame, row.frame_id), "data-1", at(9))
    with reading(site.sessions) as session:
        assert sealed.frame.digest in kept_out(site.settings, session), "known again, though it is gone"


@pytest.mark.broker
def test_detections_are_found_in_the_log_around_the_time_of_judging(
    broker: Settings, fresh_topics: Callable[[Settings], None]
) -> None:
    fresh_topics(broker)
    now = datetime.now(UTC)
    made = [replace(detections(n), time=now) for n in range(40)]
    client = producer(broker, topics.Role.INFERENCE)
    for one in made:
        client.send(DETECTIONS.name, codec.encode(one), key=one.camera_id.encode(), partition=2)
    client.flush(10)
    client.close()
    places = [Place(one.frame_id, one.sequence, 2, one.frame_offset, now) for one in made[7:12]]
    assert read_detections(broker, places) == {one.frame_id: one for one in made[7:12]}
    assert read_detections(broker, [Place("nowhere", 1, 2, 3, now)]) == {}
    assert read_detections(broker, []) == {}
