"""What vetting holds back reaches people: an incident where it is more than usual, one list, two people who decide."""

import json
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
import pytest
from a_person import Command, newcomer, quarantine_command
from hypothesis import given
from hypothesis import strategies as st
from incident_events import NORMAL, SAFE, act, answering, at, signal
from PIL import Image
from scipy.stats import betabinom  # type: ignore[import-untyped]
from sqlalchemy import select

from inference.lifecycle import vetting_alarm
from inference.lifecycle.collect import Tell, Vetting
from inference.lifecycle.findings import Finding, Stage
from inference.lifecycle.held import Standing, held, hold, id_of, open_held, reviewed, settle_held
from inference.provenance.manifest import record
from inference.training.samples import Sample, shaped
from infra.checkpoints import evidence_key
from infra.db import Sessions, migrate, open_database, reading, writing
from infra.keys import model_key
from infra.settings import Settings
from infra.tables import EffectRow, IncidentRow, TimelineRow
from responders.engine.incident import Verb
from responders.engine.past import incident_of
from responders.engine.store import Store
from responders.people.roles import Role
from responders.playbooks import playbooks
from responders.playbooks.playbooks import State
from responders.proof.evidence import seal, verify
from responders.proof.samples import SampleFact
from responders.report import html, markdown
from responders.report.content import compose
from responders.rollouts.store import Rollouts
from streams import codec
from streams.command_line import app
from streams.console import retraining
from streams.console.evidence import collect, seal_incident
from streams.console.poisoned import bring
from streams.drill import poison, scenario, staging
from streams.drill.scenario import Do
from streams.errors import BadInput, Tampered, Unavailable
from streams.events import AuditEntry, Cause, Context, Kind, Phase, QuarantineOrder
from streams.topics import AUDIT, QUARANTINE

pytest_plugins = ["databases"]

RUN = "ab" * 16
OFFERED = 32


def samples(count: int) -> list[Sample]:
    """Small grey pictures, each with one label."""
    some = [np.full((48, 64, 3), 10 * number % 256, np.uint8) for number in range(count)]
    return [Sample("drawn", f"s{number}", picture, (shaped((20.0, 10.0, 12.0, 30.0)),)) for number, picture in enumerate(some)]


def findings(some: Sequence[Sample]) -> tuple[Finding, ...]:
    """Each has a flipped label; the last ones are the worst, and every third has a second finding."""
    made = []
    for number, one in enumerate(some):
        score = 0.5 + number / 100
        reason = f"label where the verified model sees nobody: {number}"
        made.append(Finding(pool=one.origin, name=one.name, stage=Stage.AGREEMENT, reason=reason, score=score, label=0))
        if number % 3 == 0:
            second = Finding(pool=one.origin, name=one.name, stage=Stage.STATISTICS, reason="dark", score=0.4)
            made.append(second)
    return tuple(made)


def vetting(refused: int, offered: int = OFFERED) -> Vetting:
    some = samples(refused)
    return Vetting(offered, some, findings(some))


def test_what_clean_data_loses_is_no_alarm_and_what_a_poisoned_batch_loses_is() -> None:
    usual, poisoned = vetting(vetting_alarm.USUAL_HELD), vetting(40)
    assert vetting_alarm.found(RUN, Context.URBAN, vetting_alarm.USUAL_OF, usual.findings, at(0)) is None
    told = vetting_alarm.found(RUN, Context.URBAN, vetting_alarm.USUAL_OF, poisoned.findings, at(0))
    assert told is not None
    assert (told.kind, told.phase, told.context, told.camera_id) == (Kind.POISONING, Phase.RAISED, Context.URBAN, "training-data")
    assert "held back 40 of 70 pictures, 9 are usual" in told.message
    assert "agreement 40, statistics 14" in told.message
    assert told.diagnosis is not None
    assert told.diagnosis.cause is Cause.POISON
    assert [text.split(":")[0] for text in told.diagnosis.evidence] == ["drawn/s39", "drawn/s38", "drawn/s37"]
    counts = {one.name: one.value for one in told.evidence}
    assert (counts["held_back"], counts["offered"], counts["agreement"], counts["statistics"]) == (40, 70, 40, 14)
    later = vetting_alarm.found(RUN, Context.URBAN, vetting_alarm.USUAL_OF, poisoned.findings, at(600))
    assert later is not None
    assert later.id == told.id, "a run that goes on after a kill says the same"


