"""`kerbwatch audit`: the audit log checked, copied, proven and signed.

It decides how what was found is told, and in which order; what counts as tampering is decided in `auditing.py` (the log and its
checkpoints), `signers.py` (people's signatures), `audit_export.py` (copies) and `infra.proofs`. Nothing of the log is ever changed.
`verify --file` and `verify --proof` need neither database nor home, with `--key`. No topic feeds it.

Source: paper SC-10 (audit trails), 4.5.6; RFC 6962, C2SP tlog-checkpoint, tlog-proof, tlog-witness.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec import Struct
from rich.console import Console
from rich.progress import Progress
from sqlalchemy import select
from sqlalchemy.orm import Session

from infra.checkpoints import Checkpoint, kept_notes, public_key_file, read_note, read_public_key, verifier_key
from infra.db import reading
from infra.files import write_new
from infra.proofs import LARGEST_BYTES, Consistency, Inclusion, read_proof, write_proof
from infra.settings import Settings, read_settings
from infra.tables import AuditRow
from responders.console.tables import AsJson, Comment, completed, opened, plain, print_json, utc
from responders.people import desk
from responders.people.access import Deed
from responders.people.login import Actor, logged_in
from responders.proof import auditing
from responders.proof.export import Watch, examine_file, lines
from responders.proof.inclusion import growth, inclusion
from responders.proof.signers import Signers, entry_of, waiting
from streams import codec
from streams.errors import BadInput, Tampered
from streams.events import AuditEntry
from streams.topics import AUDIT

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="The audit log: check it, copy it, prove an entry, sign where it stands."
)

_COMPLETED = 1000
_SHOWN = 5
_EVERY = 1000
_KEEP = "change nothing, keep database, home/checkpoints and this output as evidence, and see docs/audit.md"

Key = Annotated[
    Path | None, typer.Option(help="The deployment's public evidence key, as kept elsewhere; this home's if not given.")
]
_FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S"]
Since = Annotated[datetime | None, typer.Option(formats=_FORMATS, help="Only from the first entry of this moment (UTC) on.")]
Until = Annotated[datetime | None, typer.Option(formats=_FORMATS, help="Only up to the last entry before this moment (UTC).")]


class Told(Struct, frozen=True, kw_only=True):
    """What `verify` found. `first` to `first + entries - 1` were hashed; `newest`: what the newest agreeing checkpoint signs.

    `acts`: people's acts in the log; `waiting`: entries that were sent and are not in the log yet; `disowned`: entries that are no
    faults any more.
    """

    holds: bool
    first: int
    entries: int
    root: str
    checkpoints: int
    newest: int | None
    acts: int
    waiting: int = 0
    faults: tuple[str, ...] = ()
    disowned: tuple[str, ...] = ()


@app.command()
def verify(
    file: Annotated[Path | None, typer.Option(help="Check this copy, made by `export`, instead of the database.")] = None,
    proof: Annotated[Path | None, typer.Option(help="Check this proof, made by `prove`, instead of the database.")] = None,
    checkpoints: Annotated[
        Path | None, typer.Option(help="Checkpoints kept elsewhere, a note or a folder of them, held against it as well.")
    ] = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Check the whole audit log, a copy of it, or a proof; 1 if anything was changed. Example: kerbwatch audit verify --json.

    Every entry is hashed anew and held against every signed checkpoint, and every act against the key of the person who signed it.
    """
    settings = read_settings()
    if file is not None and proof is not None:
        raise BadInput("give --file or --proof, one at a time")
    public = key or public_key_file(settings)
    notes = _notes(checkpoints)
    if proof is not None:
        _verify_proof(proof, public, notes or kept_notes(settings), as_json=as_json)
        return
    told = _verify_file(file, public, notes) if file is not None else _verify_log(settings, public, notes)
    if as_json:
        print_json(told)
    else:
        _tell(told)
    if not told.holds:
        more = f" and {len(told.faults) - _SHOWN} more" if len(told.faults) > _SHOWN else ""
        raise Tampered(f"{'; '.join(told.faults[:_SHOWN])}{more}: {_KEEP}")


def _verify_log(settings: Settings, key: Path, notes: tuple[Path, ...]) -> Told:
    signers = Signers()
    with opened(settings) as sessions, reading(sessions) as session, _watched("hashing the log") as watch:
        size = auditing.length(session)

        def hear(number: int, body: bytes, event_id: str) -> None:
            signers.hear(number, body, event_id)
            watch(number + 1, size)

        found = auditing.examine(session, (*kept_notes(settings), *notes), key, hear)
        acts = desk.check(session).faults
        late = len(waiting(session))
        judged = signers.judged(session)
    faults = (*found.faults, *judged.faults, *acts)
    return Told(
        holds=not faults,
        first=0,
        entries=found.size,
        root=found.root.hex(),
        checkpoints=found.checkpoints,
        newest=None if found.newest is None else found.newest.size,
        acts=signers.acts,
        waiting=late,
        faults=faults,
        disowned=judged.disowned,
    )


