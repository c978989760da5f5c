"""`kerbwatch incidents report`: one page about an incident, for people who were not there.

It decides which frames show before, during and after, and what the cameras' own record of the truth says of people missed. It
refuses to show a picture to somebody who may not open the quarantine (`responders.people.access`); that somebody looked is on
record. Fed by topics `detections`, `signals` and `frames`, read back.

Source: paper 4.7 (incident analysis), 4.6 (who may review what is set aside).
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from inference.measure.miss_rate import SETUPS, Mode, annotation, evaluate
from infra.db import Sessions, reading
from infra.files import write_whole
from infra.settings import Settings, read_settings
from infra.tables import QuarantinedFrame
from responders.console.tables import AsJson, Id, opened, print_json
from responders.engine import records
from responders.people.access import Deed
from responders.people.login import Actor, Code, logged_in
from responders.proof.material import FrameFact, Material
from responders.quarantine.quarantine import Place, open_frame
from responders.report import html, markdown
from responders.report.content import Effect, Snapshot, compose, detections_of
from responders.report.deadlines import deadlines
from streams import events
from streams.console.evidence import collect
from streams.errors import KerbwatchError, Unavailable
from streams.events import Detections
from streams.frame_log import read_frames
from streams.ledger import Truth, read_ledger
from streams.sources.base import Person

_LEAST_PX = 320
"""A canvas is no narrower, where no picture says how large a frame is."""


def report(
    incident: Id,
    *,
    out: Annotated[Path | None, typer.Option(help="Folder to write into; default: report-ID here.")] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures", help="With the pictures; you must be one who may open the quarantine.")
    ] = False,
    ledger: Annotated[Path | None, typer.Option(help="The camera's own record of the truth, for the effect on people.")] = None,
    actor: Actor = None,
    code: Code = None,
    as_json: AsJson = False,
) -> None:
    """Write an incident's report as HTML and Markdown. Example: kerbwatch incidents report 3f2a --out report."""
    settings = read_settings()
    duties = deadlines(settings.deadlines)
    truth = _truth(ledger)
    with opened(settings) as sessions:
        with reading(sessions) as session:
            id_ = records.find(session, incident)
        if pictures:
            with logged_in(actor, code) as login:
                login.does(Deed.OPEN, id_, "report with pictures")
        with Console(stderr=True).status("reading the log"):
            found = collect(sessions, settings, id_)
            shots = _snapshots(sessions, settings, found, with_pictures=pictures)
    content = compose(found, duties, datetime.now(UTC), snapshots=shots, effects=_effects(found, truth))
    folder = out or Path(f"report-{id_[:12]}")
    text, drawings = markdown.document(content)
    for name, body in {"report.html": html.page(content), "report.md": text, **drawings}.items():
        write_whole(folder / name, body.encode(), 0o600 if pictures else 0o644)
    if as_json:
        print_json({"incident": id_, "files": sorted(["report.html", "report.md", *drawings]), "folder": str(folder)})
    else:
        typer.echo(f"{folder / 'report.html'}: {content.status}")


def _truth(ledger: Path | None) -> Mapping[str, tuple[Truth, ...]]:
    return {} if ledger is None else {one.frame_id: one.people for one in read_ledger(ledger) if one.people is not None}


def _period(frame: FrameFact, begin: datetime) -> str:
    if frame.mode == events.Mode.SAFE:
        return "safe model"
    if frame.suspicious:
        return "normal model, suspicious frames"
    return "normal model, before" if frame.camera_time < begin else "normal model, afterwards"


