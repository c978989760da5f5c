"""`kerbwatch models`: which models there are, what is proven of them, what they served, and bringing one into service or back.

It decides how models are shown and what counts as naming one; it refuses to show as proven what does not verify. Bringing one into
service or back stands in `streams.console.naming`. No topic feeds it: registry and database do.

Source: paper 4.5.3 (model provenance), SC-6, SC-10.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import track
from sqlalchemy.orm import Session

from inference.lifecycle.rules import GateRules, name_of
from inference.provenance import history
from inference.provenance.approvals import Approvals, approvals
from inference.provenance.lineage import Lineage
from inference.provenance.registry import Card, Registry, read_card, registry_of
from inference.provenance.verdicts import Verdict, verdicts
from infra.db import reading
from infra.keys import model_key
from infra.settings import read_settings
from responders.console.tables import Comment, opened, plain, print_json, table, utc
from responders.engine import records
from responders.people.access import Deed
from responders.people.login import Actor, logged_in
from streams import policy
from streams.console.late import LATE, call
from streams.errors import BadInput, KerbwatchError, Tampered, Unavailable
from streams.events import Context, Digest, Mode

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Models: what they are, what is proven of them, what they serve."
)

_SHORT = 12


def complete_model(incomplete: str) -> list[tuple[str, str]]:
    """Models whose digest or name begins so, by the beginning of the digest or the name."""
    try:
        registry = Registry(read_settings().home / "registry")
        known = [(digest[:_SHORT], _name(registry, digest) or "") for digest in registry.digests()]
    except KerbwatchError:
        return []
    digests = [(digest, name) for digest, name in known if digest.startswith(incomplete.lower())]
    return digests + [(name, digest) for digest, name in known if name and name.startswith(incomplete)]


Model = Annotated[str, typer.Argument(help="The model's digest, the beginning of it, or its name.", autocompletion=complete_model)]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """One model in short. `fault` says what does not hold, then nothing else is known; a * in `serves` is asked for now."""

    digest: Digest
    name: str
    mode: Mode | None
    architecture: str
    gate: tuple[str, ...]
    serves: tuple[str, ...]
    fault: str


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """One model in full, all of it verified; `rules` names what each verdict was made by."""

    card: Card
    lineage: Lineage | None
    signed_by: str
    verdicts: tuple[Verdict, ...]
    rules: tuple[str, ...]
    approvals: tuple[Approvals, ...]
    serves: tuple[str, ...]
    served: tuple[history.Stretch, ...]
    suspected_in: tuple[str, ...]


class Proven(msgspec.Struct, frozen=True):
    """Whether a model is what it says; `fault` names the file that is wrong."""

    digest: Digest
    holds: bool
    fault: str


class Told(msgspec.Struct, frozen=True):
    """What was named and what served, oldest first."""

    named: tuple[history.Named, ...]
    served: tuple[history.Stretch, ...]


@contextmanager
def _reader() -> Iterator[Session]:
    with opened(read_settings()) as sessions, reading(sessions) as session:
        yield session


def _registry() -> Registry:
    return registry_of(read_settings())


def find(registry: Registry, text: str) -> str:
    """The digest that `text` names: wholly, by an unmistakable beginning, or as a card's name. Raises BadInput otherwise."""
    digests = registry.digests()
    wanted = text.strip()
    by_start = [digest for digest in digests if wanted and digest.startswith(wanted.lower())]
    found = by_start or [digest for digest in digests if _name(registry, digest) == wanted]
    if len(found) == 1:
        return found[0]
    if found:
        raise BadInput(f"{text!r} could be {' or '.join(digest[:_SHORT] for digest in found[:4])}: give more of the digest")
    names = [name for digest in digests for name in (digest[:_SHORT], _name(registry, digest)) if name]
    hint = records.nearest(wanted, names) or "see `kerbwatch models list`"
    raise BadInput(f"no model {text[:80]!r} in {registry.root}; {hint}")


def _name(registry: Registry, digest: str) -> str | None:
    try:
        return registry.card(digest).name
    except KerbwatchError:
        return None