def _verify_file(path: Path, key: Path, notes: tuple[Path, ...]) -> Told:
    signers = Signers()
    with _watched("hashing the copy") as watch:
        found = examine_file(path, read_public_key(key), notes, signers, watch)
    judged = signers.judged()
    faults = (*found.faults, *judged.faults)
    return Told(
        holds=not faults,
        first=found.head.first,
        entries=found.head.entries,
        root=found.signed.root.hex(),
        checkpoints=found.agreed,
        newest=found.signed.size,
        acts=signers.acts,
        faults=faults,
        disowned=judged.disowned,
    )


def _tell(told: Told) -> None:
    which = f"entries {told.first} to {told.first + told.entries - 1}" if told.first else f"{told.entries} entries"
    typer.echo(f"{which} hashed anew; root {told.root or 'none: there is a gap'}")
    if told.newest is None:
        typer.echo(
            "no checkpoint agrees with it; `kerbwatch audit checkpoint` signs one" if told.holds else "no checkpoint agrees with it"
        )
    else:
        after = told.first + told.entries - told.newest
        later = f"; {after} entries came later and are not signed yet" if after > 0 else ""
        typer.echo(f"{told.checkpoints} signed checkpoints agree, the newest over {told.newest} entries{later}")
    typer.echo(f"{told.acts} acts of people are in it")
    if told.waiting:
        typer.echo(f"{told.waiting} entries were sent and are not in it yet; if that stays so, see `kerbwatch status` (keep)")
    for entry in told.disowned:
        typer.echo(f"disowned: {plain(entry)}")
    typer.echo(
        "it holds: nothing was changed, added or taken away" if told.holds else f"IT DOES NOT HOLD, {len(told.faults)} faults:"
    )
    for fault in told.faults:
        typer.echo(f"  - {plain(fault)}")


def _verify_proof(path: Path, key: Path, notes: tuple[Path, ...], *, as_json: bool) -> None:
    public = read_public_key(key)
    proof = read_proof(_read(path, "`kerbwatch audit prove` writes one"))
    if isinstance(proof, Inclusion):
        signed, entry = proof.check(public), codec.decode(proof.body, AUDIT, AuditEntry).event
        if as_json:
            print_json({"holds": True, "index": proof.index, "size": signed.size, "root": signed.root.hex(), "entry": entry})
            return
        typer.echo(f"holds: entry {proof.index} of the log of {signed.size} that was signed (root {signed.root.hex()})")
        what = f"{plain(entry.action)}  {plain(entry.target)}: {plain(entry.why)}"
        typer.echo(f"{utc(entry.time, millis=True)} UTC  {plain(entry.actor)}  {what}")
        return
    signed = proof.check(_old(proof, notes, public), public)
    if as_json:
        print_json({"holds": True, "from": proof.size, "size": signed.size, "root": signed.root.hex()})
    else:
        typer.echo(f"holds: the log of {signed.size} entries is the one of {proof.size} that was signed, and what came after it")


def _old(proof: Consistency, notes: tuple[Path, ...], key: Ed25519PublicKey) -> Checkpoint:
    for note in notes:
        if note.stem == str(proof.size) or len(notes) == 1:
            return read_note(_read(note, "give a checkpoint"), key)
    raise BadInput(f"the proof begins at {proof.size} entries: give the checkpoint over those (--checkpoints {proof.size}.note)")


@app.command()
def export(
    out: Annotated[Path, typer.Option(help="The file to be written; never one that is there.")],
    since: Since = None,
    until: Until = None,
    as_json: AsJson = False,
) -> None:
    """Copy the log up to the newest checkpoint into one file. Example: kerbwatch audit export --out audit.jsonl.

    Nothing can be left out between the first entry and the last: `kerbwatch audit verify --file` would find it.
    """
    settings = read_settings()
    note, signed = auditing.newest_note(settings)
    with opened(settings) as sessions, reading(sessions) as session, _watched("copying the log") as watch:
        write_new(out, lines(session, note, signed, watch, since=_utc(since), until=_utc(until)))
        later = auditing.length(session) - signed.size
    copied = examine_file(out, read_public_key(public_key_file(settings)), (), Signers(), lambda _done, _of: None)
    if copied.faults:
        raise Tampered(f"{out} is not what was to be written ({copied.faults[0]}): see that the disk is whole, and write it again")
    if as_json:
        print_json(
            {"path": str(out), "first": copied.head.first, "entries": copied.head.entries, "size": signed.size, "later": later}
        )
        return
    typer.echo(
        f"{out}: entries {copied.head.first} to {copied.head.first + copied.head.entries - 1} of the {signed.size} that are signed"
    )
    if later:
        typer.echo(f"{later} newer entries are left out: `kerbwatch audit checkpoint` signs them, then export again", err=True)
    typer.echo(f"check it anywhere: kerbwatch audit verify --file {out} --key {public_key_file(settings).name}")


