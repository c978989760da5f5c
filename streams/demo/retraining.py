"""The demo after containment: secure retraining, two people's approval, canary, promotion, and how the new weights do.

It decides when the next command of the story is due, from what the database shows, and gives it as a person would: as
`kerbwatch retrain`, then `kerbwatch incidents approve` twice. It refuses to help a model that the gate refused. What
came of it is read back from database, registry and sealed evidence.

Source: paper 4.6 (secure retraining, approval by R3 and R8, staged deployment).
"""

import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING

import cv2
import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table
from sqlalchemy import select
from sqlalchemy.orm import Session

from inference.provenance.lineage import Lineage
from inference.provenance.registry import registry_of
from infra import totp
from infra.db import open_database, reading, writing
from infra.keys import people_key, person_key_file, replace_person_key
from infra.settings import Settings
from infra.tables import JudgedFrame, QuarantinedFrame, RolloutRow
from responders.console.tables import opened
from responders.people import people
from responders.people.acts import public_of
from responders.people.login import Login
from responders.people.roles import Role
from responders.rollouts.rollout import OVER, Rollout, State
from responders.rollouts.store import rollout_of
from streams.camera import encode
from streams.commands import command, process
from streams.console.view import Sight
from streams.errors import Unavailable
from streams.events import Context, Kind
from streams.ledger import Entry
from streams.sources.base import Picture
from streams.sources.scenery import Weather

if TYPE_CHECKING:
    from inference.training.samples import Sample

PEOPLE = (
    ("data-scientist", Role.DATA_SCIENTIST),
    ("secmlops-engineer", Role.SECMLOPS_ENGINEER),
    ("data-engineer", Role.DATA_ENGINEER),
)
"""Who acts in the demo, by what they do: the first two approve the new model."""
REVIEWERS = ("data-engineer", "secmlops-engineer")
SIZE = (512, 256)
"""Width and height of what the demo's cameras send, pixels."""
GOLDEN_PLACES = range(7000, 7004)
_LOW = 0.02
_ENOUGH = 8  # frames without which no percentile is told


@dataclass(frozen=True)
class Against:
    """How weights do on the attacked frames, which were made for the old normal model. Shares 0..1."""

    weights: str
    digest: str
    frames: int
    people: int
    recall: float | None
    miss_rate: float | None
    false_per_picture: float


@dataclass(frozen=True)
class RetrainingFact:
    """What came of the incident's retraining; seconds from its request. Latencies: camera to judgement, 95th percentile."""

    state: str
    why: str
    candidate: str
    gate: str
    approvals: tuple[tuple[str, str], ...]
    seconds_to_candidate: float | None
    seconds_to_service: float | None
    golden_share: float | None
    held_back: int
    quarantined_frames_trained_on: int
    latency_before_s: float | None
    latency_while_training_s: float | None
    against_the_attack: tuple[Against, ...]


def prepare(settings: Settings, now: datetime) -> dict[str, bytes]:
    """The people of the story; and a golden dataset of drawn pictures, whose truth is exact, unless there is one.

    Each has a key and a second factor, and two of them vouch for the golden dataset with those; returns what their authenticator
    apps are given, by name.
    """
    from inference.lifecycle.golden import current  # noqa: PLC0415 - torch takes seconds, and only the demo needs it
    from inference.training.samples import streets  # noqa: PLC0415 - same
    from streams.console.golden import vouch  # noqa: PLC0415 - same

    with opened(settings) as sessions:
        with writing(sessions) as session:
            secrets = introduce(session, settings, now)
        if current(settings) is None:
            drawn = [one for weather in Weather for one in streets(Context.URBAN, weather, GOLDEN_PLACES[:2], (0,))]
            drawn += as_sent(GOLDEN_PLACES)  # what is vetted comes from cameras, and is held to pictures like its own
            words = "demonstration: drawn pictures, labels exact by construction"
            for name in REVIEWERS:
                code = totp.code_at(secrets[name], totp.step_of(datetime.now(UTC)))
                vouch(Login(settings, sessions, name, code), drawn, drawn, words)
    return secrets


def introduce(session: Session, settings: Settings, now: datetime) -> dict[str, bytes]:
    """The people of the story, each with a role, a key in the home and a second factor; its secrets by name."""
    secrets = {}
    for name, role in PEOPLE:
        people.put(session, name, [role], "demo", now)
        people.give_key(session, name, public_of(replace_person_key(person_key_file(settings, name))), "demo", now)
        secrets[name] = totp.new_secret()
        people.enrol(session, name, secrets[name], people_key(settings), step=0, now=now)
    return secrets


