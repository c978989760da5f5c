"""A worker that cannot trust its normal model still takes the order to serve the safe one, which contains the incident."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import a_model
import numpy as np
import pytest
from a_person import newcomer
from a_worker import NOW, Site
from msgspec.structs import replace
from sqlalchemy import select
from structlog.testing import capture_logs
from typer.testing import CliRunner

from inference.provenance.registry import Registry
from inference.service.doubts import STANDS_BY, Doubts
from inference.service.serving import View
from infra.db import migrate, open_database, reading, writing
from infra.settings import Settings
from infra.tables import EffectRow, IncidentRow, TimelineRow
from responders.console.incidents import app
from responders.engine.store import Store
from responders.people.roles import Role
from responders.playbooks import playbooks
from responders.playbooks.playbooks import State
from streams import codec, topics
from streams.drill import deputies, scenario
from streams.drill.scenario import Do
from streams.drill.staging import Stage
from streams.errors import Unavailable
from streams.events import Box, Context, Detections, Kind, Mode, ModelState, Phase, Signal, WorkerStatus
from streams.sources.base import Picture
from streams.topics import MODEL_STATE


@dataclass
class Answering:
    """Stands for the network that these verified bytes would be."""

    digest: str

    def look(self, pictures: list[Picture]) -> list[View]:
        heat = np.full((4, 4), 0.5, np.float32)
        return [View(boxes=(Box(1, 2, 3, 4, 0.5),), heat=heat, embedding=np.zeros(2, np.float32)) for _ in pictures]


def a_byte_flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.chmod(0o600)
    path.write_bytes(data)


@dataclass
class Deployment:
    """A signed registry, a worker that reads it, and the responder's store; their topics are carried over by hand."""

    registry: Registry
    store: Store
    normal: str
    safe: str
    site: Site = field(init=False)
    now_s: int = 0
    _sent: int = 0
    _heard: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.site = Site(load=self.load)
        self.site.worker._now = self.now
        for context in Context:
            self.store.assign(context, self.normal, self.safe, NOW)

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.now_s)

    def load(self, digest: str) -> Answering:
        self.registry.read(digest)
        return Answering(digest)

    def weights(self, digest: str) -> Path:
        return self.registry.root / digest / "weights.safetensors"

    def passes(self, times: int, step_s: int = 1) -> None:
        """The responder's orders reach the worker, its signals and status reach the responder, and time passes."""
        for _ in range(times):
            with reading(self.store.sessions) as session:
                rows = session.scalars(
                    select(EffectRow).where(EffectRow.topic == MODEL_STATE.name).order_by(EffectRow.number)
                ).all()
            for row in rows[self._sent :]:
                asked = codec.decode(row.payload, MODEL_STATE, ModelState).event
                self.site.log.put(MODEL_STATE.name, row.payload, asked.context.encode())
            self._sent = len(rows)
            self.now_s += step_s
            self.site.rounds(2)
            for event in (*self._new(topics.SIGNALS), *self._new(topics.WORKER_STATUS)):
                self.store.accept(event, self.now())
            self.store.tick(self.now())

    def _new(self, topic: topics.Topic) -> list[Signal | WorkerStatus]:
        found = self.site.read(topic)
        first = self._heard.get(topic.name, 0)
        self._heard[topic.name] = len(found)
        return found[first:]

    def incidents(self) -> list[IncidentRow]:
        with reading(self.store.sessions) as session:
            return list(session.scalars(select(IncidentRow).order_by(IncidentRow.context, IncidentRow.opened_at)))

    def timeline(self) -> list[str]:
        with reading(self.store.sessions) as session:
            return list(session.scalars(select(TimelineRow.action).order_by(TimelineRow.number)))


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    settings = Settings(home=tmp_path)
    migrate(settings)
    sessions = open_database(settings)
    registry = a_model.a_registry(tmp_path / "models")
    normal = a_model.add(registry, tmp_path / "made", 1)
    safe = a_model.add(registry, tmp_path / "made", 2, Mode.SAFE)
    with capture_logs():  # else each refusal's traceback is drawn, which takes longer than the test
        yield Deployment(registry, Store(sessions, playbooks.load(), worker_lost_s=60, clock_allowance_s=60), normal, safe)
    sessions.kw["bind"].dispose()


