"""What people have to know reaches them: after a clock was set back, past a busy mailbox, under another name, once acknowledged."""

import json
from collections.abc import Iterator
from datetime import timedelta

import pytest
from incident_events import act, at, signal, status
from receivers import Authority, Post, Web, authority, mail_server, web_server
from sqlalchemy import select
from test_notify import Desk, notice

from infra.db import Sessions, reading
from infra.settings import Secret, Settings
from infra.tables import EffectRow, IncidentRow
from responders.engine.incident import Resolution, Verb
from responders.notify.alertmanager import alertmanager_of
from responders.notify.deliveries import INTERVAL, WAIT, deliver, dispatch
from responders.notify.notices import Notice, Sort
from responders.notify.smtp import email_of
from responders.people.roles import Role
from streams import codec
from streams.errors import Unavailable
from streams.events import Context, Kind, ModelState, Phase
from streams.topics import MODEL_STATE

pytest_plugins = ["databases"]

R3, R8 = Role.DATA_SCIENTIST, Role.SECMLOPS_ENGINEER


@pytest.fixture
def desk(sessions: Sessions) -> Desk:
    """A store, one channel and a clock."""
    return Desk(sessions)


@pytest.fixture
def web() -> Iterator[Web]:
    """Whatever is posted to."""
    with web_server() as server:
        yield server


def all_told(desk: Desk) -> list[Notice]:
    return [one for message in desk.wire.got for one in message]


@pytest.mark.parametrize("down", [False, True], ids=["it was told", "it waits for another try"])
def test_a_clock_that_was_set_back_silences_no_page(desk: Desk, *, down: bool) -> None:
    desk.passes(timedelta(hours=1))
    desk.attack("cam1")
    desk.passes(WAIT)
    desk.wire.down = down
    desk.tell()
    desk.wire.down = False
    desk.passes(-timedelta(hours=1))
    desk.attack("cam2")
    desk.passes(WAIT)
    desk.tell()
    assert "cam2" in {one.camera_id for one in all_told(desk)}


def test_the_roles_that_a_step_asks_for_are_told_so_once_and_not_paged(desk: Desk) -> None:
    desk.store.accept(signal(Phase.RAISED, 10, 14, kind=Kind.COMPROMISE, detector="answers"), desk.now)
    incident = desk.incident()
    obey(desk)
    for _ in range(3):
        desk.passes(INTERVAL)
        desk.store.tick(desk.now)
        desk.tell()
        desk.tell()
    asked = [one for one in all_told(desk) if "waits for" in one.what]
    assert {one.role for one in asked} == {R3, R8}
    assert len(asked) == 2
    assert {one.sort for one in asked} == {Sort.REMINDER}
    assert all(incident.id[:8] in one.what and "roll_back" in one.what for one in asked)


def obey(desk: Desk) -> None:
    """The one worker reports what was asked of it."""
    with reading(desk.sessions) as session:
        rows = session.scalars(select(EffectRow).where(EffectRow.topic == MODEL_STATE.name).order_by(EffectRow.number)).all()
    orders = [codec.decode(row.payload, MODEL_STATE, ModelState).event for row in rows]
    asked = [order for order in orders if order.context is Context.URBAN][-1]
    desk.store.accept(status("w1", (desk.now - at(0)).total_seconds(), asked), desk.now)


def be_late(desk: Desk) -> None:
    """Nobody reports, and the step's limit passes."""
    for _ in range(40):
        desk.passes(timedelta(seconds=1))
        desk.store.tick(desk.now)


def test_who_has_acknowledged_is_told_what_goes_wrong_afterwards_and_not_paged(desk: Desk) -> None:
    desk.attack("cam1")
    desk.store.accept(act(Verb.ACKNOWLEDGE, desk.incident().id, 3), desk.now)
    be_late(desk)
    for _ in range(2):
        desk.passes(INTERVAL)
        desk.tell()
    late = [one for one in all_told(desk) if "no worker is alive" in one.what]
    assert [(one.sort, one.role) for one in late] == [(Sort.REMINDER, R8)]
    assert not [one for one in all_told(desk) if one.sort is Sort.PAGE and "took longer" in one.what]


def test_an_alert_ends_under_the_name_that_it_fired_under(desk: Desk, web: Web) -> None:
    manager = alertmanager_of(Settings(alertmanager_url=web.url))
    assert manager is not None
    desk.attack("cam1")
    desk.passes(WAIT)
    desk.tell()
    id_ = desk.incident().id
    desk.store.accept(act(Verb.RECLASSIFY, id_, 9, kind=Kind.CAMERA), desk.now)
    desk.store.accept(act(Verb.CLOSE, id_, 10, resolution=Resolution.HANDLED), desk.now)
    obey(desk)
    with reading(desk.sessions) as session:
        assert session.scalars(select(IncidentRow.kind)).all() == [Kind.CAMERA]
    desk.passes(INTERVAL)
    desk.tell()
    pages = [one for one in all_told(desk) if one.sort is Sort.PAGE]
    [over] = [one for one in all_told(desk) if one.sort is Sort.OVER]
    manager.send([pages[0]])
    manager.send([over])
    [fires], ends = (json.loads(posted.body) for posted in web.got)
    assert fires["labels"] in [one["labels"] for one in ends]


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority of the test's own."""
    return authority(tmp_path_factory.mktemp("authority"))


def mail_settings(post: Post, to: str) -> Settings:
    """A mail server, and who is written to."""
    return Settings(
        smtp_host="localhost",
        smtp_port=post.port,
        smtp_user="kerbwatch",
        smtp_password=Secret("of the test's own server"),
        mail_from="kerbwatch@example.org",
        mail_to=to,
    )


def test_a_busy_mailbox_is_tried_again_alone_until_it_takes_the_mail(trusted: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted.trusted))
    with mail_server(trusted) as post:
        settings = mail_settings(post, "archive@example.org, R8=duty@example.org")
        mail = email_of(settings)
        assert mail is not None
        post.busy_for = "duty@example.org"
        with pytest.raises(Unavailable, match=r"refused 1 of 2 recipients \(450\)"):
            mail.send([notice()])
        with pytest.raises(Unavailable, match="refused every recipient"):
            mail.send([notice()])
        post.busy_for = ""
        mail.send([notice()])
        mail.send([notice(key="another")])
    assert post.recipients == [["archive@example.org"], ["duty@example.org"], ["archive@example.org", "duty@example.org"]]


def test_a_dead_mailbox_beside_a_living_one_of_the_role_holds_up_no_page_and_is_on_record(
    trusted: Authority, monkeypatch: pytest.MonkeyPatch, desk: Desk
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted.trusted))
    with mail_server(trusted) as post:
        mail = email_of(mail_settings(post, "R8=duty@example.org, R8=gone@example.org"))
        assert mail is not None
        post.busy_for = "gone@example.org"
        for camera in ("cam1", "cam2", "cam3"):
            desk.attack(camera)
            desk.passes(WAIT)
            dispatch(desk.sessions, [mail.name], desk.now)
            deliver(desk.sessions, mail, desk.clock, "one")
        rows = desk.rows()
        desk.passes(INTERVAL)
        deliver(desk.sessions, mail, desk.clock, "one")
    assert post.recipients == [["duty@example.org"]] * 2, "one at once, two together a minute later"
    assert [row.state for row in rows] == ["done", "waiting", "waiting"]
    assert "refused 1 of 2 recipients (450)" in rows[0].error
