"""What a run's vetting held back, brought to people: sealed, listed for review, and an incident where that is more than usual.

It decides nothing about how much is too much (`inference.lifecycle.vetting_alarm`) or what follows (the poisoning playbook). The
signal is taken in by the incident store at once, as a scheduled check's is, so that the incident stands before anything is trained.
No topic feeds it: `kerbwatch retrain` and the drill do.

Source: paper 4.6 (automatic quarantine and manual review by R4 and R8).
"""

from datetime import datetime

from sqlalchemy import select

from inference.lifecycle import vetting_alarm
from inference.lifecycle.collect import Vetting
from inference.lifecycle.held import hold
from infra.db import reading
from infra.settings import Settings
from infra.tables import IncidentRow
from responders.engine.store import Store
from responders.playbooks.playbooks import State
from streams.events import Context, Kind


def bring(settings: Settings, store: Store, run: str, context: Context, vetting: Vetting, *, now: datetime) -> str:
    """Seal what was held back and open an incident if that is more than usual; its id, "" for none. Harmless to repeat.

    Raises Unavailable without database or disk.
    """
    signal = vetting_alarm.found(run, context, vetting.offered, vetting.findings, now)
    incident = ""
    if signal is not None:
        accepted = store.accept(signal, now)
        incident = accepted.incident_ids[0] if accepted.incident_ids else _standing(store, context)
    hold(settings, vetting.refused, vetting.findings, now, incident)
    return incident


def _standing(store: Store, context: Context) -> str:
    """The open incident about this context's training data: the signal came before, from a run that was killed since."""
    here = (IncidentRow.camera_id == vetting_alarm.DATA, IncidentRow.context == context, IncidentRow.kind == Kind.POISONING)
    with reading(store.sessions) as session:
        return session.scalar(select(IncidentRow.id).where(*here, IncidentRow.state != State.CLOSED)) or ""