def test_a_worker_that_starts_with_a_tampered_normal_model_serves_the_safe_one_and_the_incident_is_contained(
    deployment: Deployment,
) -> None:
    a_byte_flipped(deployment.weights(deployment.normal))
    deployment.passes(4)
    incidents = deployment.incidents()
    assert [(row.kind, row.camera_id, row.context, row.state) for row in incidents] == [
        (Kind.TAMPERING, "w1", Context.HIGHWAY, State.CONTAINED),
        (Kind.TAMPERING, "w1", Context.URBAN, State.CONTAINED),
    ]
    assert all(row.contained_at is not None for row in incidents)
    assert {"serve", "contained"} <= set(deployment.timeline())
    status: WorkerStatus = deployment.site.read(topics.WORKER_STATUS)[-1]
    assert {(one.mode, one.weights_digest) for one in status.serving} == {(Mode.SAFE, deployment.safe)}
    assert deployment.normal[:12] in status.subject
    signals: list[Signal] = deployment.site.read(topics.SIGNALS)
    assert {(one.detector, one.phase) for one in signals} == {("model-check", Phase.RAISED)}  # the file still is what it is

    deployment.site.shoot(0)
    deployment.site.rounds(2)
    [seen] = deployment.site.read(topics.DETECTIONS)
    assert isinstance(seen, Detections)
    assert (seen.mode, seen.weights_digest, seen.scores.reference_digest) == (Mode.SAFE, deployment.safe, deployment.safe)


def test_once_the_file_is_whole_again_the_normal_model_is_served_scored_against_and_calm(deployment: Deployment) -> None:
    a_byte_flipped(deployment.weights(deployment.normal))
    deployment.passes(4)
    a_byte_flipped(deployment.weights(deployment.normal))
    site = deployment.site
    for context in Context:
        site.serve(context, deployment.normal, Mode.NORMAL, f"restored-{context}", later_s=3600, reference=deployment.normal)
    site.rounds(2)
    last = {(one.context, one.phase) for one in site.read(topics.SIGNALS)[-2:]}
    assert last == {(Context.URBAN, Phase.CALM), (Context.HIGHWAY, Phase.CALM)}
    site.shoot(0)
    site.rounds(2)
    [seen] = site.read(topics.DETECTIONS)
    assert (seen.weights_digest, seen.scores.reference_digest) == (deployment.normal, deployment.normal)


def test_with_both_models_tampered_nothing_is_served_and_both_are_named(deployment: Deployment) -> None:
    for digest in (deployment.normal, deployment.safe):
        a_byte_flipped(deployment.weights(digest))
    deployment.site.shoot(0)
    deployment.passes(8, step_s=3)
    status: WorkerStatus = deployment.site.read(topics.WORKER_STATUS)[-1]
    assert (status.health, status.serving) == ("failing", ())
    assert deployment.safe[:12] in status.subject
    signals: list[Signal] = deployment.site.read(topics.SIGNALS)
    assert {(one.context, one.detector) for one in signals} == {
        (context, detector) for context in Context for detector in ("model-check", "standby-check")
    }
    assert deployment.site.read(topics.DETECTIONS) == []
    incidents = deployment.incidents()
    assert [row.contained_at for row in incidents] == [None, None]
    assert all("not reported by w1" in row.escalated for row in incidents)