def _complete_entry(incomplete: str) -> list[tuple[str, str]]:
    """The newest entries' ids that begin so."""

    def known(session: Session) -> list[tuple[str, str]]:
        rows = session.execute(select(AuditRow.event_id, AuditRow.number).order_by(AuditRow.number.desc()).limit(_COMPLETED))
        return [(row.event_id, f"entry {row.number}") for row in rows]

    return completed(incomplete.lower(), known)


@app.command()
def prove(
    entry: Annotated[
        str | None, typer.Argument(help="The entry's number, its id, or the beginning of that.", autocompletion=_complete_entry)
    ] = None,
    since: Annotated[
        int | None, typer.Option("--from", min=1, help="Prove instead that the log only grew since it had so many.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write it to this new file; to the terminal if not given.")] = None,
) -> None:
    """Prove one entry, or growth, by the newest checkpoint. Example: kerbwatch audit prove 17 --out 17.tlog-proof.

    An entry's proof is a C2SP tlog-proof, one of growth (--from SIZE) what C2SP witnesses are sent. Check either with
    `kerbwatch audit verify --proof`.
    """
    if (entry is None) == (since is None):
        raise BadInput("give an entry, or --from SIZE: `kerbwatch audit prove 17`")
    settings = read_settings()
    note, signed = auditing.newest_note(settings)
    with opened(settings) as sessions, reading(sessions) as session:
        proof = growth(session, note, signed, since) if since is not None else inclusion(session, note, signed, entry or "")
    text = write_proof(proof)
    if out is None:
        typer.echo(text.decode(), nl=False)
    else:
        write_new(out, [text], 0o644)
        old = "" if since is None else f" --checkpoints {since}.note"
        key = public_key_file(settings).name
        typer.echo(f"{out}: check it anywhere with `kerbwatch audit verify --proof {out}{old} --key {key}`")


@app.command()
def checkpoint(as_json: AsJson = False) -> None:
    """Check the log, then sign where it stands; the keeper does so hourly. Example: kerbwatch audit checkpoint."""
    settings = read_settings()
    with opened(settings) as sessions, reading(sessions) as session:
        found, path = auditing.checkpoint(session, settings)
    public = verifier_key(read_public_key(public_key_file(settings)))
    if as_json:
        root = found.root.hex()
        print_json({"size": found.size, "root": root, "path": str(path), "agreed": found.checkpoints, "verifier_key": public})
        return
    typer.echo(f"{found.size} entries hold, as do {found.checkpoints} checkpoints; signed in {path}")
    typer.echo(f"key for other tools that read C2SP notes: {public}", err=True)
    typer.echo("copy that file to where nobody of this machine can write: it is what later changes are proven by", err=True)


@app.command()
def disown(
    entry: Annotated[int, typer.Argument(min=0, help="The number that `verify` names.")], why: Comment, actor: Actor = None
) -> None:
    """Say that nobody of ours wrote an entry. Example: kerbwatch audit disown 17 -m "stolen key".

    A signed act of R8. Once the keeper has it in the log, the entry counts for nothing: verify still names it, and fails no longer.
    """
    with logged_in(actor) as login:
        with reading(login.sessions) as session:
            row = session.get(AuditRow, entry)
            size = auditing.length(session)
        if row is None:
            raise BadInput(f"no audit entry {entry}: the log has {size}, numbered from 0")
        which = entry_of(entry, row.body)
        login.does(Deed.DISOWN, which.target, why, which.detail)
    typer.echo(f"entry {entry} is disowned once this is in the log; `kerbwatch audit verify` goes on to name it")


def _notes(path: Path | None) -> tuple[Path, ...]:
    if path is None:
        return ()
    found = tuple(sorted(path.glob("*.note"))) if path.is_dir() else (path,) if path.is_file() else ()
    if not found:
        raise BadInput(f"no checkpoint at {path}: give a note, or a folder of notes (SIZE.note)")
    return found


def _read(path: Path, hint: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}; {hint}") from error


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)


@contextmanager
def _watched(what: str) -> Iterator[Watch]:
    """Shows how far it is on a terminal, looked at once in a thousand entries."""
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(what, total=None)

        def watch(done: int, of: int) -> None:
            if done % _EVERY == 0:
                progress.update(task, completed=done, total=of)

        yield watch
