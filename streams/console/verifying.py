"""`kerbwatch incidents verify`: a sealed bundle checked with the sealer's public key, offline, or at home against its log as well.

It decides how what was found is told, and when a bundle counts as one to rely on: every byte as sealed, nothing doubted, no
checkpoint contradicted, and at home (without `--key`) named in the audit log. What counts as tampering is decided in
`responders.proof`. It refuses to change anything. No topic feeds it.

Source: paper 4.7 (evidence preservation), SC-10; C2SP tlog-checkpoint.
"""

from pathlib import Path
from typing import Annotated

import typer

from infra.checkpoints import kept_notes, public_key_file, read_public_key
from infra.db import reading
from infra.settings import Settings, read_settings
from responders.console.tables import AsJson, opened, plain, print_json
from responders.proof.auditing import read_notes
from responders.proof.comparing import Agreement, agreement
from responders.proof.evidence import LARGEST_BYTES, Verified, verify
from responders.proof.sealings import Standing, against_log
from streams.errors import BadInput, Tampered, Unavailable

_SHOWN = 5
_KEEP = "keep this file and every copy of it, change nothing, and see docs/evidence.md"
_OLD = (
    "sealed by an earlier version: neither the log was held against older checkpoints, nor acts and timeline against the log; "
    "people's own entries in the log are not in it"
)


def verify_bundle(
    bundle: Annotated[Path, typer.Argument(help="The sealed file.")],
    key: Annotated[
        Path | None, typer.Option(help="The sealer's public key, offline; this home's, and its log, if not given.")
    ] = None,
    checkpoints: Annotated[
        Path | None, typer.Option(help="Checkpoints kept elsewhere, a note or a folder of them, held against it as well.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a sealed bundle; 1 if it is not to be relied on. Example: kerbwatch incidents verify evidence.tar."""
    settings = read_settings()
    public = read_public_key(key or public_key_file(settings))
    data = _read(bundle)
    found = verify(data, public)
    faults: list[str] = []
    given = [one.checkpoint for one in read_notes(_notes(checkpoints), public, faults)]
    ours = [] if key is not None else [one.checkpoint for one in read_notes(kept_notes(settings), public, faults)]
    signed = found.checkpoint
    held = Agreement(0, len(given), ()) if signed is None else agreement(signed, found.growth, given)
    home = Agreement(0, 0, ()) if signed is None else agreement(signed, found.growth, ours)
    here = Standing("", ()) if key is not None else _at_home(settings, data, found)
    faults = [*found.doubts, *faults, *dict.fromkeys((*held.faults, *home.faults)), *here.faults]
    if as_json:
        _print_json(found, held.agreed + home.agreed, here, faults)
    else:
        _tell(found, held, home, here, faults)
    if faults:
        more = f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise Tampered(f"{'; '.join(faults[:_SHOWN])}{more}: {_KEEP}")
    if given and not held.agreed:
        size = 0 if signed is None else signed.size
        raise BadInput(
            f"the bundle holds, and none of the {len(given)} checkpoints given can be held against it: it tells of {size} entries "
            f"and {len(found.growth)} older sizes. Copy checkpoints/{size}.note from the sealer, or ask there for "
            f"`kerbwatch audit prove --from {size}` and check that by this bundle's checkpoint.note"
        )


def _tell(found: Verified, held: Agreement, home: Agreement, here: Standing, faults: list[str]) -> None:
    about = found.about
    what = f"incident {about.incident_id}, sealed {about.sealed_at:%Y-%m-%d %H:%M:%S} UTC by key {found.signer[:12]}"
    typer.echo(f"{'IT IS NOT TO BE RELIED ON' if faults else 'holds'}: {what}")
    proven = f"{found.audited} audit entries proven against the signed checkpoint, {found.acts} acts signed by their people"
    typer.echo(f"{len(found.members)} members unchanged, {proven}")
    if found.waiting:
        typer.echo(f"{found.waiting} entries had been sent and were not in the log yet: they are unproven")
    if not found.compared:
        typer.echo(_OLD)
    if held.agreed or held.unknown:
        typer.echo(f"{held.agreed} of the checkpoints given agree, {held.unknown} are of sizes that it has no proof for")
    if home.agreed:
        typer.echo(f"{home.agreed} of this home's checkpoints agree")
    if here.said:
        typer.echo(plain(here.said))
    for fault in faults:
        typer.echo(f"  - {plain(fault)}")


def _print_json(found: Verified, agreed: int, here: Standing, faults: list[str]) -> None:
    told = {
        "holds": not faults,
        "about": found.about,
        "signer": found.signer,
        "audit_entries": found.audited,
        "acts": found.acts,
        "waiting": found.waiting,
        "compared": found.compared,
        "checkpoints": agreed,
        "at_home": here.said,
        "faults": faults,
        "members": {name: len(body) for name, body in found.members.items()},
    }
    print_json(told)


def _at_home(settings: Settings, data: bytes, found: Verified) -> Standing:
    if settings.database_url is None and not (settings.home.resolve() / "kerbwatch.db").is_file():
        return Standing("not held against the audit log: this home has no database", ())
    try:
        with opened(settings) as sessions, reading(sessions) as session:
            return against_log(session, data, found)
    except Unavailable as error:
        return Standing(f"not held against the audit log: {error}", ())


def _notes(path: Path | None) -> tuple[Path, ...]:
    if path is None:
        return ()
    found = tuple(sorted(path.glob("*.note"))) if path.is_dir() else (path,) if path.is_file() else ()
    if not found:
        raise BadInput(f"no checkpoint at {path}: give a note, or a folder of notes (SIZE.note)")
    return found


def _read(bundle: Path) -> bytes:
    try:
        if bundle.stat().st_size > LARGEST_BYTES:
            raise BadInput(f"{bundle} is larger than any bundle ({LARGEST_BYTES} bytes)")
        return bundle.read_bytes()
    except OSError as error:
        raise BadInput(f"{bundle} cannot be read: {error.strerror}; `kerbwatch incidents evidence` writes one") from error
