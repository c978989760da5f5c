"""`kerbwatch data golden`: the golden set proven, or a new one brought in by two people's signed word.

It decides when two people have said the same of the same samples: the set is then sealed with their names, roles and comments as
they signed them. It refuses a review by one person, by others than a data engineer (R4) and a SecMLOps engineer (R8), or of other
samples. What makes a set golden is decided in `inference.lifecycle.golden`. No topic feeds it.

Source: paper 4.6 (golden dataset, reviewed by R4 and R8), SC-5, SC-10.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import permutations
from typing import Annotated

import typer
from rich.console import Console
from sqlalchemy.orm import Session

from inference.lifecycle.golden import SHARE, Golden, Review, Reviewer, choose, current, describe, open_golden, put_golden
from inference.provenance.manifest import Manifest, manifest_of
from inference.training.pools import sources_of, training_pools
from inference.training.samples import Sample
from infra.db import writing
from infra.settings import Settings, read_settings
from responders.console.tables import AsJson, plain, print_json
from responders.people import desk
from responders.people.access import Deed
from responders.people.acts import Statement
from responders.people.desk import Agreement
from responders.people.login import Actor, Code, Login, logged_in
from responders.people.people import roles_of
from responders.people.roles import Role, named
from streams.errors import BadInput

_SEED = 7
_DRIFT = "drift"


def golden(  # noqa: PLR0917 - typer makes options of them
    comment: Annotated[
        str | None, typer.Option("--comment", "-m", help="What you say of every picture and label; it is kept for good.")
    ] = None,
    share: Annotated[float, typer.Option(help="Of every pool; at least 0.1.")] = SHARE,
    drift: Annotated[str, typer.Option(help="Why the new set may look other than the old one.")] = "",
    actor: Actor = None,
    code: Code = None,
    as_json: AsJson = False,
) -> None:
    """Prove the golden set as it is, or with -m vouch for a new one out of the training data.

    A data engineer (R4) and a SecMLOps engineer (R8) must, two different people, each giving this command within a day.

    The samples are drawn first, which takes about a minute; your code is asked for afterwards.

    Example: kerbwatch data golden -m "every picture and label looked at"
    """
    if comment is None:
        _show(open_golden(read_settings()).golden, as_json=as_json)
        return
    with logged_in(actor, code) as login:
        with Console(stderr=True).status("drawing streets, reading photographs"):
            samples = [one for group in training_pools(login.settings.shared_data).groups for one in group]
        chosen = choose(samples, share, _SEED)
        digest, agreed = vouch(login, samples, chosen, comment, drift)
    if not agreed.missing:
        _show(open_golden(login.settings).golden, as_json=as_json)
    elif as_json:
        print_json({"digest": digest, "samples": len(chosen), "by": agreed.people, "missing": agreed.missing})
    else:
        typer.echo(
            f"{len(chosen)} samples ({digest[:12]}): on record; waits for {named(agreed.missing)}, another person, "
            "with the same command"
        )


def vouch(
    login: Login, samples: Sequence[Sample], chosen: Sequence[Sample], comment: str, drift: str = ""
) -> tuple[str, Agreement]:
    """One person's signed word that `chosen`, out of these training `samples`, is golden; the second person's makes the set.

    Returns the set's digest and who has spoken so far. Raises BadInput for what the desk or `put_golden` refuses.
    """
    own = manifest_of("golden", chosen, sources_of(chosen))
    login.does(Deed.VOUCH, own.digest, comment, ("samples", str(len(chosen))), (_DRIFT, drift))
    with writing(login.sessions) as session:
        agreed = desk.agreement(session, Deed.VOUCH, own.digest, datetime.now(UTC))
        if not agreed.missing:
            _make(session, login.settings, own, samples, chosen, agreed)
            desk.use(session, agreed)
    return own.digest, agreed


def _make(  # noqa: PLR0917 - what a golden set is made of
    session: Session, settings: Settings, own: Manifest, samples: Sequence[Sample], chosen: Sequence[Sample], agreed: Agreement
) -> None:
    training = manifest_of("training", samples, sources_of(samples))
    first: dict[str, Statement] = {}  # so that the same two people's set is the same, however often one of them says it
    for statement in desk.said(session, agreed):
        first.setdefault(statement.actor, statement)
    drift = "; ".join(dict.fromkeys(why for one in first.values() if (why := dict(one.details)[_DRIFT])))
    reviews = reviews_of(tuple(first.values()), {name: roles_of(session, name) for name in first})
    made_at = max(review.time for review in reviews)
    made = describe(own, training, chosen, reviews=reviews, parent=current(settings), drift=drift, made_at=made_at)
    put_golden(settings, made, chosen)


def reviews_of(said: tuple[Statement, ...], roles: dict[str, tuple[Role, ...]]) -> tuple[Review, ...]:
    """Who of them speaks as R4 and who as R8, where they have both roles: the first two, in the order they spoke, who can.

    Raises BadInput if no two of them can.
    """
    for pair in permutations(said, len(Reviewer)):
        if all(Role(role) in roles[one.actor] for role, one in zip(Reviewer, pair, strict=True)):
            return tuple(
                Review(role=role, reviewer=one.actor, comment=one.comment, time=one.time)
                for role, one in zip(Reviewer, pair, strict=True)
            )
    raise BadInput("nobody of those who reviewed can speak as R4, and another as R8: see `kerbwatch people list`")


def _show(known: Golden, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "digest": known.digest,
                "samples": len(known.manifest.records),
                "training_samples": known.training_samples,
                "reviews": known.reviews,
                "made_at": known.made_at,
            }
        )
        return
    typer.echo(f"golden set {known.digest}: {len(known.manifest.records)} of {known.training_samples} samples, all as reviewed")
    for review in known.reviews:
        typer.echo(f"  {review.role} {plain(review.reviewer)}: {plain(review.comment)} ({review.time:%Y-%m-%d %H:%M})")