def _effects(found: Material, truth: Mapping[str, tuple[Truth, ...]]) -> list[Effect]:
    """One row a period, in order of time."""
    begin = found.shown.incident.impact_at or found.incident.detected_at
    seen = detections_of(found.events)
    periods: dict[str, list[tuple[tuple[Truth, ...], Detections]]] = {}
    for frame in found.frames:
        if frame.frame_id in truth and frame.frame_id in seen:
            periods.setdefault(_period(frame, begin), []).append((truth[frame.frame_id], seen[frame.frame_id]))
    rows = []
    for period, pairs in periods.items():
        people = [[annotation(Person(one.box_px, one.visible_px, one.ignore)) for one in there] for there, _ in pairs]
        row = evaluate(people, [answer.boxes for _, answer in pairs], [SETUPS["Reasonable"]], Mode.WINDOWED)[0]
        missed = 1 - row.true_positives / row.counted if row.counted else None
        rows.append(Effect(period, row.images, row.counted, missed, row.false_positives / row.images))
    return rows


def _chosen(found: Material, seen: Mapping[str, Detections]) -> Iterator[tuple[str, FrameFact]]:
    """The last frame before, the most suspicious one, and the first good one that the safe model judged, or the last of all."""
    known = [frame for frame in found.frames if frame.frame_id in seen]
    bad = [frame for frame in known if frame.suspicious]
    if not bad:
        return
    if before := [frame for frame in known if not frame.suspicious and frame.camera_time < bad[0].camera_time]:
        yield "before", before[-1]
    asked_normal = [frame for frame in bad if frame.mode == events.Mode.NORMAL] or bad
    yield "during", max(asked_normal, key=lambda frame: frame.inconsistency or 0.0)
    if safe := [frame for frame in known if frame.mode == events.Mode.SAFE]:
        yield "after containment", safe[0]
    elif after := [frame for frame in known if frame.camera_time > bad[-1].camera_time]:
        yield "after", after[-1]


def _snapshots(sessions: Sessions, settings: Settings, found: Material, *, with_pictures: bool) -> list[Snapshot]:
    seen = detections_of(found.events)
    chosen = list(_chosen(found, seen))
    pictures = _pictures(sessions, settings, [frame for _, frame in chosen]) if with_pictures else {}
    shots = []
    for label, frame in chosen:
        boxes = seen[frame.frame_id].boxes
        size, picture = pictures.get(frame.frame_id, (_extent(found, seen), None))
        caption = f"frame {frame.sequence}, {len(boxes)} people found by the {frame.mode} model"
        shots.append(Snapshot(label, caption, size, boxes, picture))
    return shots


def _extent(found: Material, seen: Mapping[str, Detections]) -> tuple[int, int]:
    """A canvas that holds every box of the incident; the picture's own size is not on record."""
    boxes = [box for frame in found.frames if frame.frame_id in seen for box in seen[frame.frame_id].boxes]
    width = max((box.x_px + box.w_px for box in boxes), default=0.0)
    height = max((box.y_px + box.h_px for box in boxes), default=0.0)
    wide = max(_LEAST_PX, int(width) + 1)
    return wide, max(wide * 9 // 16, int(height) + 1)


def _pictures(
    sessions: Sessions, settings: Settings, frames: Sequence[FrameFact]
) -> dict[str, tuple[tuple[int, int], bytes | None]]:
    """Size and encoded picture by frame id, out of quarantine or the log; what is in neither is left out."""
    found: dict[str, tuple[tuple[int, int], bytes | None]] = {}
    places = []
    with reading(sessions) as session:
        for frame in frames:
            row = session.get(QuarantinedFrame, frame.frame_id)
            try:
                opened_frame = None if row is None else open_frame(settings, row)
            except KerbwatchError:  # discarded, gone or changed: the log may still have it
                opened_frame = None
            if opened_frame is None:
                places.append(Place(frame.frame_id, frame.sequence, frame.partition, frame.offset))
            else:
                found[frame.frame_id] = ((opened_frame.frame.width_px, opened_frame.frame.height_px), opened_frame.picture)
    try:
        for read, body in read_frames(settings, places):
            found[read.id] = ((read.width_px, read.height_px), body)
    except Unavailable:
        pass
    return found
