"""`kerbwatch baselines`: what each camera's detectors hold to be usual, and which frames taught them that.

It decides how a baseline stands in the audit log and which version it is; it reads the log that the keeper wrote, and refuses a
record that does not hold. The watcher sends such a record when a detector begins to judge (`detectors.baselines`).

Source: issue "Drift" (baselines with provenance, versioned).
"""

from datetime import datetime
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from sqlalchemy import select

from detectors.baselines import LEARNED, Baseline, versions
from infra.db import reading
from infra.settings import read_settings
from infra.tables import AuditRow
from responders.console.tables import AsJson, opened, plain, print_json, table, utc
from streams import codec, topics
from streams.errors import Tampered
from streams.events import AuditEntry


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """One line: the baseline, its version among those of the same camera, context, weights and detector, and when it was ready."""

    version: int
    ready_at: datetime
    baseline: Baseline


def on_record(baseline: Baseline, source: str, now: datetime) -> AuditEntry:
    """A complete baseline as the audit log keeps it; the same baseline is the same entry. `source`: "role/name"."""
    return AuditEntry(
        id=baseline.id,
        source=source,
        time=now,
        subject=baseline.camera_id,
        actor=source,
        action=LEARNED,
        target=f"{baseline.camera_id}/{baseline.context}/{baseline.detector}",
        why=msgspec.json.encode(baseline).decode(),
        cause_id=baseline.id,
    )


def baselines(
    camera: Annotated[str | None, typer.Option(help="Only this camera's.")] = None,
    as_json: AsJson = False,
) -> None:
    """List learned baselines: camera, context, weights, version, and the frames that taught them.

    Example: kerbwatch baselines --camera gate-1
    """
    with opened(read_settings()) as sessions, reading(sessions) as session:
        found = [one for body in session.scalars(select(AuditRow.body)) if (one := _read(body)) is not None]
    lines = [
        Shown(version=version, ready_at=told, baseline=one)
        for version, told, one in versions(found)
        if camera in {None, one.camera_id}
    ]
    if as_json:
        print_json(lines)
        return
    shown = table("camera", "context", "weights", "detector", "version", "frames", "ready (UTC)")
    for line in lines:
        base = line.baseline
        restarted = "" if base.first.epoch == base.last.epoch else " over a restart"
        cells = (base.camera_id, base.context, (base.weights_digest or "any")[:8], base.detector.split("/", maxsplit=1)[0])
        taught = f"{base.first.sequence} to {base.last.sequence}{restarted}"
        shown.add_row(*map(plain, cells), str(line.version), taught, utc(line.ready_at)[:16])
    Console().print(shown)


def _read(body: bytes) -> tuple[datetime, Baseline] | None:
    entry = codec.decode(body, topics.AUDIT, AuditEntry).event
    if entry.action != LEARNED:
        return None
    try:
        return entry.time, msgspec.json.decode(entry.why, type=Baseline)
    except msgspec.DecodeError as error:
        raise Tampered(f"audit entry {entry.id} about a baseline does not hold ({error}): keep it as evidence") from error