def as_sent(places: Sequence[int]) -> "list[Sample]":
    """Streets of every weather as the demo's urban camera sends them: drawn at its size, and through its JPEG.

    Larger drawings scaled down lack the sensor's grain: held to those, every live picture looks perturbed.
    """
    from inference.training.samples import streets  # noqa: PLC0415 - torch takes seconds, and only the demo needs it

    drawn = [one for weather in Weather for one in streets(Context.URBAN, weather, places, (0,), size=SIZE)]
    return [replace(one, name=f"{one.name}-sent", picture=received(one.picture)) for one in drawn]


def received(picture: Picture) -> Picture:
    """The picture as it arrives from a camera: through its JPEG."""
    data = cv2.imdecode(np.frombuffer(encode(picture), np.uint8), cv2.IMREAD_COLOR)
    assert data is not None  # it was encoded a line before
    return np.ascontiguousarray(data[:, :, ::-1], np.uint8)


@dataclass
class Story:
    """Drives the commands, one look at a time; `line` says where it stands. Leave it to `left` to end what it started.

    `secrets` are what the people's authenticator apps hold (`prepare`).
    """

    settings: Settings
    left: ExitStack
    console: Console
    secrets: Mapping[str, bytes]
    line: str = ""
    _run: "subprocess.Popen[bytes] | None" = None
    _approved: set[str] = field(default_factory=set)
    _over: bool = False

    @property
    def over(self) -> bool:
        """Whether the new model serves, or will not."""
        return self._over

    def __call__(self, sight: Sight) -> None:
        """One look at the database, one step of the story."""
        contained = next((row for row in sight.incidents if row.kind == Kind.EVASION and row.contained_at is not None), None)
        if contained is None or self._over:
            return
        if self._run is None:
            log = self.settings.home.resolve() / "logs" / "retrain.log"
            words = ["retrain", "--reason", contained.id, "--budget", "short", "--actor", PEOPLE[0][0]]
            self._run = self.left.enter_context(process(words, self.settings, log))
        now = newest(self.settings)
        self.line = "retraining: starting" if now is None else _line(now)
        if now is not None and now.state is State.AWAITING_APPROVAL:
            self._approve(now)
        self._over = now is not None and now.state in OVER
        if now is None and self._run.poll() is not None:
            raise Unavailable(f"the retraining run ended early; see {self.settings.home / 'logs' / 'retrain.log'}")
        if now is not None and now.state in {State.REQUESTED, State.TRAINING, State.GATING} and self._run.poll() is not None:
            self._over = True

    def _approve(self, now: Rollout) -> None:
        for name, role in PEOPLE:
            if role in now.missing and name not in self._approved:
                self._approved.add(name)
                code = totp.code_at(self.secrets[name], totp.step_of(datetime.now(UTC)))
                words = ["incidents", "approve", now.incident_id, "--actor", name, "--code", code]
                said = command([*words, "-m", "gate figures and curves read"], self.settings)
                self.console.print(f"[bold]{name}[/] ({role}): {said}")
                return


def newest(settings: Settings) -> Rollout | None:
    """The newest rollout."""
    with reading(open_database(settings)) as session:
        row = session.scalar(select(RolloutRow).order_by(RolloutRow.requested_at.desc()).limit(1))
        return None if row is None else rollout_of(row)


def _line(now: Rollout) -> str:
    if now.state in {State.REQUESTED, State.TRAINING, State.GATING}:
        left = f", {now.left_s:.0f} s left" if now.left_s else ""
        return f"retraining: {now.step or 'asked for'} ({now.done} of {now.of}{left})"
    return f"new model {now.candidate_digest[:12]}: {now.state}{f', {now.why}' if now.why else ''}"


def gather_retraining(settings: Settings, ledgers: Sequence[Sequence[Entry]], safe_digest: str) -> RetrainingFact | None:
    """The facts about the newest rollout; None if there was none."""
    now = newest(settings)
    if now is None:
        return None
    folder = settings.home.resolve() / "training" / now.id
    with reading(open_database(settings)) as session:
        frames = session.execute(
            select(JudgedFrame.camera_time, JudgedFrame.judged_time).where(JudgedFrame.context == now.context)
        ).all()
        quarantined = set(session.scalars(select(QuarantinedFrame.frame_id)))
        serving = session.scalar(
            select(JudgedFrame.judged_time)
            .where(JudgedFrame.weights_digest == now.candidate_digest)
            .order_by(JudgedFrame.judged_time)
            .limit(1)
        )
    lineage = registry_of(settings).lineage(now.candidate_digest) if now.candidate_digest else None
    seen = {one["frame_id"] for one in _json(folder / "live.json")}
    made = now.candidate_digest and lineage is not None
    end = lineage.finished_at if lineage is not None else now.since
    digests = {"old normal": now.normal_digest, "safe": safe_digest} | ({"new": now.candidate_digest} if made else {})
    return RetrainingFact(
        state=now.state,
        why=now.why,
        candidate=now.candidate_digest,
        gate=now.gate,
        approvals=tuple((given.actor, given.role) for given in now.approvals),
        seconds_to_candidate=round((end - now.requested_at).total_seconds(), 1) if made else None,
        seconds_to_service=None if serving is None else round((serving - now.requested_at).total_seconds(), 1),
        golden_share=_golden_share(lineage),
        held_back=len({(one["pool"], one["name"]) for one in _json(folder / "held.json")}),
        quarantined_frames_trained_on=len(seen & quarantined),
        latency_before_s=_p95([row for row in frames if row.judged_time < now.requested_at]),
        latency_while_training_s=_p95([row for row in frames if now.requested_at <= row.judged_time <= end]),
        against_the_attack=against(settings, ledgers, digests),
    )


