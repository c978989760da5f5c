"""Where people's acts are taken in: is it them, may they, is it fresh, is the second factor right, and is a second person needed.

It decides whether a signed act is admitted, and keeps it, byte for byte with its signature, whether or not something comes of it.
It refuses strangers, wrong signatures, acts without a comment, that are old or were given before, roles that may not, wrong or used
codes; every refusal is an audit entry (who was claimed, what was tried, why not), also one that comes before or after the act is
taken in (`Login` in `login.py` brings it here). What an act means is carried out elsewhere: by `store.py`,
`rollout_store.py`, `review.py`. No topic feeds it.

Source: paper 4.5.5 (access control, authentication), 4.6 (approval by two roles), SC-10; RFC 6238 section 5.2 (a code counts once),
RFC 4226 section 7.3 (throttling).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import exists, func, select, update
from sqlalchemy.orm import Session

from infra import totp
from infra.db import Sessions, writing
from infra.keys import open_sealed
from infra.people_tables import ActRow, PersonKeyRow, PersonRow
from infra.tables import TimelineRow
from responders.engine import outbox
from responders.engine.incident import RESPONDER
from responders.people.access import RULES, TOGETHER, Deed, missing, refusal
from responders.people.acts import Signed, Statement
from responders.people.people import LONGEST_NAME, about_factor, key_of, roles_of
from responders.people.roles import Role
from streams.errors import BadInput, Tampered
from streams.events import event_id

FRESH = timedelta(minutes=2)
"""An act is taken in so long after it was signed, or before, if clocks differ."""
_TRIES = 5
_PAUSE = timedelta(minutes=5)
"""After so many wrong codes in a row no code is looked at for so long (RFC 4226 section 7.3)."""


@dataclass(frozen=True)
class Admitted:
    """An act that was taken in, and the roles its actor had then."""

    id: str
    statement: Statement
    roles: tuple[Role, ...]


@dataclass(frozen=True)
class Agreement:
    """Who has said the same of the same, and the roles that have not; complete if none is missing."""

    people: tuple[str, ...]
    acts: tuple[str, ...]
    missing: tuple[Role, ...]


@dataclass(frozen=True)
class Desk:
    """The desk of one database. `sealing_key` gives what opens second factors (`infra.keys.people_key`), where one is needed."""

    sessions: Sessions
    sealing_key: Callable[[], bytes]

    def admit(self, signed: Signed, code: str | None, now: datetime) -> Admitted:
        """Take an act in, once.

        Raises BadInput saying what is wrong with it, which is on record then; Unavailable where a code cannot be checked here.
        """
        said = signed.statement()
        with writing(self.sessions) as session:
            why = self._fault(session, signed, said, code, now)
            if why:
                _put_refusal_on_record(session, signed, said, why, now)
            else:
                with_code = code is not None and session.get_one(PersonRow, said.actor).totp_sealed is not None
                _keep(session, signed, said, with_code=with_code, now=now)
                roles = roles_of(session, said.actor)
        if why:
            raise BadInput(
                f"{said.actor[:LONGEST_NAME]} may not {said.deed}: {why}. This is on record; see `kerbwatch people list`",
                on_record=True,
            )
        return Admitted(signed.id, said, roles)

    def _fault(self, session: Session, signed: Signed, said: Statement, code: str | None, now: datetime) -> str:
        person = session.scalar(select(PersonRow).where(PersonRow.name == said.actor).with_for_update())
        key = key_of(session, said.actor)
        if person is None or key is None:
            return "is not known here" if person is None else "has no key here: `kerbwatch people add` gives one"
        if not signed.holds(key.public_key):
            return "the act is not signed with their key"
        if abs(now - said.time) > FRESH:
            return f"the act was signed at {said.time:%Y-%m-%d %H:%M:%S} UTC; it counts for {FRESH.seconds} s: sign it again"
        if session.scalar(select(exists().where(ActRow.id == signed.id))):
            return "this very act was given before"
        if not said.comment.strip():
            return "a comment that says why is missing (-m, --comment)"
        return refusal(said.deed, roles_of(session, said.actor)) or self._wrong_code(person, said.deed, code, now)

    def _wrong_code(self, person: PersonRow, deed: Deed, code: str | None, now: datetime) -> str:
        """Why the second factor does not do; "" if it does, or is not needed."""
        if person.totp_sealed is None:
            return "a second factor is needed: set one up with `kerbwatch people enrol`" if RULES[deed].code else ""
        if code is None:
            return "the second factor's six digits are needed (--code)" if RULES[deed].code or deed is Deed.ENROL else ""
        pause_over = person.totp_failed_at is None or now - person.totp_failed_at >= _PAUSE
        if person.totp_failures >= _TRIES and not pause_over:
            return f"{person.totp_failures} codes in a row were wrong: wait {_PAUSE.seconds // 60} minutes"
        try:
            secret = open_sealed(self.sealing_key(), person.totp_sealed, about_factor(person.name))
        except Tampered as error:
            return f"their second factor cannot be checked with this home's keys/people.key: {error}"
        step = totp.matched(secret, code, now, person.totp_step)
        if step is None:
            person.totp_failures, person.totp_failed_at = person.totp_failures + 1, now
            return f"the code is wrong or was used: wait for the next one ({totp.STEP_S} s) and see that the clocks are right"
        person.totp_step, person.totp_failures, person.totp_failed_at = step, 0, None
        return ""


def refuse(session: Session, actor: str, deed: Deed, target: str, *, why: str, now: datetime) -> None:
    """Put on record that somebody wanted what they may not, or what cannot be."""
    id_ = event_id("refusal", actor, deed, target, why, now.isoformat())
    claimed = actor[:LONGEST_NAME] or "nobody"
    outbox.post_audit(session, id_, claimed, "people.refuse", target=target, why=f"{deed}: {why}", now=now)


def _put_refusal_on_record(session: Session, signed: Signed, said: Statement, why: str, now: datetime) -> None:
    refuse(session, said.actor, said.deed, said.target, why=f"{why} (act {signed.id[:8]})", now=now)


def _keep(session: Session, signed: Signed, said: Statement, *, with_code: bool, now: datetime) -> None:
    key = key_of(session, said.actor)
    assert key is not None  # the signature was checked by it
    row = ActRow(
        id=signed.id,
        actor=said.actor,
        deed=said.deed,
        target=said.target,
        time=said.time,
        key_id=key.key_id,
        with_code=with_code,
        body=signed.body,
        signature=signed.signature,
    )
    session.add(row)
    outbox.post_act(session, signed, said, now)


def agreement(session: Session, deed: Deed, target: str, now: datetime) -> Agreement:
    """Whose acts on `target` stand for a deed that needs two people: the last day's, of people who still have role and key.

    What was signed with a former key may be a thief's: who lost a key, or took a new one, says it again. Held until the
    transaction ends, so that two people who finish it at the same moment do it once.
    """
    rows = session.scalars(
        select(ActRow)
        .where(ActRow.deed == deed, ActRow.target == target, ActRow.used_by == "", ActRow.time > now - TOGETHER)
        .order_by(ActRow.number)
        .with_for_update()
    ).all()
    keys = {name: key.key_id for name in {row.actor for row in rows} if (key := key_of(session, name)) is not None}
    rows = [row for row in rows if row.key_id == keys.get(row.actor)]
    together = RULES[deed].together
    voices: Mapping[str, Sequence[Role]] = {row.actor: roles_of(session, row.actor) for row in rows}
    useful = {name: roles for name, roles in voices.items() if set(roles) & set(together)}
    return Agreement(tuple(useful), tuple(row.id for row in rows if row.actor in useful), missing(together, useful))


def roles_behind(session: Session, deed: Deed, target: str, actor: str, at: datetime) -> tuple[Role, ...]:
    """The roles in which an act counts now that was admitted at `at`: the actor's; none where its key is no longer theirs."""
    signed_with = session.scalar(
        select(ActRow.key_id)
        .where(ActRow.actor == actor, ActRow.deed == deed, ActRow.target == target, ActRow.time <= at)
        .order_by(ActRow.number.desc())
        .limit(1)
    )
    key = key_of(session, actor)
    if signed_with is not None and (key is None or key.key_id != signed_with):
        return ()
    return roles_of(session, actor)


