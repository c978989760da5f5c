"""How bad an incident is, by a rule that can be read; and whether a step's condition holds.

It decides the severity from kind, context, blast radius and how sure the diagnosis is, and says in words how it came about. It
refuses to grade below what a detector says, and to let something get milder by itself: only people reclassify. Pure.

Source: paper 4.6 (people at risk come before performance), NIST SP 800-61r3 (prioritisation of incidents).
"""

from responders.engine.incident import Incident
from responders.playbooks.playbooks import Condition
from streams.events import Mode, Severity

_ORDER = tuple(Severity)


def at_least(severity: Severity, least: Severity) -> bool:
    """Whether one severity is as bad as another, or worse."""
    return _ORDER.index(severity) >= _ORDER.index(least)


def worse(one: Severity, other: Severity) -> Severity:
    """The worse of two."""
    return max(one, other, key=_ORDER.index)


def grade(incident: Incident) -> tuple[Severity, str]:
    """How bad it is by its playbook's rule, and the rule as it was applied, in words."""
    rule, said = incident.playbook.grading, incident.said
    words = [f"{incident.kind} is at least {rule.base}", f"a detector says {said}"]
    degree = max(_ORDER.index(rule.base), _ORDER.index(said))
    diagnosis = incident.diagnosis
    if diagnosis is not None and diagnosis.cause in rule.harmful and diagnosis.confidence >= rule.sure_from:
        degree = max(degree, _ORDER.index(Severity.HIGH))
        words.append(f"{diagnosis.cause}, {diagnosis.confidence:.0%} sure, is at least {Severity.HIGH}")
    if incident.context in rule.contexts:
        degree += 1
        words.append(f"one worse in {incident.context}")
    if rule.cameras is not None and incident.cameras >= rule.cameras:
        degree += 1
        words.append(f"one worse for {incident.cameras} cameras (from {rule.cameras} on)")
    if diagnosis is not None and rule.doubtful_below is not None and diagnosis.confidence < rule.doubtful_below:
        degree = max(degree - 1, _ORDER.index(said))
        words.append(
            f"{diagnosis.cause} is only {diagnosis.confidence:.0%} sure (below {rule.doubtful_below:.0%}): one milder, but"
        )
        words[-1] += " never below the detector"
    return _ORDER[min(degree, len(_ORDER) - 1)], "; ".join(words)


def holds(condition: Condition | None, incident: Incident) -> bool:
    """Whether everything that a condition names is so."""
    if condition is None:
        return True
    diagnosis = incident.diagnosis
    asked = Mode.SAFE if incident.needs_safe else Mode.NORMAL
    return (
        (condition.at_least is None or at_least(incident.severity, condition.at_least))
        and (condition.below is None or not at_least(incident.severity, condition.below))
        and (not condition.contexts or incident.context in condition.contexts)
        and (not condition.detectors or any(finding.detector in condition.detectors for finding in incident.findings))
        and not any(finding.detector in condition.not_detectors for finding in incident.findings)
        and (not condition.causes or (diagnosis is not None and diagnosis.cause in condition.causes))
        and (condition.confidence is None or (diagnosis is not None and diagnosis.confidence >= condition.confidence))
        and condition.mode in {None, asked}
    )