@app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List all models with what is proven of them and where they serve. Example: `kerbwatch models list`."""
    registry = _registry()
    with _reader() as session:
        serving = history.serving(session)
    rules = policy.accepted(read_settings())
    rows = [_listed(registry, digest, serving.get(digest, ()), rules) for digest in registry.digests()]
    if as_json:
        print_json(rows)
        return
    if not rows:
        typer.echo("no model so far; `kerbwatch setup` puts the shipped ones into the registry")
        return
    shown = table("digest", "name", "mode", "gate passed for", "serves (* asked for)", "")
    for row in rows:
        fault = f"[bold red]{plain(row.fault)}[/]" if row.fault else ""
        shown.add_row(row.digest[:_SHORT], plain(row.name), row.mode or "-", ", ".join(row.gate), ", ".join(row.serves), fault)
    Console().print(shown)


def _listed(registry: Registry, digest: str, serves: tuple[str, ...], rules: Sequence[GateRules]) -> Listed:
    try:
        registry.verify(digest)
        card = registry.card(digest)
        made = verdicts(registry, digest)
    except KerbwatchError as error:
        return Listed(digest=digest, name="", mode=None, architecture="", gate=(), serves=serves, fault=str(error))
    gate = tuple(sorted(context for context in Context if policy.opening(made, context, rules)))
    return Listed(digest=digest, name=card.name, mode=card.mode, architecture=card.architecture, gate=gate, serves=serves, fault="")


@app.command()
def show(model: Model, as_json: AsJson = False) -> None:
    """Show card, lineage, verdicts and service of a model, each verified first. Example: `kerbwatch models show csp-nano`."""
    registry = _registry()
    digest = find(registry, model)
    registry.verify(digest)
    with _reader() as session:
        found = Shown(
            card=registry.card(digest),
            lineage=registry.lineage(digest),
            signed_by=registry.signed_by(digest),
            verdicts=(made := verdicts(registry, digest)),
            rules=tuple(name_of(one.settings_digest) for one in made),
            approvals=approvals(registry, digest),
            serves=history.serving(session).get(digest, ()),
            served=history.served(session, digest=digest),
            suspected_in=history.suspected(session).get(digest, ()),
        )
    if as_json:
        print_json(found)
        return
    _print(found)


def _print(found: Shown) -> None:
    card, console = found.card, Console()
    facts = table("", "")
    facts.add_row("model", f"{plain(card.name)}, {card.mode}, for {', '.join(card.contexts)}, threshold {card.threshold:g}")
    facts.add_row("digest", card.digest)
    facts.add_row("parent", card.parent or "none")
    facts.add_row("architecture", plain(card.architecture))
    facts.add_row("signature", f"holds, key {found.signed_by[:_SHORT]}")
    facts.add_row("serves", ", ".join(found.serves) or "nothing now")
    for stretch in found.served:
        when = f"{utc(stretch.first_at)} to {utc(stretch.last_at)}"
        facts.add_row("served", f"{stretch.context} {stretch.mode}, {stretch.frames} frames, {when}")
    for one, rules in zip(found.verdicts, found.rules, strict=True):
        failed = ", ".join(f"{check.name} {check.value} (limit {check.limit:g})" for check in one.checks if not check.passed)
        outcome = "passed" if one.passed else f"REFUSED: {plain(failed)}"
        facts.add_row("gate", f"{one.context}: {outcome}, by the {rules} rules, {utc(one.made_at)}")
    for said in found.approvals:
        for by in said.approvals:
            facts.add_row("approved", plain(f"for {said.context} by {by.actor} ({by.role}), {utc(by.time)}: {by.comment}"))
    if found.suspected_in:
        facts.add_row("suspected", f"[bold red]in open incidents {', '.join(id_[:8] for id_ in found.suspected_in)}[/]")
    for name, words in _made(found.lineage):
        facts.add_row(name, words)
    facts.add_row("data", plain(card.data))
    console.print(facts)


def _made(lineage: Lineage | None) -> Iterator[tuple[str, str]]:
    """How a model came to be, by what was recorded of it."""
    if lineage is None:
        yield "lineage", "nobody recorded one"
        return
    code = f"{lineage.code.version} {lineage.code.commit[:_SHORT]}, sources {lineage.code.source_digest[:_SHORT]}"
    yield "made", f"{utc(lineage.started_at)} to {utc(lineage.finished_at)} by kerbwatch {plain(code)}"
    yield "on", f"{lineage.machine.architecture}, {lineage.machine.cores} cores, {plain(lineage.machine.device)}"
    for material in lineage.materials:
        yield "data", f"{plain(material.name)}: {material.samples} samples, {material.manifest_digest[:_SHORT]}"
    for by in lineage.approvals:
        yield "approved", plain(f"{by.what} by {by.actor} ({by.role}), {utc(by.time)}: {by.comment}")
    if lineage.figures:
        yield "figures", plain(", ".join(f"{name} {value:g}" for name, value in lineage.figures.items()))
    if lineage.incident:
        yield "because of", f"incident {plain(lineage.incident)}"
    if lineage.note:
        yield "note", plain(lineage.note)


@app.command()
def verify(
    model: Annotated[str | None, typer.Argument(help="One model; all if none is named.", autocompletion=complete_model)] = None,
    as_json: AsJson = False,
) -> None:
    """Prove models again: digests, cards, lineage, verdicts, signatures; 1 if one fails. Example: `kerbwatch models verify`."""
    registry = _registry()
    digests = registry.digests() if model is None else (find(registry, model),)
    found = []
    for digest in track(digests, "verifying", console=Console(stderr=True), transient=True):
        try:
            registry.verify(digest)
            verdicts(registry, digest)
            approvals(registry, digest)
        except (Tampered, Unavailable, BadInput) as error:
            found.append(Proven(digest, holds=False, fault=str(error)))
        else:
            found.append(Proven(digest, holds=True, fault=""))
    if as_json:
        print_json(found)
    else:
        for one in found:
            typer.echo(f"{one.digest[:_SHORT]}  {'holds' if one.holds else f'DOES NOT HOLD: {one.fault}'}")
    if not all(one.holds for one in found):
        raise typer.Exit(1)


@app.command()
def stage(
    folder: Annotated[Path, typer.Argument(help="A run's folder: weights.safetensors, card.json and lineage.json.")],
    comment: Comment,
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Put a run's model into the registry, signed; it serves nothing yet.

    Example: `kerbwatch models stage var/training/run -m "trained on the new corner"`
    """
    lineage = folder / "lineage.json"
    if not lineage.is_file():
        raise BadInput(
            f"{folder} has no lineage.json: a model that nobody can trace is not staged; train it with `kerbwatch train`"
        )
    card = read_card(folder / "card.json")
    with logged_in(actor) as login:
        model_key(login.settings)
        login.does(Deed.STAGE, card.digest, comment)
        digest = registry_of(login.settings).put(folder / "weights.safetensors", card, lineage.read_bytes())
    if as_json:
        print_json({"digest": digest})
    else:
        typer.echo(f"{digest} is staged and signed; the gate comes next, then `kerbwatch models promote {digest[:_SHORT]}`")


