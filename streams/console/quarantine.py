"""`kerbwatch quarantine`: what was set aside - cameras' frames, and training samples that vetting held back - and who decides.

It decides how both are listed, and turns a command into a signed act; who may do what is decided in `responders.people.access`, and
nothing is released or discarded before both people have said so of the very same frames or samples. No topic feeds it.

Source: paper 4.6 (automatic quarantine and manual review by R4 and R8).
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy.orm import Session

from inference.lifecycle import held as held_samples
from inference.lifecycle.held import held
from infra.db import reading, writing
from infra.settings import read_settings
from responders.console.tables import AsJson, Comment, complete_incident, completed, plain, print_json, reader, table, utc
from responders.engine import records
from responders.people import desk
from responders.people.access import Deed
from responders.people.login import Actor, Code, Login, logged_in
from responders.people.roles import named
from responders.quarantine import quarantine, review
from responders.quarantine.quarantine import Standing
from streams.console import held_review
from streams.errors import BadInput, KerbwatchError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Frames and training samples that were set aside: see, release, discard."
)

_SHORT = 12


def complete_frame(incomplete: str) -> list[tuple[str, str]]:
    """The newest frames that were set aside, as CAMERA:EPOCH:SEQUENCE, that begin so."""
    return completed(incomplete, lambda session: [(name, "") for name in review.named_frames(session)])


def complete_sample(incomplete: str) -> list[tuple[str, str]]:
    """The newest samples that wait for review, by the beginning of their ids."""
    try:
        waiting = [one for one in held(read_settings()) if one.standing is held_samples.Standing.SEALED]
    except KerbwatchError:
        return []
    return [(one.id[:_SHORT], f"{one.pool}/{one.name}") for one in waiting if one.id.startswith(incomplete.lower())]


Incident = Annotated[
    str | None, typer.Argument(help="The incident's id, or the beginning of it.", autocompletion=complete_incident)
]
Frame = Annotated[
    str | None, typer.Option(help="Only this frame: its id, or CAMERA:EPOCH:SEQUENCE.", autocompletion=complete_frame)
]
OneSample = Annotated[
    str | None,
    typer.Option("--sample", help="Only this training sample: its id, or the beginning.", autocompletion=complete_sample),
]


@app.command("list")
def list_quarantine(
    incident: Annotated[
        str | None,
        typer.Option(help="Only what this incident set aside; its id, or the beginning of it.", autocompletion=complete_incident),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many of each, newest first.")] = 50,
    reviewed: Annotated[bool, typer.Option("--all", help="What people released or discarded as well.")] = False,
    as_json: AsJson = False,
) -> None:
    """List frames and training samples in quarantine, newest first. Example: kerbwatch quarantine list --incident 3f2a."""
    with reader() as session:
        wanted = None if incident is None else records.find(session, incident)
        frames, total = quarantine.listed(session, wanted, limit, reviewed=reviewed)
    every = [one for one in held(read_settings()) if wanted in {None, one.incident}]
    samples = [one for one in every if reviewed or one.standing is held_samples.Standing.SEALED]
    if as_json:
        print_json({"total": total, "frames": frames, "samples_total": len(samples), "samples": samples[:limit]})
        return
    title = f"{total} frames that were set aside" if reviewed else f"{total} frames in quarantine"
    shown = table("incident", "camera", "epoch", "frame", "sealed (UTC)", "state", "why", title=title)
    for frame in frames:
        where = (plain(frame.incident_id[:_SHORT]), plain(frame.camera), str(frame.epoch), str(frame.sequence))
        state = frame.state if frame.state is Standing.SEALED else f"{frame.state} by {plain(frame.reviewed_by)}"
        shown.add_row(*where, utc(frame.sealed_at), state, plain(frame.reason))
    console = Console()
    console.print(shown)
    if samples:
        console.print(_samples(samples[:limit], len(samples)))


def _samples(samples: Sequence[held_samples.Held], total: int) -> Table:
    """Training samples with what speaks against them most."""
    title = f"{total} training samples held back by vetting"
    shown = table("sample", "incident", "picture", "held (UTC)", "state", "why", title=title)
    for one in samples:
        state = one.standing if one.standing is held_samples.Standing.SEALED else f"{one.standing} by {plain(one.reviewed_by)}"
        why = plain(f"{one.worst.stage} {one.worst.score:.2f}: {one.worst.reason}")
        picture = plain(f"{one.pool}/{one.name}")
        shown.add_row(one.id[:_SHORT], plain(one.incident[:_SHORT]) or "-", picture, utc(one.held_at), state, why)
    return shown


@app.command()
def release(  # noqa: PLR0917 - typer makes options of them
    comment: Comment,
    incident: Incident = None,
    frame: Frame = None,
    sample: OneSample = None,
    actor: Actor = None,
    code: Code = None,
    as_json: AsJson = False,
) -> None:
    """Let an incident's frames or samples out of quarantine. Example: kerbwatch quarantine release 3f2a -m "fog, no attack".

    A data engineer (R4) and a SecMLOps engineer (R8) must, two different people, each giving this command within a day. What is
    released may be trained on again; the sealed files stay as evidence.
    """
    with logged_in(actor, code) as login:
        _decide(login, Deed.RELEASE, (incident, frame, sample), comment, as_json=as_json)


@app.command()
def discard(  # noqa: PLR0917 - typer makes options of them
    comment: Comment,
    incident: Incident = None,
    frame: Frame = None,
    sample: OneSample = None,
    actor: Actor = None,
    code: Code = None,
    as_json: AsJson = False,
) -> None:
    """Destroy an incident's frames or samples, for good. Example: kerbwatch quarantine discard 3f2a -m "faces, no consent".

    A data engineer (R4) and a SecMLOps engineer (R8) must, two different people, each giving this command within a day.
    """
    with logged_in(actor, code) as login:
        _decide(login, Deed.DISCARD, (incident, frame, sample), comment, as_json=as_json)


Names = tuple[str | None, str | None, str | None]
"""Incident, frame, sample, as they were typed."""


def _found(session: Session, login: Login, names: Names) -> Names:
    """The same by their whole ids. Raises BadInput, with the nearest where there is one, for a name that nothing has."""
    incident, frame, sample = names
    if incident is None and sample is None:
        raise BadInput("name an incident, or one sample (--sample); see `kerbwatch quarantine list`")
    return (
        None if incident is None else records.find(session, incident),
        None if frame is None else review.find_frame(session, frame).frame_id,
        None if sample is None else held_review.named(login.settings, sample).id,
    )


def _chosen(session: Session, login: Login, names: Names) -> review.Chosen | held_review.Chosen:
    """What a review is about: samples where one is named or the incident held some back, else frames."""
    incident, frame, sample = names
    if frame is None:
        found = held_review.chosen(session, login.settings, incident, sample)
        if found is not None:
            return found
    assert incident is not None  # else a sample was named, and found or refused
    return review.chosen(session, incident, frame)


def _decide(login: Login, deed: Deed, names: Names, comment: str, *, as_json: bool) -> None:
    with reading(login.sessions) as session:
        names = _found(session, login, names)
        login.wants(deed, names[0] or f"sample {names[2]}")
        about = _chosen(session, login, names)
    what = "samples" if isinstance(about, held_review.Chosen) else "frames"
    login.does(deed, about.target, comment, (what, str(about.count)))
    now = datetime.now(UTC)
    with writing(login.sessions) as session:
        agreed = desk.agreement(session, deed, about.target, now)
        if not agreed.missing:
            again = _chosen(session, login, names)
            if again.target != about.target:
                raise BadInput(f"other {what} stand in quarantine than a moment ago: look again (`kerbwatch quarantine list`)")
            if isinstance(again, held_review.Chosen):
                held_review.settle(session, login.settings, again, deed, agreed.people, comment, now)
            else:
                review.settle(session, login.settings, again, deed, agreed.people, comment, now)
            desk.use(session, agreed)
    if as_json:
        print_json({what: about.count, "done": not agreed.missing, "by": agreed.people, "missing": agreed.missing})
    elif agreed.missing:
        typer.echo(f"{about.count} {what}: on record; waits for {named(agreed.missing)}, another person, with the same command")
    else:
        done = "released" if deed is Deed.RELEASE else "destroyed"
        typer.echo(f"{about.count} {what} {done}, as {' and '.join(agreed.people)} decided")
