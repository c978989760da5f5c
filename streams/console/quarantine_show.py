"""`kerbwatch quarantine show`: a frame that was set aside, as a picture, with its boxes and what differs from a clean neighbour.

It decides which neighbour is taken: the nearest frame of the same camera's recording that is neither set aside nor ordered to be
(`responders.quarantine.unfit`), out of Kafka's log while that holds it. It refuses whoever may not open the quarantine; who looked
is on record. No topic feeds it.

Source: paper 4.6 (manual review by R4 and R8), 4.5.4 (data protection).
"""

from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from inference.lifecycle.held import find_held
from inference.service.intake import decode_picture
from infra.db import reading
from infra.files import write_whole
from infra.settings import Settings
from infra.tables import JudgedFrame, QuarantinedFrame
from responders.console.tables import AsJson, print_json
from responders.people.access import Deed
from responders.people.login import Actor, Code, logged_in
from responders.quarantine import contact_sheet, review
from responders.quarantine.quarantine import Place, SealedFrame, open_frame
from responders.quarantine.unfit import unfit
from streams.console import held_review
from streams.console.quarantine import complete_frame
from streams.errors import KerbwatchError
from streams.events import Frame
from streams.frame_log import read_frames

_NEAR = 200
"""A neighbour lies within so many frames, or it shows another scene."""


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What `show` found. `neighbour`: its sequence number; `mean_difference`, of 255 levels; None without one."""

    frame_id: str
    incident_id: str
    camera: str
    epoch: int
    sequence: int
    reason: str
    people: int | None
    weights_digest: str | None
    inconsistency: float | None
    neighbour: int | None
    mean_difference: float | None
    picture: str


def show(
    frame: Annotated[
        str,
        typer.Argument(
            help="The frame's or training sample's id, the beginning of it, or CAMERA:EPOCH:SEQUENCE.",
            autocompletion=complete_frame,
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="The PNG to be written; named after what it shows, here, if not given.")] = None,
    actor: Actor = None,
    code: Code = None,
    as_json: AsJson = False,
) -> None:
    """Write a set-aside frame with boxes and its difference to a clean one. Example: kerbwatch quarantine show gate-1:17000:42."""
    with logged_in(actor, code) as login:
        sample = find_held(login.settings, frame)
        if sample is not None:
            login.does(Deed.OPEN, sample.id, "looks at the picture")
            _tell_sample(held_review.drawn(login.settings, sample, out or Path(f"sample-{sample.id[:12]}.png")), as_json=as_json)
            return
        with reading(login.sessions) as session:
            row = review.find_frame(session, frame)
        login.does(Deed.OPEN, row.frame_id, "looks at the picture")
        sealed = open_frame(login.settings, row)
        with reading(login.sessions) as session:
            place = neighbour_of(session, row)
        beside = None if place is None else _read(login.settings, place)
    path = out or Path(f"{row.camera_id}-{row.epoch}-{row.sequence}.png")
    told = drawn(row, sealed, beside, path)
    if as_json:
        print_json(told)
        return
    people = "detections are not on record" if told.people is None else f"{told.people} people found"
    typer.echo(f"frame {row.camera_id}:{row.epoch}:{row.sequence}, {people}; set aside because: {row.reason}")
    if told.neighbour is None:
        typer.echo("no clean neighbour is in the log any more, so no difference is shown", err=True)
    else:
        typer.echo(f"differs by {told.mean_difference:.1f} of 255 levels from frame {told.neighbour}, on average")
    typer.echo(f"written: {path}")


def _tell_sample(told: held_review.ShownSample, *, as_json: bool) -> None:
    if as_json:
        print_json(told)
        return
    typer.echo(f"sample {told.pool}/{told.name}, {told.people} people labelled; held back because:")
    for one in sorted(told.findings, key=lambda finding: -finding.score):
        typer.echo(f"  {one.stage} {one.score:.2f}: {one.reason}{'' if one.label is None else f' (label {one.label})'}")
    typer.echo(f"written: {told.picture}")


def drawn(row: QuarantinedFrame, sealed: SealedFrame, beside: tuple[Frame, bytes] | None, path: Path) -> Shown:
    """Write the contact sheet (mode 0600: it shows people) and say what is on it."""
    picture, seen = decode_picture(sealed.picture, sealed.frame), sealed.detections
    boxes = () if seen is None else seen.boxes
    panels = [
        (
            f"frame {row.sequence}: {len(boxes)} people" if seen else f"frame {row.sequence}",
            contact_sheet.with_boxes(picture, boxes),
        )
    ]
    mean, neighbour = None, None
    if beside is not None:
        clean = decode_picture(beside[1], beside[0])
        if clean.shape == picture.shape:
            neighbour = beside[0].sequence
            mean = round(float(np.abs(picture.astype(np.int16) - clean.astype(np.int16)).mean()), 2)
            panels += [
                (f"clean neighbour, frame {neighbour}", clean),
                (f"difference, {contact_sheet.GAIN} times", contact_sheet.difference(picture, clean)),
            ]
    write_whole(path.resolve(), contact_sheet.sheet(panels))
    return Shown(
        frame_id=row.frame_id,
        incident_id=row.incident_id,
        camera=row.camera_id,
        epoch=row.epoch,
        sequence=row.sequence,
        reason=row.reason,
        people=None if seen is None else len(boxes),
        weights_digest=None if seen is None else seen.weights_digest,
        inconsistency=None if seen is None else seen.scores.inconsistency,
        neighbour=neighbour,
        mean_difference=mean,
        picture=str(path),
    )


def neighbour_of(session: Session, row: QuarantinedFrame) -> Place | None:
    """The nearest frame of the same recording that nothing speaks against, the earlier of two; None if none is near."""
    near = session.execute(
        select(JudgedFrame.frame_id, JudgedFrame.sequence, JudgedFrame.frame_partition, JudgedFrame.frame_offset)
        .where(
            JudgedFrame.camera_id == row.camera_id,
            JudgedFrame.epoch == row.epoch,
            JudgedFrame.sequence.between(row.sequence - _NEAR, row.sequence + _NEAR),
            JudgedFrame.frame_id != row.frame_id,
        )
        .order_by(func.abs(JudgedFrame.sequence - row.sequence), JudgedFrame.sequence)
    )
    places = [Place(*found) for found in near]
    barred = unfit(session, (place.frame_id for place in places))
    return next((place for place in places if place.frame_id not in barred), None)


def _read(settings: Settings, place: Place) -> tuple[Frame, bytes] | None:
    """Without a broker the frame is shown all the same."""
    try:
        return next(read_frames(settings, [place]), None)
    except KerbwatchError as error:
        typer.echo(f"the log of frames cannot be read: {error}", err=True)
        return None
