"""What Prometheus is told of rollouts: where each context's newest one is, what its candidate serves, has shown and is held to.

It decides what of a rollout is worth a curve; it refuses to judge: limits and figures are those that `rollout.py` decides by. The
database feeds it, tick by tick, as the responder reads it anyway.

Source: paper 4.6 (staged deployment with performance validation at each stage), 4.7 (what is monitored).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from infra.metrics import (
    DIGEST_CHARS,
    RETRAINING_LEFT,
    ROLLOUT,
    ROLLOUT_FRAMES,
    ROLLOUT_LIMIT,
    ROLLOUT_SHARE,
    ROLLOUT_WANTED,
    Metrics,
)
from infra.tables import RolloutRow
from responders.rollouts.comparison import Tally
from responders.rollouts.rollout import OVER, Rollout, State
from responders.rollouts.store import rollout_of, tally_of
from streams.events import Context

_FIGURES = ("agreement", "people", "latency")
"""What of `responders.rollouts.comparison.Limits` has a curve to be held against."""


@dataclass(frozen=True)
class Newest:
    """A context's newest rollout, over or not, and what live frames say of its candidate since it is known."""

    rollout: Rollout
    tally: Tally


def newest(session: Session) -> tuple[Newest, ...]:
    """One per context that ever had a rollout."""
    found = []
    for context in Context:
        asked = select(RolloutRow).where(RolloutRow.context == context).order_by(RolloutRow.requested_at.desc(), RolloutRow.id)
        if (row := session.scalar(asked.limit(1))) is not None:
            rollout = rollout_of(row)
            found.append(Newest(rollout, tally_of(session, rollout)))
    return tuple(found)


def show(metrics: Metrics, rollouts: Iterable[Newest]) -> None:
    """Set the gauges of rollouts; what is over keeps its last state and loses all numbers."""
    known = tuple(rollouts)
    under_way = [one.rollout for one in known if one.rollout.state not in OVER]
    weighed = [one for one in known if one.rollout.state in (State.SHADOW, State.CANARY)]
    limits = [(one.rollout.context, name, getattr(one.rollout.limits, name)) for one in weighed for name in _FIGURES]
    metrics.only(ROLLOUT, {(one.context, one.state, one.candidate_digest[:DIGEST_CHARS]): 1 for one in (k.rollout for k in known)})
    metrics.only(ROLLOUT_SHARE, {(one.context,): 1.0 if one.state is State.FULL else one.share for one in under_way})
    metrics.only(ROLLOUT_FRAMES, {(one.rollout.context,): _proof(one)[0] for one in weighed})
    metrics.only(ROLLOUT_WANTED, {(one.rollout.context,): _proof(one)[1] for one in weighed})
    metrics.only(ROLLOUT_LIMIT, {(context, name): limit for context, name, limit in limits})
    metrics.only(RETRAINING_LEFT, {(one.context,): one.left_s for one in under_way if one.state is State.TRAINING})


def _proof(one: Newest) -> tuple[int, int]:
    """Frames that speak of the candidate in this step, and how many the step asks for; none count before the workers obey it."""
    rollout, limits = one.rollout, one.rollout.limits
    seen = one.tally.since(rollout.base) if rollout.reported else Tally()
    return (seen.compared, limits.compared) if rollout.state is State.SHADOW else (seen.served, limits.served)
