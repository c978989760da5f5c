"""What people decide about training samples that vetting held back: let them be trained on, or have them destroyed.

It decides which samples a review is about, draws one for people, and carries out what two of them agreed on
(`responders.people.desk`); it refuses while the incident that its run opened is not closed, because they are its evidence. No topic
feeds it: `kerbwatch quarantine release|discard|show` does.

Source: paper 4.6 (manual review by R4 and R8), 4.7 (evidence preservation).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec
from sqlalchemy.orm import Session

from inference.lifecycle.findings import Finding
from inference.lifecycle.held import Held, Standing, find_held, held, open_held, settle_held
from infra.files import write_whole
from infra.settings import Settings
from infra.tables import IncidentRow
from responders.engine import outbox, records
from responders.people.access import Deed
from responders.playbooks.playbooks import State
from responders.quarantine import contact_sheet
from streams.errors import BadInput
from streams.events import Box, event_id

_SHORT = 12


@dataclass(frozen=True)
class Chosen:
    """Samples that a review is about; `target` names exactly these, so that two people cannot mean different ones."""

    incident_id: str
    samples: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many."""
        return len(self.samples)

    @property
    def target(self) -> str:
        """The incident, if one held them back, and the content address of the samples' ids."""
        return f"{self.incident_id or 'vetting'}/{event_id('samples', *self.samples)}"


class ShownSample(msgspec.Struct, frozen=True, kw_only=True):
    """What `show` found of a sample; `people` are its labels that count."""

    sample: str
    incident_id: str
    pool: str
    name: str
    people: int
    findings: tuple[Finding, ...]
    picture: str


def named(settings: Settings, text: str) -> Held:
    """The sample whose id is `text` or begins so. Raises BadInput, with the nearest that waits, if there is none."""
    one = find_held(settings, text)
    if one is None:
        waiting = [other.id[:_SHORT] for other in held(settings) if other.standing is Standing.SEALED]
        hint = records.nearest(text.strip().lower(), waiting) or "see `kerbwatch quarantine list`"
        raise BadInput(f"no sample {text[:80]!r} is held back; {hint}")
    return one


def chosen(session: Session, settings: Settings, incident: str | None, sample: str | None) -> Chosen | None:
    """The samples that wait, of an incident or that one; None where the incident held none back.

    Raises BadInput if there is no such sample, or its incident is not closed.
    """
    if sample is not None:
        one = named(settings, sample)
        if one.standing is not Standing.SEALED:
            raise BadInput(
                f"sample {one.id[:_SHORT]} was {one.standing} by {one.reviewed_by}; see `kerbwatch quarantine list --all`"
            )
        found = [one]
    else:
        incident_id = records.find(session, incident or "")
        found = [one for one in held(settings) if one.incident == incident_id and one.standing is Standing.SEALED]
        if not found:
            return None
    row = session.get(IncidentRow, found[0].incident) if found[0].incident else None
    if row is not None and row.state != State.CLOSED:
        raise BadInput(f"incident {row.id[:8]} is {row.state} and needs these samples as evidence: close it first")
    return Chosen(found[0].incident, tuple(sorted(one.id for one in found)))


def settle(session: Session, settings: Settings, about: Chosen, deed: Deed, by: Sequence[str], why: str, now: datetime) -> None:  # noqa: PLR0917 - who decided what, when and why
    """Release or discard the samples, with an audit entry in the session's transaction."""
    standing = Standing.RELEASED if deed is Deed.RELEASE else Standing.DISCARDED
    people = ", ".join(by)
    settle_held(settings, about.samples, standing, people, now)
    few = ", ".join(one[:12] for one in about.samples[:5])
    what = f"{about.count} training samples {standing} ({few}{', ...' if about.count > 5 else ''}): {why}"  # noqa: PLR2004 - as many as are named
    id_ = event_id("review", deed, about.target, now.isoformat())
    outbox.post_audit(session, id_, people, f"quarantine.{deed}", target=about.target, why=what, now=now)


def drawn(settings: Settings, one: Held, path: Path) -> ShownSample:
    """Write the sample with its labels (mode 0600: it shows people); those that a finding is about are drawn with its score.

    Raises Unavailable if it was discarded, Tampered if it was touched.
    """
    sample = open_held(settings, one.id)
    scores: dict[int, float] = {}
    for finding in one.findings:
        if finding.label is not None:
            scores[finding.label] = max(scores.get(finding.label, 0.0), finding.score)
    sides = [(person.box_px, scores.get(at)) for at, person in enumerate(sample.people) if person.box_px[2] > 0]
    doubted = tuple(Box(*box, score) for box, score in sides if score is not None)
    plain = tuple(Box(*box, 0.0) for box, score in sides if score is None)
    panels = [
        (f"{len(plain)} labels that nothing speaks against", contact_sheet.with_boxes(sample.picture, plain)),
        (f"{len(doubted)} labels with a finding, and how bad it is", contact_sheet.with_boxes(sample.picture, doubted)),
    ]
    write_whole(path.resolve(), contact_sheet.sheet(panels))
    return ShownSample(
        sample=one.id,
        incident_id=one.incident,
        pool=one.pool,
        name=one.name,
        people=sum(not person.ignore for person in sample.people),
        findings=one.findings,
        picture=str(path),
    )
