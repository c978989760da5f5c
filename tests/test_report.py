"""A report says what happened, since when, what was done and whether it is over, and shows nothing to whom it must not."""

import json
import re
import tomllib
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import msgspec
import pytest
from a_run import judged
from incident_events import NORMAL, SAFE, act, at, signal, status
from typer.testing import CliRunner

from inference.lifecycle import vetting_alarm
from inference.service.refusals import STRANGER
from infra.db import Sessions, migrate, open_database, reading, writing
from infra.settings import Settings
from infra.tables import EffectRow
from responders.engine.incident import Verb
from responders.engine.store import Store
from responders.playbooks import playbooks
from responders.proof import material
from responders.proof.keeping import record_judged
from responders.proof.material import Logged, Material
from responders.regular import checks
from responders.report import html, markdown, plots
from responders.report.content import Content, Snapshot, compose
from responders.report.deadlines import deadlines
from streams import codec
from streams.command_line import app
from streams.console.evidence import collect
from streams.console.report import _effects, _snapshots
from streams.errors import BadInput, KerbwatchError, Unavailable
from streams.events import Box, Cause, Context, Detections, Diagnosis, Evidence, Kind, ModelState, Phase, Severity
from streams.ledger import Truth
from streams.topics import DETECTIONS, MODEL_STATE, SIGNALS

EVIL = "<script>alert(1)</script> | [x](javascript:1) `"
PICTURE = b"\x89PNG\r\n\x1a\n of people"
PERSON = Truth((100.0, 50.0, 40.0, 100.0), (100.0, 50.0, 40.0, 100.0), ignore=False)
RAISED = msgspec.structs.replace(
    signal(Phase.RAISED, 10, 14),
    message=f"squeezed answer moves {EVIL}",
    evidence=(Evidence("inconsistency", 0.31),),
    diagnosis=Diagnosis(cause=Cause.ATTACK, confidence=0.87, evidence=(f"boxes vanish {EVIL}", "edges stay")),
)


def frame(sequence: int) -> Detections:
    """A street with one person; nobody is found in frames 10 to 14."""
    attacked = 10 <= sequence <= 14
    safe = 12 < sequence <= 40
    return msgspec.structs.replace(
        judged(people=0 if attacked else 1),
        id=f"d{sequence}",
        camera_id="cam1",
        epoch=1,
        sequence=sequence,
        frame_id=f"f{sequence}",
        frame_offset=sequence,
        camera_time=at(sequence / 5),
        boxes=() if attacked else (Box(*PERSON.box_px, 0.9),),
        weights_digest=SAFE if safe else NORMAL,
        mode="safe" if safe else "normal",
        scores=msgspec.structs.replace(judged().scores, inconsistency=0.3 if attacked else 0.05),
    )


@pytest.fixture
def site(tmp_path: Path) -> Settings:
    settings = Settings(home=tmp_path)
    migrate(settings)
    return settings


@pytest.fixture
def sessions(site: Settings) -> Sessions:
    return open_database(site)


def tell(site: Settings, sessions: Sessions, *, whole: bool) -> Material:
    """An incident's first seconds, or all of it."""
    store = Store(sessions, playbooks.load(), worker_lost_s=60, clock_allowance_s=60)
    store.assign(Context.URBAN, NORMAL, SAFE, at(0))
    with writing(sessions) as session:
        record_judged(session, [frame(number) for number in range(60)])
    [id_] = store.accept(RAISED, at(3)).incident_ids
    if whole:
        store.accept(act(Verb.ACKNOWLEDGE, id_, 4, actor=EVIL), at(4))
        store.accept(status("w1", 4, asked(sessions)), at(4))
        store.accept(signal(Phase.CALM, 15, 40), at(9))
        store.accept(status("w1", 10, asked(sessions)), at(10))
    with reading(sessions) as session:
        found = material.gather(session, site, id_)
    events = [Logged(topic=SIGNALS.name, partition=0, offset=0, value=codec.encode(RAISED).decode())]
    events += [Logged(topic=DETECTIONS.name, partition=0, offset=n, value=codec.encode(frame(n)).decode()) for n in range(60)]
    return material.with_events(found, events, {}, ["nothing"])


def asked(sessions: Sessions) -> ModelState:
    with reading(sessions) as session:
        rows = session.query(EffectRow).filter_by(topic=MODEL_STATE.name).order_by(EffectRow.number).all()
    return codec.decode(rows[-1].payload, MODEL_STATE, ModelState).event


def content(found: Material, **more: Any) -> Content:
    return compose(found, deadlines(None), at(3600), **more)