def said(session: Session, agreed: Agreement) -> tuple[Statement, ...]:
    """What each of them said, word for word, in the order of their acts."""
    rows = session.scalars(select(ActRow).where(ActRow.id.in_(agreed.acts)).order_by(ActRow.number))
    return tuple(Signed(row.body, row.signature).statement() for row in rows)


def use(session: Session, agreed: Agreement) -> None:
    """These acts have led to what they were for, and count for nothing more."""
    session.execute(update(ActRow).where(ActRow.id.in_(agreed.acts)).values(used_by=agreed.acts[-1]))


_PEOPLES = {
    *("acknowledge", "assign", "snooze", "reclassify", "approve", "reject", "close", "note"),
    *("rollout.request", "rollout.approve", "rollout.rejected", "rollout.cancelled", "rollout.pause", "rollout.resume"),
}
"""What only people write into a timeline, unless the responder does."""


@dataclass(frozen=True)
class Checked:
    """What is on record of people's acts: how many hold, and what is wrong with the others."""

    acts: int
    faults: tuple[str, ...]


def check(session: Session) -> Checked:
    """Check every kept act against the key that its actor had then, and that timelines tell of no act that nobody signed so."""
    keys = {row.key_id: row for row in session.scalars(select(PersonKeyRow))}
    faults, count = [], 0
    for row in session.scalars(select(ActRow).order_by(ActRow.number)):
        count += 1
        if fault := _wrong_with(row, keys.get(row.key_id)):
            faults.append(f"act {row.id[:8]} ({row.actor}, {row.deed}): {fault}")
    return Checked(count, (*faults, *_unsigned(session), *_misread(session)))


