"""Nobody is called for nothing, and nobody is left uncalled: chains that ended in vain or by an acknowledgement begin anew."""

from incident_events import act, at, signal
from msgspec.structs import replace

from responders.engine.deciding import decide, evolve
from responders.engine.incident import Happening, Incident, Page, Tick, Verb, opened
from responders.people.roles import Role
from responders.playbooks import playbooks
from responders.playbooks.playbooks import State
from streams.events import Context, Kind, Mode, Phase, Severity, Signal

EVASION = playbooks.load()[Kind.EVASION]


def tick(seconds: float, asked: Mode = Mode.SAFE, *, reported: bool = True) -> Tick:
    return Tick(at(seconds), asked, ("w1",), ("w1",) if reported else ())


def told(incident: Incident, *events: Happening) -> tuple[Incident, list[Role]]:
    """The incident after these events, and who was called on the way."""
    called = []
    for event in events:
        called += [decision.role for decision in decide(incident, event) if isinstance(decision, Page)]
        incident = evolve(incident, event)
    return incident, called


def play(first: Signal, *events: Happening) -> tuple[Incident, list[Role]]:
    return told(opened(first, EVASION), first, *events)


RAISED = signal(Phase.RAISED, 1, 5)
IN_VAIN = [tick(seconds) for seconds in range(4, 1000, 20)]
"""Contained at once, and the whole chain called by the 905th second."""
FIRST, CHAIN = Role.SECMLOPS_ENGINEER, [Role.SECMLOPS_ENGINEER, Role.MLOPS_ENGINEER, Role.DEVOPS_ENGINEER]
BACK = (signal(Phase.CALM, 6, 10), tick(1010), tick(1011, Mode.NORMAL, reported=False), signal(Phase.RAISED, 11, 12))


def test_a_chain_that_was_called_in_vain_is_silent_for_as_long_as_nothing_is_new() -> None:
    incident, called = play(RAISED, *IN_VAIN)
    assert (called, "nobody acknowledged" in incident.escalated) == (CHAIN, True)
    assert told(incident, signal(Phase.ONGOING, 6, 9), *(tick(seconds) for seconds in range(1000, 1700, 20)))[1] == []


def test_a_chain_that_was_called_in_vain_begins_anew_when_the_attack_comes_back() -> None:
    """Safe mode that is not reported after the relapse calls once more, and the next roles follow."""
    incident, _ = play(RAISED, *IN_VAIN)
    incident, called = told(incident, *BACK)
    assert (called, incident.state) == ([FIRST], State.CONTAINING)
    late = [tick(seconds, reported=False) for seconds in range(1020, 2200, 10)]
    assert told(incident, *late)[1] == [FIRST, *CHAIN[1:]]


def test_a_chain_that_was_called_in_vain_begins_anew_when_a_step_is_late_or_it_gets_worse() -> None:
    highway = Context.HIGHWAY
    incident, _ = play(signal(Phase.RAISED, 1, 5, context=highway), *IN_VAIN)
    assert told(incident, tick(4 + 1800), tick(4 + 1810))[1] == [FIRST]
    assert incident.severity is Severity.HIGH
    assert told(incident, signal(Phase.ONGOING, 6, 9, context=highway, severity=Severity.CRITICAL))[1] == [FIRST]


def test_an_acknowledged_incident_calls_again_only_when_it_comes_back() -> None:
    at_once, _ = play(RAISED, act(Verb.ACKNOWLEDGE, "x", 3), *IN_VAIN)
    in_the_end, _ = play(RAISED, *IN_VAIN, act(Verb.ACKNOWLEDGE, "x", 999))
    for incident in (at_once, in_the_end):
        assert told(incident, signal(Phase.ONGOING, 6, 9, severity=Severity.CRITICAL), tick(4 + 1800))[1] == []
        assert told(incident, *BACK)[1] == [FIRST]


def test_what_was_called_in_vain_before_that_was_told_apart_begins_anew_as_well() -> None:
    incident, _ = play(RAISED, *IN_VAIN)
    before = replace(incident, exhausted=False, quiet=True)
    assert told(before, *BACK)[1] == [FIRST]
