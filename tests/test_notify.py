"""People are told of incidents: signed, encrypted, once, in few messages, and never at the price of containment."""

import base64
import hashlib
import hmac
import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest
from incident_events import NORMAL, SAFE, act, at, signal, status
from receivers import Authority, Post, Web, authority, mail_server, web_server
from sqlalchemy import select
from typer.testing import CliRunner

from infra.db import Sessions, reading, writing
from infra.settings import Secret, Settings
from infra.tables import EffectRow, IncidentRow, NotificationRow
from responders.console.tables import app as incidents
from responders.engine.effects import carry_out
from responders.engine.incident import Verb
from responders.engine.store import Store
from responders.notify.alertmanager import alertmanager_of
from responders.notify.channels import ChannelName
from responders.notify.cli import app
from responders.notify.deliveries import GIVE_UP, INTERVAL, LEASE, WAIT, Delivered, deliver, dispatch, remind
from responders.notify.from_settings import channel_of, wanted
from responders.notify.notices import Notice, Sort, reminder, trial
from responders.notify.smtp import email_of
from responders.notify.webhook import webhook_of
from responders.people.roles import Role
from responders.playbooks import playbooks
from responders.playbooks.playbooks import State
from streams.errors import BadInput, Unavailable
from streams.events import Context, Event, Mode, ModelState, Phase, Severity
from streams.topics import Topic

pytest_plugins = ["databases"]

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
PASSWORD = "hunter2-and-more"  # noqa: S105 - of the test's own mail server


@dataclass
class Wire:
    """A channel that keeps what it is given; while `down`, it fails."""

    name: ChannelName = ChannelName.WEBHOOK
    got: list[list[Notice]] = field(default_factory=list)
    down: bool = False

    def send(self, notices: Sequence[Notice]) -> None:
        if self.down:
            raise Unavailable("it is away")
        self.got.append(list(notices))