def _unsigned(session: Session) -> list[str]:
    """What timelines say that people did since the first of them had a key, without an act to show for it."""
    first = session.scalar(select(func.min(PersonKeyRow.since)))
    if first is None:
        return []
    rows = session.execute(
        select(TimelineRow.actor, TimelineRow.action, TimelineRow.incident_id)
        .where(TimelineRow.action.in_(_PEOPLES), TimelineRow.actor != RESPONDER, TimelineRow.time >= first)
        .where(~exists().where(ActRow.id == TimelineRow.cause_id, ActRow.actor == TimelineRow.actor))
        .order_by(TimelineRow.number)
    )
    return [f"incident {row.incident_id[:8]}: {row.action} by {row.actor} was signed by nobody" for row in rows]


def _misread(session: Session) -> list[str]:
    """Approvals on a timeline whose person signed for another step; acts of earlier versions name no step."""
    rows = session.execute(
        select(TimelineRow.what, TimelineRow.incident_id, ActRow)
        .join(ActRow, ActRow.id == TimelineRow.cause_id)
        .where(TimelineRow.action == "approve", ActRow.deed == Deed.APPROVE_STEP)
        .order_by(TimelineRow.number)
    )
    signed = ((what, id_, act, dict(Signed(act.body, act.signature).statement().details).get("step")) for what, id_, act in rows)
    return [
        f"incident {id_[:8]}: {act.actor} signed for step {step}, and it says {what[:64]!r}"
        for what, id_, act, step in signed
        if step is not None and not what.startswith(f"{step}:")
    ]


def _wrong_with(row: ActRow, key: PersonKeyRow | None) -> str:
    signed = Signed(row.body, row.signature)
    if key is None or key.name != row.actor:
        return f"key {row.key_id[:12]} is not on record as theirs"
    if not signed.holds(key.public_key):
        return "its signature does not hold"
    said = signed.statement()
    if (signed.id, said.actor, said.deed, said.target, said.time) != (row.id, row.actor, row.deed, row.target, row.time):
        return "its row says something else than what was signed"
    if row.time < key.since - FRESH or (key.until is not None and row.time > key.until + FRESH):
        return "it was signed outside the time of its key"
    return ""
