"""Whether a model may be named for a role, and which model a roll-back returns to.

It decides that a promotion needs a signature that holds, a passed verdict of the gate for that very context, two people (R3 and
R8), no suspicion and no rollout in service; and that a roll-back takes the last model that served there before, that verifies and
that no open incident suspects: one person may do that, at once, and a candidate in service goes with it. It
refuses everything else, whoever asks. What workers serve is changed by the responder's outbox alone. No topic feeds it.

Source: paper 4.5.3, 4.6 (approval by R3 and R8, immediate roll-back), SC-6.
"""

from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from inference.lifecycle.rules import name_of
from inference.provenance.approvals import Approvals, put_approvals
from inference.provenance.history import suspected
from inference.provenance.lineage import Approval
from inference.provenance.registry import Registry
from inference.provenance.verdicts import Verdict
from infra.db import Sessions, reading
from infra.settings import Settings
from infra.tables import RolloutRow
from responders.engine import assignments
from responders.people.people import roles_of
from responders.people.roles import Role, named
from responders.rollouts.rollout import State
from responders.rollouts.store import Rollouts, rollout_of
from streams.errors import BadInput, KerbwatchError, Tampered, Unavailable
from streams.events import Context, Digest, Mode
from streams.policy import require_passed

_APPROVERS = (Role.DATA_SCIENTIST, Role.SECMLOPS_ENGINEER)
_SHORT = 12


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """A model was named; `before` is the same where nothing is new. `rules` names the verdict's; "" if none was asked.

    `cancelled` is the rollout that a roll-back took out of service, "" if there was none.
    """

    context: Context
    mode: Mode
    digest: Digest
    before: Digest
    decision_id: str
    rules: str = ""
    cancelled: str = ""


def promote(  # noqa: PLR0917 - who, from where, for what
    session: Session,
    registry: Registry,
    settings: Settings,
    digest: str,
    context: Context,
    mode: Mode,
    *,
    by: Sequence[str],
    comment: str,
    now: datetime,
) -> Changed:
    """Name a model for a role, in the session's transaction; workers are told by the outbox.

    Raises:
        BadInput: saying what is missing: the verdict, a person, a comment; or what stands against it.
        Tampered: naming the file that does not hold.
        Unavailable: if there is no such model, or the context has none to follow.
    """
    _said(comment)
    verdict = require_fit(registry, settings, digest, context, mode)
    _approved(session, by)
    _no_rollout(session, context)
    if incidents := suspected(session).get(digest):
        raise BadInput(f"model {digest[:_SHORT]} is suspected in open incident {incidents[0][:8]}: close that first")
    actor, why = ", ".join(dict.fromkeys(by)), f"promoted: {comment}"
    rules = name_of(verdict.settings_digest)
    changed = _named(session, context, mode, digest, actor=actor, why=why, rules=rules, now=now)
    if changed.before != digest:
        what = f"promotion to the {mode} model of {context}"
        said = tuple(
            Approval(actor=name, role=" ".join(roles_of(session, name)), what=what, comment=comment, time=now)
            for name in dict.fromkeys(by)
        )
        put_approvals(registry, Approvals(digest=digest, context=context, approvals=said))
    return changed


def require_fit(registry: Registry, settings: Settings, digest: str, context: Context, mode: Mode) -> Verdict:
    """The verdict by which a model may serve there, if people agree; raises as `promote` does."""
    registry.verify(digest)
    card = registry.card(digest)
    if card.mode is not mode or context not in card.contexts:
        raise BadInput(f"model {digest[:_SHORT]} is a {card.mode} model for {', '.join(card.contexts)}, says its card")
    return require_passed(registry, digest, context, settings)


def vouch(sessions: Sessions, registry: Registry, settings: Settings) -> Callable[[Context, str], None]:
    """What a rollout asks before its candidate becomes the normal model: raises KerbwatchError unless the gate passed it.

    The approvals of that rollout are signed and kept beside the model then.
    """

    def vouched(context: Context, digest: str) -> None:
        require_passed(registry, digest, context, settings)
        with reading(sessions) as session:
            rows = session.scalars(select(RolloutRow).where(RolloutRow.context == context, ~RolloutRow.over)).all()
        for one in (rollout_of(row) for row in rows):
            what = f"rollout {one.id} to the normal model of {context}"
            said = tuple(
                Approval(actor=by.actor, role=by.role, what=what, comment=by.comment, time=by.time) for by in one.approvals
            )
            if one.candidate_digest == digest and said:
                put_approvals(registry, Approvals(digest=digest, context=context, approvals=said))

    return vouched