@given(offered=st.integers(1, 2000))
def test_a_clean_run_in_a_thousand_is_an_alarm_at_most_and_more_pictures_never_need_fewer_finds(offered: int) -> None:
    limit = vetting_alarm.unusual_from(offered)
    law = betabinom(offered, 9.5, 61.5)
    assert law.sf(limit - 1) <= vetting_alarm.CHANCE < law.sf(limit - 2)
    assert limit <= vetting_alarm.unusual_from(offered + 1) <= limit + 1


def test_nothing_offered_and_nothing_found_is_no_alarm() -> None:
    assert vetting_alarm.found(RUN, Context.URBAN, 0, (), at(0)) is None
    assert vetting_alarm.found(RUN, Context.URBAN, 500, (), at(0)) is None


class Site:
    """A deployment's incident store and the people who review."""

    def __init__(self, settings: Settings, sessions: Sessions) -> None:
        self.settings, self.sessions = settings, sessions
        self.store = Store(sessions, playbooks.load(), worker_lost_s=6, clock_allowance_s=5)
        for context in Context:
            self.store.assign(context, NORMAL, SAFE, at(0))
        with writing(sessions) as session:
            self.phones = {
                name: newcomer(session, settings, name, roles, at(0))
                for name, roles in (
                    ("data-1", [Role.DATA_ENGINEER]),
                    ("security-1", [Role.SECMLOPS_ENGINEER]),
                    ("science-1", [Role.DATA_SCIENTIST]),
                )
            }

    def bring(self, vetted: Vetting, run: str = RUN, seconds: float = 1) -> str:
        return bring(self.settings, self.store, run, Context.URBAN, vetted, now=at(seconds))

    def incidents(self) -> list[IncidentRow]:
        with reading(self.sessions) as session:
            return list(session.scalars(select(IncidentRow).order_by(IncidentRow.opened_at)))

    def timeline(self, action: str) -> list[str]:
        with reading(self.sessions) as session:
            return list(session.scalars(select(TimelineRow.what).where(TimelineRow.action == action)))

    def close(self, incident: str) -> None:
        self.store.accept(act(Verb.CLOSE, incident, 60), at(60))
        assert self.incidents()[0].state == State.CLOSED


@pytest.fixture
def site(database: Settings, sessions: Sessions) -> Site:
    return Site(database, sessions)


