"""What is left to do when an incident turns out to be of another kind.

It decides the new plan: the other kind's playbook from its beginning, without what people have done already. It refuses to undo
anything silently: what was done and has an undo in neither plan keeps that undo, right before the end; and what people have to do
before a suspected model may come back stays to be done, unless the new plan asks people too. Pure. No topic feeds it.

Source: NIST SP 800-61r3 (RS.AN, analysis changes the response); paper 4.6 (safe mode is left in the closed loop).
"""

from msgspec.structs import replace

from responders.engine.incident import Ended, Incident, Outcome
from responders.playbooks.playbooks import Action, Playbook, Step
from streams.events import Mode

_KEPT = "_kept"


def replanned(incident: Incident, plan: Playbook) -> Incident:
    """The incident held for `plan.kind` from now on, standing at the first step that is left."""
    needed = {plan.on_relapse, plan.on_human_close, *(name for step in plan.steps for name in (step.undo, step.on_failure))}
    steps = tuple(
        step
        for step in plan.steps
        if step.action is not Action.AWAIT_ONSET
        and not (step.action is Action.MANUAL and step.name not in needed and incident.did(step.name))
    )
    ended = incident.ended
    plan = replace(plan, steps=steps)
    if incident.needs_safe:
        own = next((step for step in steps if step.action is Action.SERVE and step.mode is Mode.SAFE), None)
        if own is not None:
            at = incident.ended[-1].at if incident.ended else incident.detected_at
            ended = (*ended, Ended(own.name, Outcome.SUCCESS, at))
        else:
            plan = _with_undo(plan, incident.playbook)
        if own is None or all(step.action is not Action.MANUAL for step in steps):
            plan = _with_owed(plan, incident.owed)
    return replace(
        incident, kind=plan.kind, raised_as=incident.raised_as or incident.kind, playbook=plan, ended=ended,
        position=0, since=None, overdue=False, tries=0, voices=(), arrivals=incident.arrivals + 1, resolution=None,
    )  # fmt: skip


def _with_undo(plan: Playbook, before: Playbook) -> Playbook:
    """A plan that serves no safe mode, and at its end the steps of the one before that go back to the normal one."""
    start = max(n for n, step in enumerate(before.steps) if step.action is Action.SERVE and step.mode is Mode.NORMAL)
    taken = {step.name for step in plan.steps}
    kept = tuple(_kept(step, taken) for step in before.steps[start : start + 2])
    return replace(plan, steps=(*plan.steps[:-1], *kept, plan.steps[-1]), on_human_close=kept[0].name)


def _with_owed(plan: Playbook, owed: tuple[Step, ...]) -> Playbook:
    """A plan that goes back to the normal model only once people have done what the one before asked of them."""
    start = max(n for n, step in enumerate(plan.steps) if step.action is Action.SERVE and step.mode is Mode.NORMAL)
    taken = {step.name for step in plan.steps}
    return replace(plan, steps=(*plan.steps[:start], *(_kept(step, taken) for step in owed), *plan.steps[start:]))


def _kept(step: Step, taken: set[str]) -> Step:
    name = step.name if step.name not in taken else step.name[: 32 - len(_KEPT)] + _KEPT
    return replace(step, name=name, undo=None, on_failure=None)