def rollback(  # noqa: PLR0917 - who, from where, for what
    session: Session,
    rollouts: Rollouts,
    registry: Registry,
    settings: Settings,
    context: Context,
    mode: Mode,
    *,
    actor: str,
    comment: str,
    now: datetime,
    act_id: str,
) -> Changed:
    """Name the newest former model of a role that may be gone back to, in the session's transaction (`act_id`: the signed act).

    A candidate in service leaves, in the same transaction. Where it served cameras beside the normal model, that one is what served
    before it, and stays if it may; a second roll-back goes further.

    Raises BadInput saying why each former model may not, Unavailable if the context has none at all, or the registry is away.
    """
    _said(comment)
    left = rollouts.rolled_back(session, context, act_id, actor, comment, now) if mode is Mode.NORMAL else None
    beside = left is not None and left.state is State.CANARY
    digest, rules = _former(session, registry, settings, context, mode, present=beside)
    changed = _named(session, context, mode, digest, actor=actor, why=f"rolled back: {comment}", rules=rules, now=now)
    if left is None:
        return changed
    before = left.candidate_digest if changed.before == digest else changed.before
    return msgspec.structs.replace(changed, before=before, cancelled=left.id)


def going_back(registry: Registry, settings: Settings) -> Callable[[Session, Context], str]:
    """What a rollout asks for when its candidate goes that was the normal model already: the model that a roll-back would name.

    It raises BadInput saying why each former model may not, Unavailable where that cannot be known now.
    """
    return lambda session, context: _former(session, registry, settings, context, Mode.NORMAL)[0]


def _former(
    session: Session, registry: Registry, settings: Settings, context: Context, mode: Mode, *, present: bool = False
) -> tuple[Digest, str]:
    """The newest former model of a role that may be gone back to, and the rules that it was judged by ("" if shipped).

    With `present` the role's model of now comes before the former ones.
    """
    suspects = suspected(session)
    reasons, away = [], False
    for row in assignments.former(session, context, mode, present=present):
        digest = row.weights_digest
        if incidents := suspects.get(digest):
            reasons.append(f"{digest[:_SHORT]} is suspected in open incident {incidents[0][:8]}")
            continue
        try:
            registry.verify(digest)
            if row.actor == assignments.SETUP:  # shipped models are vouched for by the one who installed kerbwatch
                return digest, ""
            return digest, name_of(require_passed(registry, digest, context, settings).settings_digest)
        except (BadInput, Tampered) as error:
            reasons.append(str(error))
        except (KerbwatchError, OSError) as error:  # it may be there again in a moment
            away = True
            reasons.append(str(error))
    why = f"{context} has no former {mode} model to go back to: {'; '.join(reasons) or 'there was none'}"
    raise Unavailable(f"{why}; try again once the registry is there") if away else BadInput(why)


def _named(
    session: Session, context: Context, mode: Mode, digest: str, *, actor: str, why: str, rules: str, now: datetime
) -> Changed:
    before = assignments.assigned(session, context, mode)
    decision_id = assignments.assign(session, context, mode, digest, actor=actor, why=why, now=now)
    return Changed(context=context, mode=mode, digest=digest, before=before, decision_id=decision_id, rules=rules)


def _said(comment: str) -> None:
    if not comment.strip():
        raise BadInput("a comment that says why is missing (-m)")


def _approved(session: Session, by: Sequence[str]) -> None:
    """Two different people, one for each role that must agree."""
    roles = {name: roles_of(session, name) for name in by}
    data_scientist, engineer = _APPROVERS
    if not any(data_scientist in roles[one] and engineer in roles[other] for one in roles for other in roles if one != other):
        known = "; ".join(f"{name} has {named(has) or 'no role'}" for name, has in roles.items()) or "nobody was named"
        raise BadInput(f"a promotion needs two people, {named(_APPROVERS)}: {known}; see `kerbwatch people list`")


def _no_rollout(session: Session, context: Context) -> None:
    """A rollout compares with the normal model of its start, so nobody changes that under it."""
    in_service = select(RolloutRow.id).where(RolloutRow.context == context, RolloutRow.phase.is_not(None))
    if id_ := session.scalar(in_service):
        raise BadInput(f"rollout {id_[:8]} of {context} is in service: let it end, or `kerbwatch rollouts cancel` it")