@app.command("history")
def tell_history(
    context: Annotated[Context | None, typer.Option("--context", help="Only this context.")] = None, as_json: AsJson = False
) -> None:
    """Tell which models were named and which served, from when to when. Example: `kerbwatch models history --context urban`."""
    with _reader() as session:
        told = Told(history.named(session, context), history.served(session, context))
    if as_json:
        print_json(told)
        return
    names = table("context", "mode", "digest", "since (UTC)", "until", "by", "why", title="named")
    for one in told.named:
        until = "now" if one.until is None else utc(one.until)
        names.add_row(one.context, one.mode, one.weights_digest[:_SHORT], utc(one.since), until, plain(one.actor), plain(one.why))
    frames = table("context", "mode", "digest", "first frame (UTC)", "last frame", "frames", "decision", title="served")
    for each in told.served:
        frames.add_row(
            each.context, each.mode, each.weights_digest[:_SHORT], utc(each.first_at), utc(each.last_at),
            str(each.frames), plain(each.decision_id[:16]),
        )  # fmt: skip
    console = Console()
    console.print(names)
    console.print(frames)


@app.command()
def served(
    frame: Annotated[str, typer.Argument(help="The frame's id, or CAMERA:EPOCH:SEQUENCE.")], as_json: AsJson = False
) -> None:
    """Say which weights judged a frame; 1 if it is not on record. Example: `kerbwatch models served gate-1:1700000000000:42`."""
    with _reader() as session:
        found = history.judged(session, frame)
    if found is None:
        typer.echo(
            f"frame {frame} is not on record: it was refused (`kerbwatch dlq list`), is not judged yet, or the keeper is behind "
            "(`kerbwatch status`); ask again in a moment",
            err=True,
        )
        raise typer.Exit(1)
    if as_json:
        print_json(found)
        return
    typer.echo(
        f"{found.weights_digest} judged frame {found.frame_id} ({found.camera}, epoch {found.epoch}, sequence {found.sequence})\n"
        f"as the {found.mode} model of {found.context}, under decision {found.decision_id}, "
        f"at {utc(found.judged_time, millis=True)} UTC "
        f"(taken {utc(found.camera_time, millis=True)}); it found {found.people} people"
    )


@app.command(context_settings=LATE)
def measure(context: typer.Context) -> None:
    """Measure a detector on all real pictures there are; minutes. Example: `kerbwatch models measure csp-nano`."""
    from inference.lifecycle.measuring import measure_model  # noqa: PLC0415 - needs torch, which the other commands do not

    call(measure_model, context)


@app.command(context_settings=LATE)
def check(context: typer.Context) -> None:
    """Check that a detector keeps the promises that the rest relies on. Example: `kerbwatch models check my-model.toml`."""
    from inference.lifecycle.checking import check_model  # noqa: PLC0415 - needs torch, which the other commands do not

    call(check_model, context)


@app.command(context_settings=LATE)
def quantise(context: typer.Context) -> None:
    """Make an eight-bit copy of a model; some seconds. Example: `kerbwatch models quantise csp-nano-safe`."""
    from inference.lifecycle.quantising import quantise_model  # noqa: PLC0415 - needs torch, which the other commands do not

    call(quantise_model, context)