@pytest.fixture
def command(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    return quarantine_command(app, site.settings, site.phones, monkeypatch, tmp_path)


def test_a_poisoned_batch_opens_one_incident_with_its_playbook_however_often_the_run_is_killed(site: Site) -> None:
    incident = site.bring(vetting(20))
    assert incident
    assert site.bring(vetting(20), seconds=30) == incident
    [row] = site.incidents()
    assert (row.id, row.kind, row.context, row.severity) == (incident, Kind.POISONING, Context.URBAN, "high")
    assert row.state == State.CONTAINED, "what was held back is out of training: people review next"
    [opened] = site.timeline("open")
    assert "held back 20 of 32 pictures" in opened
    [diagnosed] = site.timeline("diagnose")
    assert "drawn/s19" in diagnosed
    assert {one.incident for one in held(site.settings)} == {incident}
    assert len(held(site.settings)) == 20
    with reading(site.sessions) as session:
        orders = [codec.decode(body, QUARANTINE, QuarantineOrder) for body in _sent(session, QUARANTINE.name)]
    assert orders == [], "there are no frames of that name to be set aside"


def _sent(session: object, topic: str) -> list[bytes]:
    return list(session.scalars(select(EffectRow.payload).where(EffectRow.topic == topic)))  # type: ignore[attr-defined]


def test_the_playbook_asks_two_people_and_ends_without_a_change_of_model(site: Site) -> None:
    incident = site.bring(vetting(20))
    review = [("data-1", Role.DATA_ENGINEER), ("security-1", Role.SECMLOPS_ENGINEER)]
    trace = [("science-1", Role.DATA_SCIENTIST), ("security-1", Role.SECMLOPS_ENGINEER)]
    for number, (actor, role) in enumerate([*review, *trace]):
        [row] = site.incidents()
        said = act(Verb.APPROVE, incident, 10 + number, actor=actor, roles=(role,))
        site.store.accept(answering(said, incident_of(row)), at(10 + number))
    assert site.incidents()[0].state == State.CLOSED
    assert site.timeline("serve") == []


def test_a_few_false_finds_are_listed_for_review_and_page_nobody(site: Site, command: Command) -> None:
    assert site.bring(vetting(4)) == ""
    assert site.incidents() == []
    listed = json.loads(command("list", "--json").stdout)
    assert (listed["total"], listed["samples_total"]) == (0, 4)
    assert {one["incident"] for one in listed["samples"]} == {""}


def test_a_sample_known_from_before_comes_under_the_incident_that_needs_it(site: Site) -> None:
    few = vetting(4)
    site.bring(few)
    incident = site.bring(vetting(20), run="cd" * 16)
    assert {one.incident for one in held(site.settings)} == {incident}


def test_one_list_shows_both_and_a_sample_is_drawn_with_its_findings(site: Site, command: Command, tmp_path: Path) -> None:
    incident = site.bring(vetting(20))
    told = command("list", "--incident", incident[:8]).stdout
    assert "0 frames in quarantine" in told
    assert "20 training samples held back by vetting" in told
    assert "agreement 0.69: label where the verified model sees nobody: 19" in told
    worst = next(one for one in held(site.settings) if one.name == "s19")
    shown = json.loads(command("show", worst.id[:12], "--json", actor="data-1").stdout)
    assert (shown["sample"], shown["people"], shown["findings"][0]["label"]) == (worst.id, 1, 0)
    sheet = np.asarray(Image.open(tmp_path / shown["picture"]))
    reddish = (sheet[..., 0] > 240) & (sheet[..., 1] < 90)
    half = sheet.shape[1] // 2
    assert reddish[:, half:].any(), "the doubted label is drawn on the right"
    assert not reddish[:, :half].any(), "and on the left is what nothing speaks against"
    assert "held back because" in command("show", worst.id[:12], actor="data-1").stdout


def test_two_people_release_and_the_samples_are_trained_on_whatever_vetting_says_again(site: Site, command: Command) -> None:
    vetted = vetting(20)
    incident = site.bring(vetted)
    with pytest.raises(BadInput, match="close it first"):
        command("release", incident, "-m", "labels are right", actor="data-1", coded=False)
    site.close(incident)
    assert len(reviewed(site.settings, vetted.refused, ())) == len(vetted.findings), "what waits stays out"
    told = json.loads(command("release", incident, "-m", "labels are right", "--json", actor="data-1").stdout)
    assert told == {"samples": 20, "done": False, "by": ["data-1"], "missing": ["R8"]}
    assert len(reviewed(site.settings, vetted.refused, vetted.findings)) == len(vetted.findings)
    assert "20 samples released" in command("release", incident, "-m", "seen too", actor="security-1").stdout
    assert reviewed(site.settings, vetted.refused, vetted.findings) == ()
    assert {one.reviewed_by for one in held(site.settings)} == {"data-1, security-1"}
    assert json.loads(command("list", "--json").stdout)["samples_total"] == 0
    assert json.loads(command("list", "--all", "--json").stdout)["samples_total"] == 20
    other = replace(vetted.refused[0], people=(shaped((30.0, 10.0, 12.0, 30.0)),))
    assert len(reviewed(site.settings, [other], findings([other]))) == 2, "other labels on the same picture are another sample"
    with reading(site.sessions) as session:
        last = [codec.decode(body, AUDIT, AuditEntry).event for body in _sent(session, AUDIT.name)][-1]
    assert (last.action, last.actor) == ("quarantine.release", "data-1, security-1")
    assert last.why.startswith("20 training samples released (")


def test_one_discarded_sample_is_gone_and_stays_out(site: Site, command: Command) -> None:
    vetted = vetting(2)
    site.bring(vetted)
    first, second = (id_of(one) for one in vetted.refused)
    command("discard", "--sample", first[:16], "-m", "a face, no consent", actor="data-1")
    assert "1 samples destroyed" in command("discard", "--sample", first[:16], "-m", "agreed", actor="security-1").stdout
    assert {one.id: one.standing for one in held(site.settings)} == {first: Standing.DISCARDED, second: Standing.SEALED}
    with pytest.raises(Unavailable, match="discarded by data-1, security-1"):
        open_held(site.settings, first)
    assert len((site.settings.home / "held" / f"{first}.sealed").read_bytes()) < 2000
    assert {one.name for one in reviewed(site.settings, vetted.refused, ())} == {"s0", "s1"}
    assert hold(site.settings, vetted.refused, vetted.findings, at(90)) == 0
    with pytest.raises(BadInput, match="was discarded by"):
        command("release", "--sample", first[:16], "-m", "back", actor="data-1", coded=False)
    with pytest.raises(BadInput, match="is held back; see"):
        command("release", "--sample", "zzzz", "-m", "back", actor="data-1", coded=False)
    with pytest.raises(BadInput, match=f"is held back; did you mean {second[:12]}"):
        command("release", "--sample", f"{second[:6]}x{second[7:12]}", "-m", "back", actor="data-1", coded=False)
    with pytest.raises(BadInput, match="name an incident, or one sample"):
        command("release", "-m", "back", actor="data-1", coded=False)


def test_evidence_and_report_of_a_poisoned_batch_name_every_sample_also_one_whose_picture_is_gone(site: Site) -> None:
    settings, some = msgspec.structs.replace(site.settings, kafka_port=1), samples(60)
    vetted = Vetting(70, some, tuple(msgspec.structs.replace(one, score=min(1.0, one.score)) for one in findings(some)))
    incident = site.bring(vetted)
    first = vetted.refused[59]
    settle_held(settings, [id_of(first)], Standing.DISCARDED, "data-1, security-1", at(5))
    key = evidence_key(settings)
    bundle = verify(seal_incident(site.sessions, settings, incident, at(9)), key.public_key())
    told = [msgspec.json.decode(line, type=SampleFact) for line in bundle.members["samples.jsonl"].splitlines()]
    assert {one.id for one in told} == {id_of(one) for one in vetted.refused}
    worst = next(one for one in told if one.id == id_of(first))
    assert (worst.pool, worst.name, worst.standing) == ("drawn", "s59", "discarded")
    assert worst.picture_sha256 == record(first).picture_digest
    assert worst.sealed_sha256 == sha256((settings.home / "held" / f"{worst.id}.sealed").read_bytes()).hexdigest()
    assert [(one.stage, one.score, one.label) for one in worst.findings] == [("agreement", 1.0, 0)]
    before = {name: body for name, body in bundle.members.items() if name != "samples.jsonl"}
    assert verify(seal(before, bundle.about, key), key.public_key()).members == before, "a bundle of before holds as it did"
    said = compose(collect(site.sessions, settings, incident), (), at(9))
    assert said.title == "Poisoned training data: training data"
    assert "60 training samples held back" in dict(said.answers)["What was done?"]
    for text in (html.page(said), markdown.document(said)[0].replace("\\", "")):
        assert f"{worst.id[:12]}" in text
        assert "agreement 1.00: label where the verified model sees nobody: 59" in text
        assert "discarded by data-1, security-1" in text
        assert "10 more are in the evidence" in text


def test_a_held_sample_that_was_touched_is_said_to_be_missing_and_the_others_are_told(site: Site) -> None:
    vetted = vetting(20)
    incident = site.bring(vetted)
    path = site.settings.home / "held" / f"{id_of(vetted.refused[0])}.sealed"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    found = collect(site.sessions, msgspec.structs.replace(site.settings, kafka_port=1), incident)
    assert len(found.samples) == 19
    assert [path.name[:12] in text for text in found.missing if "held samples" in text] == [True]


def test_a_review_that_was_forged_in_the_file_is_noticed(site: Site) -> None:
    vetted = vetting(1)
    site.bring(vetted)
    path = site.settings.home / "held" / f"{id_of(vetted.refused[0])}.sealed"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(Tampered):
        reviewed(site.settings, vetted.refused, vetted.findings)


def test_a_retraining_run_tells_before_it_trains_and_goes_on_with_the_rest(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run as it is, but for what costs minutes: vetting and training stand in, and the gate says no."""
    [reason] = site.store.accept(signal(Phase.RAISED, 10, 14), at(3)).incident_ids
    rollouts = Rollouts(site.store)
    asked = rollouts.request(reason, "science-1", short=True, now=at(10))
    folder = site.settings.home / "training" / asked.id
    folder.mkdir(parents=True)
    (folder / "live.json").write_bytes(b"[]")
    kinds_when_training: list[list[str]] = []

    def candidate(*_: object, tell: Tell, **__: object) -> str:
        tell(vetting(20))
        kinds_when_training.append([row.kind for row in site.incidents()])
        return "c" * 64

    monkeypatch.setattr(retraining, "candidate", candidate)
    monkeypatch.setattr(retraining, "gated", lambda *_: (False, "fgsm 0.03: 0.1"))
    after = retraining._run(site.settings, site.sessions, retraining._Reporter(rollouts, asked.id, lambda *_: None), asked)
    assert kinds_when_training == [[Kind.EVASION, Kind.POISONING]]
    poisoning = site.incidents()[1]
    assert after.why == "the gate refuses it: fgsm 0.03: 0.1", "the run went on to its gate"
    assert f"more than usual: incident {poisoning.id[:8]}" in capsys.readouterr().err
    assert {one.incident for one in held(site.settings)} == {poisoning.id}
    assert asked.id[:8] in site.timeline("open")[-1]


def test_the_drills_batch_goes_the_way_of_a_runs_and_a_person_closes_what_it_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Smaller than in the drill, by the shipped models: the scenario's steps must find what they expect."""
    settings = Settings(home=tmp_path)
    migrate(settings)
    model_key(settings)
    sessions = open_database(settings)
    store = Store(sessions, playbooks.load(), worker_lost_s=6, clock_allowance_s=5)
    store.assign(Context.URBAN, NORMAL, SAFE, at(0))
    monkeypatch.setattr(poison, "_OFFERED", range(780, 782))
    monkeypatch.setattr(poison, "_GOLDEN", range(760, 762))
    assert poison.batch_refused(settings, store, at(1))
    with reading(sessions) as session:
        [row] = session.scalars(select(IncidentRow))
    expect = scenario.load()["poison"]
    assert [row.kind] == list(expect.expect.incidents)
    assert [step.camera for step in expect.method if step.do is Do.CLOSE] == [row.camera_id]
    told: list[list[str]] = []
    monkeypatch.setattr(staging, "command", lambda words, _: told.append(words))
    staging.Stage(settings, sessions, {}, {}, lambda _: None).do(expect.method[1], expect)
    assert told[0][:3] == ["incidents", "close", row.id]
    sessions.kw["bind"].dispose()


def test_frames_of_an_incident_that_people_call_poisoning_are_set_aside_as_before(site: Site) -> None:
    [id_] = site.store.accept(signal(Phase.RAISED, 10, 14, kind=Kind.DRIFT, detector="drift-cusum"), at(3)).incident_ids
    site.store.accept(act(Verb.RECLASSIFY, id_, 9, kind=Kind.POISONING), at(9))
    assert len(site.timeline("quarantine")) == 1
