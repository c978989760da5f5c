"""Whether an incident's acts and timeline are those that the audit log tells of, and a bundle's log that of checkpoints elsewhere.

It decides what differs, from a bundle's own members alone, so that whoever seals and whoever checks years later ask the same. It
refuses nothing: it names what differs. Times and states of a timeline are not held against the log, which does not have them. Pure;
no topic feeds it.

Source: paper 4.7 (evidence preservation), SC-10 (audit trails); RFC 6962 section 2.1.2 (consistency).
"""

import base64
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from infra.checkpoints import Checkpoint
from infra.merkle import consistent
from responders.engine.records import Change
from responders.people.acts import Signed
from responders.proof.signers import Signers
from streams import codec
from streams.errors import BadInput
from streams.events import AuditEntry
from streams.topics import AUDIT

ABOUT_ENTRIES = "audit/"
"""How the targets of acts begin that are about entries of the log itself."""
_HELD = " (held: another incident of this context needs the safe model)"
"""What `responders.engine.store` adds in the timeline alone."""
_LONGEST = 80


@dataclass(frozen=True)
class Kept:
    """An act as the tables have it, and the public key (32 bytes) that they call its person's."""

    act: Signed
    public: bytes


@dataclass(frozen=True)
class Log:
    """What the log tells: entries by number, and those that were sent and are not in it yet; each byte for byte."""

    entries: Mapping[int, bytes]
    waiting: Sequence[bytes] = ()

    def read(self) -> Iterator[tuple[str, AuditEntry]]:
        """Every entry that can be read, and where it stands."""
        places = [(f"audit entry {number}", body) for number, body in self.entries.items()]
        for place, body in (*places, *(("an entry on its way into the log", body) for body in self.waiting)):
            try:
                yield place, codec.decode(body, AUDIT, AuditEntry).event
            except BadInput:  # `Signers` names it
                continue


def differences(log: Log, acts: Sequence[Kept], timeline: Sequence[Change]) -> tuple[str, ...]:
    """What the log, the acts and the timeline of an incident say differently; nothing where they agree."""
    told = list(log.read())
    signers = Signers()
    for number, body in log.entries.items():
        signers.hear(number, body)
    for body in log.waiting:
        _learn(signers, body)
    return (*signers.judged().faults, *_acts(told, acts), *_timeline(told, timeline))


def _learn(signers: Signers, body: bytes) -> None:
    try:
        signers.learn(codec.decode(body, AUDIT, AuditEntry).event)
    except BadInput:
        return


def _acts(told: Sequence[tuple[str, AuditEntry]], acts: Sequence[Kept]) -> Iterator[str]:
    logged = {
        entry.cause_id: (place, entry) for place, entry in told if entry.signed and not entry.target.startswith(ABOUT_ENTRIES)
    }
    kept = {one.act.id: one for one in acts}
    for id_, (place, entry) in logged.items():
        if id_ not in kept:
            yield f"act {id_[:8]} by {entry.actor} is in the log ({place}), and not among the acts: it was taken away"
    for id_, one in kept.items():
        if not one.act.holds(one.public):
            yield f"act {id_[:8]} does not bear the signature of the key that is kept with it"
        if id_ not in logged:
            yield f"act {id_[:8]} is among the acts, and the log never told of it"
        elif base64.b64encode(one.act.signature).decode() != logged[id_][1].signature:
            yield f"act {id_[:8]} bears another signature than in the log ({logged[id_][0]})"


def _timeline(told: Sequence[tuple[str, AuditEntry]], timeline: Sequence[Change]) -> Iterator[str]:
    said = [
        ((entry.actor, entry.action.removeprefix("incident."), entry.why.removesuffix(_HELD), entry.cause_id), place)
        for place, entry in told
        if entry.action.startswith(("incident.", "rollout."))
    ]
    left = Counter((one.actor, one.action, one.what.removesuffix(_HELD), one.cause_id) for one in timeline)
    for line, place in said:
        if left[line]:
            left[line] -= 1
        else:
            yield f"the log tells of {_short(line)} ({place}), and the timeline does not: a line was taken away or reworded"
    for line in left.elements():
        yield f"the timeline tells of {_short(line)}, and the log never did: a line was added or reworded"


def _short(line: tuple[str, str, str, str]) -> str:
    actor, action, what, _ = line
    return f"{action!r} by {actor}: {what[:_LONGEST]!r}"


@dataclass(frozen=True)
class Agreement:
    """How a checkpoint stands to others: with how many it agrees, how many nothing can be said of, and which it contradicts."""

    agreed: int
    unknown: int
    faults: tuple[str, ...]


def agreement(signed: Checkpoint, growth: Mapping[int, Sequence[bytes]], others: Sequence[Checkpoint]) -> Agreement:
    """Hold a checkpoint against others; `growth` has, by size, what proves that an older log was the beginning of this one."""
    agreed, unknown, faults = 0, 0, list[str]()
    for other in others:
        if other.size > signed.size or (other.size < signed.size and other.size not in growth):
            unknown += 1
            continue
        path = growth.get(other.size, ()) if other.size < signed.size else ()
        if consistent((other.size, other.root), (signed.size, signed.root), path):
            agreed += 1
        else:
            faults.append(
                f"the log of {signed.size} entries that this checkpoint signs is not the one that another signs over {other.size}: "
                "history was rewritten; keep both"
            )
    return Agreement(agreed, unknown, tuple(faults))
