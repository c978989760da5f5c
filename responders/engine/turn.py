"""One happening's turn: the incident as it moves, and the decisions on the way. The hands of `deciding.py` and `calling.py`.

It decides nothing; it refuses to make a decision without an id that is the same at every replay. Pure. No topic feeds it.
"""

from datetime import datetime

from msgspec.structs import replace

from responders.engine.incident import RESPONDER, Decision, Ended, Incident, Outcome, Page, Record, Serve, SetAside
from responders.engine.windows import missing
from responders.people.roles import Role, named
from responders.playbooks.playbooks import Action
from streams.events import Mode, event_id


class Turn:
    """An incident in the hand, at a moment, and as it was `before`. `urgent` is why people are to be called now, "" for none."""

    def __init__(self, incident: Incident, now: datetime) -> None:
        self.incident = self.before = incident
        self.now = now
        self.urgent = ""
        self.decisions: list[Decision] = []

    def _next_id(self) -> str:
        number = self.incident.decided
        self.incident = replace(self.incident, decided=number + 1)
        return event_id("decision", self.incident.id, self.incident.step.name, number)

    def go(self, position: int) -> None:
        """Stand at another step."""
        arrivals = self.incident.arrivals + 1
        self.incident = replace(self.incident, position=position, since=None, overdue=False, tries=0, voices=(), arrivals=arrivals)

    def end(self, outcome: Outcome) -> None:
        """The step is over; stand at the next one."""
        self.note(self.incident.step.name, outcome)
        self.go(self.incident.position + 1)

    def leave_out(self, outcome: Outcome = Outcome.SKIPPED) -> None:
        """The step is not done; nor are the reports awaited of a mode that was never asked for."""
        serves = self.incident.step.action is Action.SERVE
        for _ in range(2 if serves else 1):
            step = self.incident.step
            if not self.incident.did(step.name):
                self.note(step.name, outcome)
            self.go(self.incident.position + 1)

    def skip_to(self, position: int, here: Outcome = Outcome.SKIPPED) -> None:
        """Stand at a later step; that where it stood ends as `here`, those between are not done."""
        for n, step in enumerate(self.incident.playbook.steps[self.incident.position : position]):
            if not self.incident.did(step.name):
                self.note(step.name, here if n == 0 else Outcome.SKIPPED)
        self.go(position)

    def go_back(self, name: str, why: str) -> None:
        """Begin again from an earlier step; too often, and only people may let it go on from there."""
        self.incident = replace(self.incident, relapses=self.incident.relapses + 1)
        self.go(self.incident.playbook.position(name))
        self.record("relapse", f"{why}, time {self.incident.relapses}")
        if self.incident.held:
            self.hold()

    def hold(self) -> None:
        """The safe model is not left without people any more."""
        self.escalate(f"came back {self.incident.relapses} times: safe mode stays until a human closes the incident")

    def fail(self, why: str) -> None:
        """The step has failed: go where it says. What people were to do is not done and stays to be done; else it is left out."""
        step, here = self.incident.step, self.incident.position
        if step.on_failure is None:
            if step.action is not Action.MANUAL:
                self.leave_out(Outcome.FAILURE)
                return
            self.go(here)
            self.escalate(f"{why}: the incident stays at {step.name} until it is approved by {named(step.approval)}")
            return
        position = self.incident.playbook.position(step.on_failure)
        self.end(Outcome.FAILURE)
        if position > here:
            self.skip_to(position)
        else:
            self.go_back(step.on_failure, why)

    def note(self, step: str, outcome: Outcome) -> None:
        """How a step ended."""
        self.incident = replace(self.incident, ended=(*self.incident.ended, Ended(step, outcome, self.now)))

    def record(self, action: str, what: str, actor: str = RESPONDER) -> None:
        """Put something on record."""
        self.decisions.append(Record(self._next_id(), self.incident.state, actor, action, what))

    def escalate(self, why: str) -> None:
        """People must look."""
        self.incident = replace(self.incident, escalated=why)
        self.urgent = why
        self.record("escalate", why)

    def page(self, role: Role, why: str) -> None:
        """Call people with a role."""
        self.incident = replace(self.incident, pages=self.incident.pages + 1)
        self.decisions.append(Page(self._next_id(), self.incident.state, role, self.incident.pages, why))

    def set_aside(self) -> None:
        """Order what is suspicious and not yet ordered."""
        for window in missing(self.incident.seen, self.incident.covered):
            what = f"frames {window.first_sequence} to {window.last_sequence} (epoch {window.epoch}) go to quarantine"
            self.decisions.append(SetAside(self._next_id(), self.incident.state, window, what))
        self.incident = replace(self.incident, covered=self.incident.seen)

    def serve(self, mode: Mode, *, again: bool = False) -> None:
        """Ask for a mode; what that takes back is undone from then on."""
        undone = self.incident.playbook.undone_by(self.incident.step.name)
        if undone is not None and self.incident.did(undone.name):
            self.note(undone.name, Outcome.UNDONE)
        self.incident = replace(self.incident, needs_safe=mode is Mode.SAFE)
        what = f"{self.incident.context} is to be served by its {mode} model"
        if again:
            what += ", asked again: not every live worker has reported it"
        self.decisions.append(Serve(self._next_id(), self.incident.state, mode, what, again=again))