def test_the_first_screen_answers_four_questions(site: Settings, sessions: Sessions) -> None:
    said = content(tell(site, sessions, whole=True))
    answers = dict(said.answers)
    assert said.status == "over: recovered"
    assert "people are missed" in answers["What happened?"]
    assert "2026-11-21 12:00:02 UTC; detected at 2026-11-21 12:00:02 UTC, 0.8 s later" in answers["Since when?"]
    assert "Safe model confirmed by every worker after 2.0 s" in answers["What was done?"]
    assert answers["Is it over?"].startswith("Yes")
    assert [clock.after_s for clock in said.clocks] == [0.0, pytest.approx(0.8), 2.0, 2.0, 8.0, 8.0]
    text = html.page(said)
    assert text.index("Is it over?") < text.index("<svg")


def test_an_incident_that_is_not_contained_is_said_to_be_so(site: Settings, sessions: Sessions) -> None:
    said = content(tell(site, sessions, whole=False))
    assert said.status == "NOT CONTAINED: containing"
    assert dict(said.answers)["Is it over?"] == "No: it stands at step await_safe_mode."
    assert 'class="pill "' in html.page(said)


class Page(HTMLParser):
    """What a browser would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loads += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "action"} or name.startswith("on")]


def test_the_page_loads_nothing_and_runs_nothing_of_others(site: Settings, sessions: Sessions) -> None:
    shot = Snapshot(f"during {EVIL}", EVIL, (320, 180), (Box(1, 2, 3, 4, 0.5),), PICTURE)
    text = html.page(content(tell(site, sessions, whole=True), snapshots=[shot]))
    page = Page()
    page.feed(text)
    assert not page.tags & {"script", "link", "iframe", "object", "form"}
    assert [one[:21] for one in page.loads] == ["data:image/png;base64"]
    assert "@import" not in text
    assert not re.search(r"url\(", text)
    assert "default-src 'none'" in text
    assert "<code>kerbwatch quarantine list</code>" in text


def test_markdown_keeps_others_words_plain_and_names_its_drawings(site: Settings, sessions: Sessions) -> None:
    found = tell(site, sessions, whole=True)
    text, drawings = markdown.document(content(found, snapshots=_snapshots(sessions, site, found, with_pictures=False)))
    assert set(re.findall(r"\]\((\S+\.svg)\)", text)) == set(drawings) == {
        "onset.svg", "before.svg", "during.svg", "after-containment.svg"
    }  # fmt: skip
    assert "<script>" not in text
    assert "](javascript" not in text.replace("\\]\\(", "")
    for drawing in drawings.values():
        ET.fromstring(drawing)  # noqa: S314 - our own drawing


def test_frames_before_during_and_after_show_boxes_and_no_picture(site: Settings, sessions: Sessions) -> None:
    found = tell(site, sessions, whole=True)
    shots = _snapshots(sessions, site, found, with_pictures=False)
    assert [(shot.label, len(shot.boxes), shot.picture) for shot in shots] == [
        ("before", 1, None),
        ("during", 0, None),
        ("after containment", 0, None),
    ]
    assert "<image" not in plots.frame(shots[0])


def test_nobody_gets_pictures_without_the_right_to_open_the_quarantine(
    site: Settings, sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = tell(site, sessions, whole=True).incident.id
    monkeypatch.setenv("KERBWATCH_HOME", str(site.home))
    words = ["incidents", "report", id_[:8], "--out", str(tmp_path / "out")]
    refused = CliRunner().invoke(app, [*words, "--pictures", "--actor", "stranger"])
    assert isinstance(refused.exception, KerbwatchError)
    assert not (tmp_path / "out").exists()
    with reading(sessions) as session:
        assert any(b"people.refuse" in row.payload for row in session.query(EffectRow).filter_by(topic="audit"))
    told = CliRunner().invoke(app, [*words, "--json"])
    assert json.loads(told.stdout)["files"] == ["onset.svg", "report.html", "report.md"]
    assert "all events by offset" in (tmp_path / "out" / "report.md").read_text()


def test_the_effect_counts_people_whom_the_camera_knows_of(site: Settings, sessions: Sessions) -> None:
    found = tell(site, sessions, whole=True)
    truth = {f"f{number}": (PERSON,) for number in range(60)}
    rows = {one.period: one for one in _effects(found, truth)}
    assert (rows["normal model, before"].people, rows["normal model, before"].missed) == (10, 0.0)
    assert rows["normal model, suspicious frames"].missed == 1.0
    assert rows["safe model"].missed == pytest.approx(2 / 28)
    assert all(row.false_per_frame == 0 for row in rows.values())
    assert _effects(found, {}) == []


def test_causes_weights_and_gaps_are_told(site: Settings, sessions: Sessions) -> None:
    said = content(tell(site, sessions, whole=True))
    assert (said.causes[0].detector, said.causes[0].numbers) == ("squeeze", (("inconsistency", 0.31),))
    assert "Most likely: <b>attack</b> (87% sure). boxes vanish" in html.page(said)
    assert "Most likely: attack \\(87% sure\\)" in markdown.document(said)[0]
    assert sum(one.suspicious for one in said.served) == sum(point.suspicious for point in said.points) == 31
    assert "nothing" in said.missing
    assert "60 looked at, 31 suspicious" in dict(said.provenance)["frames"]


def test_deadlines_count_from_awareness_and_know_severity_and_kind(site: Settings, sessions: Sessions, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(
        '[[deadline]]\nname = "board"\nhours = 0.5\nreview = "none"\n'
        '[[deadline]]\nname = "other kind"\nhours = 1\nreview = "none"\nkinds = ["drift"]\n'
        '[[deadline]]\nname = "worse ones"\nhours = 1\nreview = "none"\nseverity = "critical"\n'
    )
    found = tell(site, sessions, whole=True)
    found = replace(found, incident=msgspec.structs.replace(found.incident, severity=Severity.HIGH))
    said = compose(found, deadlines(own), at(3600))
    assert [(due.deadline.name, due.at, due.left) for due in said.dues] == [("board", at(1804), at(1804) - at(3600))]
    assert "passed 29 min 56 s ago" in html.page(said)
    assert "acknowledged by" in said.aware
    assert {72.0, 24.0, 360.0} == {one.hours for one in deadlines(None)}


def test_deadlines_that_do_not_hold_are_told_by_file(tmp_path: Path) -> None:
    (tmp_path / "d.toml").write_text('[[deadline]]\nname = "x"\nhours = -1\nreview = "y"\n')
    with pytest.raises(BadInput, match=r"d\.toml does not hold.*hours"):
        deadlines(tmp_path / "d.toml")
    with pytest.raises(Unavailable, match="KERBWATCH_DEADLINES"):
        deadlines(tmp_path / "none.toml")


def test_every_kind_has_words_and_follow_ups(site: Settings, sessions: Sessions) -> None:
    found = tell(site, sessions, whole=False)
    for kind in Kind:
        shown = msgspec.structs.replace(found.shown, incident=msgspec.structs.replace(found.shown.incident, kind=kind))
        said = compose(replace(found, shown=shown), (), at(9))
        assert len(said.follow_ups) > 1, kind
        assert len(dict(said.answers)["What happened?"]) > 40


def test_a_report_about_no_camera_names_none_and_has_no_clock_that_never_runs(site: Settings, sessions: Sessions) -> None:
    store = Store(sessions, playbooks.load(), worker_lost_s=60, clock_allowance_s=60)
    for context in Context:
        store.assign(context, NORMAL, SAFE, at(0))
    found = checks.found("checkpoint", "audit entry 7 is missing", at(5))
    assert found is not None
    [id_] = store.accept(found, at(5)).incident_ids
    with reading(sessions) as session:
        said = content(material.with_events(material.gather(session, site, id_), (), {}, []))
    answers = dict(said.answers)
    assert said.title == "Something was changed: the audit log"
    assert said.status == "still open: at step repair"
    assert answers["Since when?"] == "Detected at 2026-11-21 12:00:05 UTC."
    assert [clock.name for clock in said.clocks] == ["detected", "acknowledged", "closed"]
    assert [name for name, _ in said.provenance] == ["source", "events", "playbook"]
    for text in (html.page(said), markdown.document(said)[0]):
        assert "camera" not in text.replace("For legal review", "")
        assert "Which weights judged what" not in text


def test_what_is_about_no_camera_has_a_name_in_words() -> None:
    sources = tomllib.loads(files("responders.report").joinpath("kinds.toml").read_text(encoding="utf-8"))["sources"]
    assert set(sources) == {*checks.DETECTORS.values(), vetting_alarm.DATA, STRANGER}


@dataclass(frozen=True)
class Lies:
    """A record of Kafka's log."""

    value: bytes
    partition: int
    offset: int


def test_what_turned_out_to_be_another_kind_keeps_the_signals_it_was_raised_by(
    site: Settings, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(sessions, playbooks.load(), worker_lost_s=60, clock_allowance_s=60)
    store.assign(Context.URBAN, NORMAL, SAFE, at(0))
    [id_] = store.accept(RAISED, at(3)).incident_ids
    store.accept(replace(act(Verb.RECLASSIFY, id_, 4, kind=Kind.CAMERA), plan=None), at(4))
    other = signal(Phase.RAISED, 10, 14, kind=Kind.TRAFFIC)
    lies = [Lies(value=codec.encode(one), partition=0, offset=n) for n, one in enumerate((RAISED, other))]
    monkeypatch.setattr("streams.console.evidence._records", lambda _s, topic, _m: lies if topic is SIGNALS else [])
    said = content(collect(sessions, site, id_))
    assert [cause.detector for cause in said.causes] == ["squeeze"]
    assert said.diagnosis == RAISED.diagnosis