class Desk:
    """A store, its lanes and a clock."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions, self.now = sessions, at(3)
        self.store = Store(sessions, playbooks.load(), worker_lost_s=6, clock_allowance_s=5)
        for context in Context:
            self.store.assign(context, NORMAL, SAFE, self.now)
        self.wire = Wire()

    def clock(self) -> datetime:
        return self.now

    def passes(self, time: timedelta) -> None:
        self.now += time

    def tell(self, *channels: Wire, runner: str = "one") -> list[Delivered]:
        wires = channels or (self.wire,)
        dispatch(self.sessions, [wire.name for wire in wires], self.now)
        return [deliver(self.sessions, wire, self.clock, runner) for wire in wires]

    def attack(self, *cameras: str) -> None:
        self.store.accept_all([signal(Phase.RAISED, 10, 14, camera=camera) for camera in cameras], self.now)

    def incident(self, camera: str = "cam1") -> IncidentRow:
        with reading(self.sessions) as session:
            return session.scalars(select(IncidentRow).where(IncidentRow.camera_id == camera)).one()

    def rows(self) -> list[NotificationRow]:
        with reading(self.sessions) as session:
            return list(session.scalars(select(NotificationRow).order_by(NotificationRow.number)))


@pytest.fixture
def desk(sessions: Sessions) -> Desk:
    return Desk(sessions)


def notice(**changes: object) -> Notice:
    fields: dict[str, object] = {
        "key": "k" * 32,
        "sort": Sort.PAGE,
        "time": at(3),
        "what": "evasion on cam1",
        "role": "R8",
        "incident_id": "3f2a" * 8,
        "kind": "evasion",
        "severity": Severity.HIGH,
        "camera_id": "cam1",
        "context": Context.URBAN,
        "state": State.CONTAINING,
        "signals": 3,
        "detected_at": at(2),
    }
    return Notice(**(fields | changes))  # type: ignore[arg-type]


# When, to whom, how often


def test_a_page_goes_out_once_after_a_short_wait_for_others(desk: Desk) -> None:
    desk.attack("cam1", "cam2", "cam3")
    assert desk.tell() == [Delivered()]
    desk.passes(WAIT)
    assert desk.tell() == [Delivered(sent=3)]
    for _ in range(3):
        desk.passes(INTERVAL)
        assert desk.tell() == [Delivered()]
    [message] = desk.wire.got
    assert {(one.camera_id, one.role, one.sort) for one in message} == {(f"cam{n}", "R8", Sort.PAGE) for n in (1, 2, 3)}


def test_what_comes_within_a_minute_of_a_page_waits_and_goes_together(desk: Desk) -> None:
    desk.attack("cam1")
    desk.passes(WAIT)
    desk.tell()
    for second in range(10):
        desk.attack(f"late{second}")
        desk.passes(timedelta(seconds=5))
        desk.tell()
    desk.passes(INTERVAL)
    desk.tell()
    assert [len(message) for message in desk.wire.got] == [1, 10]


def test_another_role_is_paged_without_waiting_for_the_minute(desk: Desk) -> None:
    desk.attack("cam1")
    desk.passes(WAIT)
    desk.tell()
    calls = playbooks.load()[signal(Phase.RAISED, 1, 1).kind].calls
    desk.store.tick(desk.now)
    desk.passes(timedelta(seconds=calls[0].wait_s))
    for _ in range(2):  # the first also finds that no worker has reported, and calls the same role for that
        desk.store.tick(desk.now)
    desk.passes(WAIT)
    assert desk.tell() == desk.tell() == [Delivered(sent=1)]
    assert {message[0].role for message in desk.wire.got[1:]} == {calls[0].role, calls[1].role}


def test_an_acknowledgement_withdraws_pages_that_are_still_to_go(desk: Desk) -> None:
    slow = Wire(ChannelName.EMAIL, down=True)
    desk.attack("cam1")
    desk.passes(WAIT)
    assert desk.tell(desk.wire, slow) == [Delivered(sent=1), Delivered(delayed=1)]
    desk.store.accept(act(Verb.ACKNOWLEDGE, desk.incident().id, 9), desk.now)
    slow.down = False
    desk.passes(INTERVAL)
    desk.tell(desk.wire, slow)
    assert slow.got == []
    assert {row.channel: row.state for row in desk.rows()} == {"webhook": "done", "email": "withdrawn"}


def test_that_it_is_over_is_told_where_it_was_paged_and_only_there(desk: Desk) -> None:
    away = Wire(ChannelName.EMAIL, down=True)
    desk.attack("cam1")
    desk.passes(WAIT)
    desk.tell(desk.wire, away)
    desk.store.accept(act(Verb.CLOSE, desk.incident().id, 9), desk.now)
    desk.store.accept(act(Verb.CLOSE, desk.incident().id, 10), desk.now)
    assert desk.incident().state == State.CLOSED
    away.down = False
    desk.passes(INTERVAL)
    desk.tell(desk.wire, away)
    assert [[one.sort for one in message] for message in desk.wire.got] == [[Sort.PAGE], [Sort.OVER]]
    assert [one.role for one in desk.wire.got[-1][0].paged] == ["R8"]
    assert away.got == []


def test_a_reminder_goes_out_on_every_channel_once(desk: Desk) -> None:
    mail = Wire(ChannelName.EMAIL)
    for _ in range(2):
        with writing(desk.sessions) as session:
            remind(
                session, reminder("backup 2026-11-21", "scheduled job backup failed", Role.SECMLOPS_ENGINEER, desk.now), desk.now
            )
        desk.passes(WAIT)
        desk.tell(desk.wire, mail)
    for wire in (desk.wire, mail):
        assert [[(one.sort, one.role, one.what) for one in message] for message in wire.got] == [
            [(Sort.REMINDER, "R8", "scheduled job backup failed")]
        ]
    assert [row.state for row in desk.rows()] == ["done", "done"]


def test_a_channel_that_is_down_is_tried_again_ever_later_and_its_fault_is_on_record(desk: Desk) -> None:
    desk.wire.down = True
    desk.attack("cam1")
    desk.passes(WAIT)
    desk.tell()
    [row] = desk.rows()
    assert (row.state, row.attempts, row.error) == ("waiting", 1, "it is away")
    assert desk.tell() == [Delivered()]
    for _ in range(12):
        desk.passes(timedelta(minutes=5))
        assert desk.tell() == [Delivered(delayed=1)]
    desk.wire.down = False
    desk.passes(timedelta(minutes=5))
    assert desk.tell() == [Delivered(sent=1)]
    [row] = desk.rows()
    assert (row.state, row.attempts, row.error) == ("done", 14, "")


def test_what_could_not_be_told_for_a_day_is_given_up(desk: Desk) -> None:
    desk.wire.down = True
    desk.attack("cam1")
    desk.passes(WAIT)
    desk.tell()
    desk.passes(GIVE_UP)
    desk.tell()
    assert [row.state for row in desk.rows()] == ["failed"]
    desk.passes(timedelta(hours=1))
    assert desk.tell() == [Delivered()]


def test_a_fault_of_a_channels_own_is_kept_and_hurts_nobody(desk: Desk) -> None:
    class Broken(Wire):
        def send(self, notices: Sequence[Notice]) -> None:
            raise ZeroDivisionError(PASSWORD, notices)

    desk.attack("cam1")
    desk.passes(WAIT)
    assert desk.tell(desk.wire, Broken(ChannelName.EMAIL)) == [Delivered(sent=1), Delivered(delayed=1)]
    assert [row.error for row in desk.rows() if row.error] == ["email failed by its own fault (ZeroDivisionError): report it"]


def test_two_runners_side_by_side_tell_nothing_twice_and_a_dead_ones_work_is_taken_over(desk: Desk) -> None:
    class Dies(Wire):
        def send(self, notices: Sequence[Notice]) -> None:
            super().send(notices)
            assert desk.tell(desk.wire, runner="two") == [Delivered()]
            raise KeyboardInterrupt

    first = Dies()
    desk.attack("cam1", "cam2")
    desk.passes(WAIT)
    with pytest.raises(KeyboardInterrupt):
        desk.tell(first)
    assert desk.tell(runner="two") == [Delivered()]
    desk.passes(LEASE)
    assert desk.tell(runner="two") == [Delivered(sent=2)]
    assert {one.key for one in desk.wire.got[0]} == {one.key for one in first.got[0]}


def test_a_channel_that_hangs_holds_up_neither_containment_nor_the_others(desk: Desk) -> None:
    reached, go_on = threading.Event(), threading.Event()
    orders: list[Event] = []

    class Hangs(Wire):
        def send(self, notices: Sequence[Notice]) -> None:
            reached.set()
            assert go_on.wait(30)
            super().send(notices)

    class Port:
        def send(self, _topic: Topic, _key: str, event: Event) -> None:
            orders.append(event)

    hangs, other = Hangs(ChannelName.EMAIL), Wire()
    desk.attack("cam1")
    desk.passes(WAIT)
    dispatch(desk.sessions, [hangs.name, other.name], desk.now)
    lane = threading.Thread(target=deliver, args=(desk.sessions, hangs, desk.clock, "one"))
    lane.start()
    assert reached.wait(30)
    desk.attack("cam2")
    while carry_out(desk.sessions, Port(), desk.clock, "one").sent:
        pass
    [asked] = [event for event in orders if isinstance(event, ModelState) and event.mode is Mode.SAFE]
    desk.store.accept(status("w1", 5, asked), desk.now)
    assert {desk.incident(camera).state for camera in ("cam1", "cam2")} == {State.CONTAINED}
    assert deliver(desk.sessions, other, desk.clock, "one").sent == 1
    assert hangs.got == []
    go_on.set()
    lane.join(30)
    assert len(hangs.got) == 1


def test_a_suspicion_and_a_mild_incident_page_nobody(desk: Desk) -> None:
    desk.store.accept(signal(Phase.RAISED, 1, 2, severity=Severity.LOW, kind=playbooks.Kind.DRIFT), desk.now)
    desk.passes(WAIT)
    assert desk.tell() == [Delivered()]


# The channels, against real servers


@pytest.fixture
def web() -> Iterator[Web]:
    with web_server() as served:
        yield served


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("tls"))


def with_webhook(url: str, secret: str = SECRET) -> Settings:
    return Settings(webhook_url=Secret(url), webhook_secret=Secret(secret))


def test_a_webhook_is_signed_so_that_its_receiver_can_check_who_when_and_what(web: Web) -> None:
    hook = webhook_of(with_webhook(f"{web.url}/hooks/T0KEN"))
    assert hook is not None
    hook.send([notice(), notice(key="other")])
    [posted] = web.got
    stamp, id_ = posted.headers["webhook-timestamp"], posted.headers["webhook-id"]
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    wanted_mac = hmac.new(key, f"{id_}.{stamp}.".encode() + posted.body, hashlib.sha256).digest()
    assert posted.headers["webhook-signature"] == "v1," + base64.b64encode(wanted_mac).decode()
    body = json.loads(posted.body)
    assert (posted.path, body["type"]) == ("/hooks/T0KEN", "kerbwatch.page")
    assert [one["key"] for one in body["data"]["notices"]] == ["k" * 32, "other"]
    hook.send([notice(), notice(key="other")])
    assert web.got[1].headers["webhook-id"] == id_


def test_the_published_example_of_the_signature_scheme_holds() -> None:
    from responders.notify.webhook import signature  # noqa: PLC0415 - the one test that needs it

    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signed = signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("code", [500, 404, 429])
def test_any_answer_but_a_good_one_is_no_delivery_and_no_secret_shows(web: Web, code: int) -> None:
    web.answers = [code]
    hook = webhook_of(with_webhook(f"{web.url}/hooks/T0KEN"))
    assert hook is not None
    with pytest.raises(Unavailable, match=str(code)) as caught:
        hook.send([notice()])
    assert "T0KEN" not in str(caught.value) + repr(hook)
    assert SECRET not in str(caught.value) + repr(hook)


def test_a_redirect_is_not_followed(web: Web) -> None:
    with web_server() as thief:
        web.answers, web.elsewhere = [307], thief.url
        hook = webhook_of(with_webhook(web.url))
        assert hook is not None
        with pytest.raises(Unavailable, match="307"):
            hook.send([notice()])
        assert thief.got == []


def test_a_certificate_that_nobody_vouches_for_is_refused(trusted: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    with web_server(trusted) as served:
        hook = webhook_of(with_webhook(served.url))
        assert hook is not None
        with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
            hook.send([notice()])
        assert served.got == []
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted.trusted))
        hook.send([notice()])
        assert len(served.got) == 1


@pytest.mark.parametrize(
    "url",
    ["http://hooks.example.org/x", "ftp://localhost/x", "https://user:T0KEN@hooks.example.org/x", "nonsense", "http://[T0KEN"],
)
def test_an_address_that_would_give_something_away_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(BadInput, match="KERBWATCH_WEBHOOK_URL") as caught:
        webhook_of(with_webhook(url))
    assert "T0KEN" not in str(caught.value)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_c2hvcnQ=", "hunter2", "whsec_&&&&"])
def test_a_weak_or_missing_secret_is_refused(secret: str) -> None:
    with pytest.raises(BadInput, match="KERBWATCH_WEBHOOK_SECRET"):
        webhook_of(with_webhook("https://hooks.example.org", secret))


def test_alertmanager_gets_one_alert_that_fires_and_is_ended_under_the_same_labels(web: Web) -> None:
    manager = alertmanager_of(Settings(alertmanager_url=web.url))
    assert manager is not None
    page = notice()
    paged = [{"role": "R8", "severity": Severity.HIGH}, {"role": "R7", "severity": Severity.CRITICAL}]
    manager.send([page])
    manager.send([notice(sort=Sort.OVER, role="", time=at(90), severity=Severity.CRITICAL, paged=_paged(paged))])
    assert {posted.path for posted in web.got} == {"/api/v2/alerts"}
    [fires] = json.loads(web.got[0].body)
    ends = json.loads(web.got[1].body)
    assert fires["labels"] == ends[0]["labels"]
    assert fires["labels"]["alertname"] == "KerbwatchIncident"
    assert (fires["labels"]["role"], ends[1]["labels"]["role"], ends[1]["labels"]["severity"]) == ("R8", "R7", "critical")
    assert datetime.fromisoformat(fires["endsAt"]) - datetime.fromisoformat(fires["startsAt"]) > timedelta(hours=12)
    assert [datetime.fromisoformat(alert["endsAt"]) for alert in ends] == [at(90), at(90)]
    assert all(
        isinstance(value, str) and value for alert in ends for value in (*alert["labels"].values(), *alert["annotations"].values())
    )


def test_alertmanager_keeps_reminders_apart_and_takes_one_that_comes_late(web: Web) -> None:
    manager = alertmanager_of(Settings(alertmanager_url=web.url))
    assert manager is not None
    manager.send([reminder(job, f"{job} failed", Role.SECMLOPS_ENGINEER, at(3)) for job in ("backup", "golden")])
    backup, golden = json.loads(web.got[0].body)
    assert {alert["labels"]["alertname"] for alert in (backup, golden)} == {"KerbwatchReminder"}
    assert backup["labels"] != golden["labels"]
    assert datetime.fromisoformat(backup["endsAt"]) >= at(3) + GIVE_UP


def _paged(rows: list[dict[str, object]]) -> tuple[object, ...]:
    from responders.notify.notices import Paged  # noqa: PLC0415 - the one test that needs it

    return tuple(Paged(**row) for row in rows)  # type: ignore[arg-type]


def with_mail(post: Post, to: str = "oncall@example.org, R4=security@example.org") -> Settings:
    return Settings(
        smtp_host="localhost",
        smtp_port=post.port,
        smtp_user="kerbwatch",
        smtp_password=Secret(PASSWORD),
        mail_from="kerbwatch@example.org",
        mail_to=to,
    )


def test_a_mail_goes_encrypted_to_those_of_the_role_with_the_next_step(trusted: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted.trusted))
    with mail_server(trusted) as post:
        mail = email_of(with_mail(post))
        assert mail is not None
        mail.send([notice(), notice(key="other", camera_id="cam2", incident_id="b" * 32)])
        mail.send([notice(role="R4")])
        mail.send([trial("email", "tester", at(0))])
    assert post.recipients == [["oncall@example.org"], ["oncall@example.org", "security@example.org"], ["oncall@example.org"]]
    assert post.logins == [f"\0kerbwatch\0{PASSWORD}"] * 3
    assert "Subject: [kerbwatch] 2 incidents, the worst high" in post.mails[0]
    assert "kerbwatch incidents ack 3f2a3f2a" in post.mails[0]
    assert "Subject: [kerbwatch] high evasion on cam1 (urban)" in post.mails[1]
    assert not any("MAIL" in line or "AUTH" in line for line in post.plain_lines)


def test_without_encryption_neither_password_nor_mail_is_given_away(trusted: Authority) -> None:
    with mail_server(None) as post:
        mail = email_of(with_mail(post))
        assert mail is not None
        with pytest.raises(Unavailable, match="STARTTLS"):
            mail.send([notice()])
        assert post.mails == []
        assert not any(line.startswith(("AUTH", "MAIL")) for line in post.plain_lines)
    with mail_server(trusted) as strange:
        mail = email_of(with_mail(strange))
        assert mail is not None
        with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
            mail.send([notice()])
        assert (strange.mails, strange.logins) == ([], [])


def test_a_mail_server_that_refuses_everybody_or_is_away_is_told_in_words(
    trusted: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted.trusted))
    with mail_server(trusted) as post:
        post.refuse = True
        mail = email_of(with_mail(post))
        assert mail is not None
        with pytest.raises(Unavailable, match=r"refused every recipient \(550\)"):
            mail.send([notice()])
    with pytest.raises(Unavailable, match="cannot be used") as caught:
        mail.send([notice()])
    assert PASSWORD not in str(caught.value) + repr(mail)


def test_a_call_that_nobody_is_named_for_is_mailed_to_all_rather_than_to_nobody() -> None:
    mail = email_of(with_mail(Post(port=25), "R4=security@example.org, R6=vendor@example.org"))
    assert mail is not None
    assert mail.written_to("R4") == ("security@example.org",)
    assert mail.written_to("R8") == mail.written_to("") == ("security@example.org", "vendor@example.org")


@pytest.mark.parametrize("to", ["", "nobody", "R9=a@example.org", "R4=", "a@example.org,oops"])
def test_recipients_that_do_not_hold_are_refused(to: str) -> None:
    with pytest.raises(BadInput, match="KERBWATCH_MAIL_TO"):
        email_of(with_mail(Post(port=25), to))


def test_every_channel_can_be_set_up_and_one_that_is_not_says_what_it_needs() -> None:
    assert channel_of(Settings(), ChannelName.CONSOLE) is not None
    for name in (ChannelName.WEBHOOK, ChannelName.EMAIL, ChannelName.ALERTMANAGER):
        assert channel_of(Settings(), name) is None
        with pytest.raises(BadInput, match="KERBWATCH_"):
            wanted(Settings(), name)


# The commands


@pytest.fixture
def command(database: Settings, web: Web, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.setenv("KERBWATCH_HOME", str(database.home))
    if database.database_url is not None:
        monkeypatch.setenv("KERBWATCH_DATABASE_URL", database.database_url.reveal())
    monkeypatch.setenv("KERBWATCH_WEBHOOK_URL", web.url)
    monkeypatch.setenv("KERBWATCH_WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: str) -> str:
        result = CliRunner().invoke(app, list(words))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.output

    return run


def test_a_test_message_is_sent_and_listed(web: Web, command: Callable[..., str]) -> None:
    assert "took the test" in command("test", "webhook")
    assert json.loads(web.got[0].body)["type"] == "kerbwatch.test"
    web.answers = [503]
    with pytest.raises(Unavailable, match="503"):
        command("test", "webhook")
    rows = json.loads(command("list", "--json"))
    assert [(row["channel"], row["sort"], row["state"]) for row in rows] == [
        ("webhook", "test", "failed"),
        ("webhook", "test", "done"),
    ]
    assert "503" in command("list")
    with pytest.raises(BadInput, match="KERBWATCH_SMTP_HOST"):
        command("test", "email")


def test_an_incidents_deliveries_are_listed(desk: Desk, command: Callable[..., str]) -> None:
    desk.attack("cam1")
    desk.passes(WAIT)
    desk.tell()
    listed = json.loads(command("list", "--incident", desk.incident().id[:8], "--json"))
    assert [(row["incident_id"], row["role"], row["state"]) for row in listed] == [(desk.incident().id, "R8", "done")]
    with reading(desk.sessions) as session:
        assert session.scalar(select(EffectRow.id).limit(1)) is not None


def test_channels_are_listed_with_what_they_lack(command: Callable[..., str]) -> None:
    rows = {row["channel"]: row for row in json.loads(command("channels", "--json"))}
    assert {name for name, row in rows.items() if row["usable"]} == {"console", "webhook"}
    assert "KERBWATCH_SMTP_HOST" in rows["email"]["why"]
    assert not any(row["faulty"] for row in rows.values())


def test_a_channel_whose_settings_do_not_hold_is_an_error(command: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "FAULTY" not in command("channels")
    monkeypatch.setenv("KERBWATCH_WEBHOOK_SECRET", "abc")
    assert "FAULTY" in command("channels")
    for more in ([], ["--json"]):
        assert CliRunner().invoke(app, ["channels", *more]).exit_code == 1


def test_an_incident_shows_of_each_call_whether_anybody_got_it(desk: Desk, command: Callable[..., str]) -> None:
    def called() -> dict[tuple[str, ...], str]:
        lines = CliRunner().invoke(incidents, ["show", desk.incident().id]).stdout.splitlines()
        rows = [line for line in lines if line.startswith("R8 ")]
        return {tuple(row.split()[:2]): row for row in rows}

    assert command("channels")
    desk.attack("cam1")
    assert "waits for the responder" in called()["R8", "waits"]
    slow = Wire(ChannelName.EMAIL, down=True)
    desk.passes(WAIT)
    desk.tell(desk.wire, slow)
    assert re.search(r"webhook +yes +1 ", called()["R8", "webhook"])
    assert re.search(r"email +waits +1 .*it is away", called()["R8", "email"])
    desk.passes(timedelta(hours=25))
    desk.tell(desk.wire, slow)
    assert re.search(r"email +failed +2 .*it is away", called()["R8", "email"])