def test_a_file_that_is_whole_again_is_served_without_another_order(deployment: Deployment) -> None:
    for digest in (deployment.normal, deployment.safe):
        a_byte_flipped(deployment.weights(digest))
    deployment.passes(4)
    assert deployment.site.read(topics.WORKER_STATUS)[-1].serving == ()
    letters = len(deployment.site.read(topics.DEAD_LETTER))
    a_byte_flipped(deployment.weights(deployment.safe))
    deployment.passes(8)
    status: WorkerStatus = deployment.site.read(topics.WORKER_STATUS)[-1]
    assert {(one.context, one.weights_digest) for one in status.serving} == {(context, deployment.safe) for context in Context}
    assert [row.state for row in deployment.incidents()] == [State.CONTAINED] * 2
    assert len(deployment.site.read(topics.DEAD_LETTER)) == letters  # what was refused once is refused once


def test_a_normal_model_that_is_altered_while_a_safe_one_is_in_doubt_is_taken_out_of_service(deployment: Deployment) -> None:
    deployment.passes(4)
    for context in Context:
        deployment.store.accept(a_doubt(context, deployment.now()), deployment.now())
    deployment.passes(2)
    assert [row.contained_at for row in deployment.incidents()] == [None, None]  # nothing to contain: the normal model serves
    a_byte_flipped(deployment.weights(deployment.normal))
    deployment.site = Site(deployment.site.log, load=deployment.load)  # the worker starts again
    deployment.site.worker._now = deployment.now
    deployment.passes(6)
    assert [row.state for row in deployment.incidents()] == [State.CONTAINED] * 2
    assert {"replan", "serve", "contained"} <= set(deployment.timeline())
    status: WorkerStatus = deployment.site.read(topics.WORKER_STATUS)[-1]
    assert {(one.mode, one.weights_digest) for one in status.serving} == {(Mode.SAFE, deployment.safe)}


def a_doubt(context: Context, now: datetime) -> Signal:
    [raised] = Doubts("inference/w1", "w1").told({(context, STANDS_BY): "the safe model's file was changed"}, now)
    return raised


def test_the_drills_people_approve_the_repair_and_the_normal_model_serves_again(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_this_process(words: Sequence[str], _: Settings) -> str:
        result = CliRunner().invoke(app, list(words[1:]))
        if result.exit_code:
            raise Unavailable(str(result.exception))
        return result.stdout

    monkeypatch.setenv("KERBWATCH_HOME", str(tmp_path))
    monkeypatch.setattr(deputies, "command", in_this_process)
    settings = Settings(home=tmp_path)
    stage = Stage(settings, deployment.store.sessions, {}, {}, lambda _line: None)
    a_byte_flipped(deployment.weights(deployment.normal))
    deployment.passes(4)
    a_byte_flipped(deployment.weights(deployment.normal))
    with writing(deployment.store.sessions) as session:
        newcomer(session, settings, "devops-1", [Role.DEVOPS_ENGINEER], NOW)
    told = in_this_process(
        ["incidents", "close", deployment.incidents()[0].id, "-m", "file restored", "--actor", "devops-1"], settings
    )
    assert "is contained still. handled: file restored. The safe model serves until repair is approved by R6 (DevOps" in told
    deployment.passes(2)
    assert [row.state for row in deployment.incidents()] == [State.CONTAINED] * 2, "nobody closes it alone"
    known = scenario.load()["tampered-normal"]
    undo = [replace(step, camera="w1") for step in known.undo if step.do is Do.APPROVE]
    assert len(undo) == len(Context)
    for step in undo:
        stage.do(step, known)
    deployment.passes(4)
    assert [row.state for row in deployment.incidents()] == [State.CLOSED] * 2
    assert deployment.incidents()[0].resolution == "handled"
    status: WorkerStatus = deployment.site.read(topics.WORKER_STATUS)[-1]
    assert {(one.mode, one.weights_digest) for one in status.serving} == {(Mode.NORMAL, deployment.normal)}
    with pytest.raises(Unavailable, match="asks for anybody's approval"):
        stage.do(undo[0], known)