def against(settings: Settings, ledgers: Sequence[Sequence[Entry]], digests: Mapping[str, str]) -> tuple[Against, ...]:
    """How each of these weights does on the attacked frames: pixels from the sealed evidence, truth from the cameras' ledgers."""
    from inference.measure.quality import measure  # noqa: PLC0415 - torch takes seconds
    from inference.service.intake import decode_picture  # noqa: PLC0415 - same
    from inference.service.serving import load  # noqa: PLC0415 - same
    from inference.training.samples import shaped  # noqa: PLC0415 - same
    from responders.quarantine.quarantine import open_frame  # noqa: PLC0415 - same

    attacked = {entry.frame_id: entry for ledger in ledgers for entry in ledger if entry.attack and entry.people is not None}
    with reading(open_database(settings)) as session:
        rows = session.scalars(select(QuarantinedFrame).order_by(QuarantinedFrame.sequence)).all()
    sealed = [(open_frame(settings, row), attacked[row.frame_id]) for row in rows if row.frame_id in attacked]
    if not sealed:
        return ()
    pictures = [decode_picture(one.picture, one.frame) for one, _ in sealed]
    people = [[shaped(person.box_px, ignore=person.ignore) for person in entry.people or ()] for _, entry in sealed]
    found = []
    for name, digest in digests.items():
        served = load(registry_of(settings), digest, threads=settings.worker_threads)
        quality = measure([served.look([picture], _LOW)[0].boxes for picture in pictures], people, served.threshold)
        shares = _short(quality.recall), _short(quality.miss_rate)
        found.append(Against(name, digest, quality.pictures, quality.people, *shares, round(quality.false_per_picture, 2)))
    return tuple(found)


def judged(fact: RetrainingFact | None, check: Callable[[bool, str], object]) -> None:
    """Whether the retraining was what it should be, fact by fact, told to `check` (holds, what was found)."""
    if fact is None:
        check(False, "no retraining")  # noqa: FBT003 - the callback's order
        return
    roles = {role for _, role in fact.approvals}
    names = {name for name, _ in fact.approvals}
    check(fact.state == State.DONE, f"retraining {fact.state}{f': {fact.why}' if fact.why else ''}")
    check(bool(fact.gate), f"gate: {fact.gate or 'not asked'}")
    check(
        roles == {Role.DATA_SCIENTIST, Role.SECMLOPS_ENGINEER} and len(names) > 1,
        f"approved by {', '.join(f'{name} ({role})' for name, role in fact.approvals) or 'nobody'}",
    )
    check(fact.quarantined_frames_trained_on == 0, f"{fact.quarantined_frames_trained_on} quarantined frames trained on")
    check((fact.golden_share or 0.0) >= 0.1, f"golden share {fact.golden_share}")  # noqa: PLR2004 - the policy's tenth
    by_name = {one.weights: one for one in fact.against_the_attack}
    if "new" in by_name:
        old, new = by_name["old normal"].miss_rate, by_name["new"].miss_rate
        check(old is not None and new is not None and new < old, f"miss rate on the attacked frames: {old} before, {new} now")


def table(fact: RetrainingFact) -> Table:
    """How the weights do against the attack that started it all."""
    shown = Table("weights", "digest", "people found", "miss rate", "false boxes a picture", title_justify="left")
    shown.title = f"on the {fact.against_the_attack[0].frames} attacked frames" if fact.against_the_attack else "no attacked frames"
    for one in fact.against_the_attack:
        recall = "-" if one.recall is None else f"{one.recall:.0%}"
        shown.add_row(one.weights, one.digest[:12], recall, str(one.miss_rate), str(one.false_per_picture))
    return shown


def _golden_share(lineage: Lineage | None) -> float | None:
    if lineage is None:
        return None
    golden, *others = (material.samples for material in lineage.materials)
    return round(golden / (golden + sum(others)), 3)


def _p95(rows: Sequence[tuple[datetime, datetime]]) -> float | None:
    if len(rows) < _ENOUGH:
        return None
    return round(quantiles([(judged_at - taken_at).total_seconds() for taken_at, judged_at in rows], n=20)[-1], 3)


def _json(path: Path) -> list[dict[str, object]]:
    return msgspec.json.decode(path.read_bytes(), type=list[dict[str, object]]) if path.is_file() else []


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
