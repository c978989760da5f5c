"""What a drill's round leaves behind: rows and ledgers as a stack would have written them, at seconds of one noon."""

from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path

import msgspec
import numpy as np
from sqlalchemy.orm import Session

from infra.db import migrate, open_database, writing
from infra.settings import Settings
from infra.tables import Assignment, IncidentRow, JudgedFrame, QuarantinedFrame, TimelineRow
from responders.playbooks.playbooks import State
from streams.drill import referee
from streams.drill.filming import Filmed
from streams.drill.referee import Notes, Outcome
from streams.drill.scenario import parse
from streams.drill.staging import Stage
from streams.events import Context, Kind, Mode
from streams.ledger import Ledger
from streams.sources.base import Shot
from tests.frames import a_frame

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
DIGESTS = {Mode.NORMAL: "a" * 64, Mode.SAFE: "b" * 64}
FGSM = files("streams").joinpath("drill", "scenarios", "01-evasion-fgsm.toml").read_text(encoding="utf-8")


def a_stage(tmp_path: Path) -> Stage:
    """Two cameras that do not play, a database with nothing in it, both contexts asked to be served by their normal model."""
    settings = Settings(home=tmp_path)
    migrate(settings)
    sessions = open_database(settings)
    cameras = {
        context: Filmed(name, context, settings, tmp_path / f"{name}.jsonl", seed=1)
        for context, name in ((Context.URBAN, "gate"), (Context.HIGHWAY, "bridge"))
    }
    with writing(sessions) as session:
        for context in Context:
            session.add(
                Assignment(
                    context=context, normal_digest="a" * 64, safe_digest="b" * 64, asked_mode=Mode.NORMAL, decision_id=context,
                    asked_at=NOON, changes=0,
                )
            )  # fmt: skip
    return Stage(settings, sessions, cameras, DIGESTS, lambda _line: None)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def judged(session: Session, camera: str, number: int, seconds: float, mode: Mode = Mode.NORMAL) -> None:
    context = Context.URBAN if camera == "gate" else Context.HIGHWAY
    session.add(
        JudgedFrame(
            frame_id=f"{camera}-{number}", camera_id=camera, context=context, epoch=1, sequence=number,
            weights_digest=DIGESTS[mode], mode=mode, decision_id="d", frame_partition=0, frame_offset=number,
            camera_time=at(seconds - 0.3), judged_time=at(seconds), people=1, inconsistency=None,
        )
    )  # fmt: skip


def incident(session: Session, camera: str = "gate", kind: Kind = Kind.EVASION, state: State = State.CLOSED) -> None:
    session.add(
        IncidentRow(
            id=f"{camera}-{kind}", kind=kind, camera_id=camera, context=Context.URBAN, state=state, severity="high",
            needs_safe=False, escalated="", resolution=None, signals=1, opened_at=at(1.1),
            impact_at=None, detected_at=at(1.0), acknowledged_at=None,
            contained_at=at(2.0), recovered_at=at(12.0), closed_at=at(12.0), body=b"{}",
        )
    )  # fmt: skip
    session.flush()
    for number, (action, seconds) in enumerate(
        (
            ("open", 1.0),
            ("quarantine", 1.0),
            ("serve", 1.1),
            ("contained", 2.0),
            ("serve", 10.0),
            ("restored", 12.0),
            ("closed", 12.0),
        )
    ):
        session.add(
            TimelineRow(
                incident_id=f"{camera}-{kind}", decision_id=f"{camera}-{kind}-{number}", time=at(seconds), state=state,
                actor="responder", action=action, what=f"{action} at {seconds}", cause_id="c",
            )
        )  # fmt: skip


def attacked(stage: Stage, seconds: float, frames: int) -> None:
    """The gate's ledger: so many attacked frames, three a second, from then on."""
    with Ledger(stage.cameras[Context.URBAN].ledger) as ledger:
        for number in range(frames):
            frame = a_frame(b"", id=f"gate-{number}", epoch=1, sequence=number, time=at(seconds + number / 3))
            ledger.sending(number, frame, "fgsm", Shot("s", 0.0, np.zeros((1, 1, 3), np.uint8), None))


def kept(session: Session, camera: str, number: int) -> None:
    session.add(
        QuarantinedFrame(
            frame_id=f"{camera}-{number}", incident_id="i", decision_id="d", camera_id=camera, epoch=1, sequence=number, path="p",
            sealed_sha256="0" * 64, reason="r", sealed_at=NOON,
        )
    )  # fmt: skip


def a_round(stage: Stage, **changes: object) -> Outcome:
    """The FGSM scenario's outcome from what the records hold; the stack is steady again afterwards."""
    known = parse(FGSM, "x.toml")
    return referee.judge(msgspec.structs.replace(known, **changes), stage, Notes(1, at(0.0), at(-30.0)), [])


def a_good_one(stage: Stage) -> None:
    """Two attacked frames, found after a second, contained after two, set aside, everything judged as asked."""
    attacked(stage, 0.5, 2)
    with writing(stage.sessions) as session:
        for number in range(2):
            judged(session, "gate", number, 0.9 + number / 3)
            kept(session, "gate", number)
        judged(session, "gate", 9, 5.0, Mode.SAFE)
        judged(session, "bridge", 1, 1.0)
        incident(session)
