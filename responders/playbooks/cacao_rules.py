"""What CACAO 2.0 demands of a playbook, as checks that name the section.

It decides whether a playbook object keeps to the standard, as far as that can be checked without knowing the commands, and names
each fault with its place and section. It refuses to guess: properties that the standard does not know are faults. Pure.

Source: OASIS CACAO Security Playbooks 2.0 (27 November 2023): 3.1 metadata, 4.1 common properties of steps, 4.3 start, 4.4 end,
4.5 action, 4.8 if-condition, 5 commands, 7 agents and targets, 8 extensions, 10.10 identifiers, 10.18 variables.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

Json = Mapping[str, Any]
Fault = str

_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-([1-5])[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
_ID = re.compile(rf"([a-z][a-z0-9-]+[a-z0-9])--({_UUID})", re.IGNORECASE)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_VARIABLE = re.compile(r"__[a-zA-Z][a-zA-Z0-9_-]{0,198}__")
_REQUIRED = ("type", "spec_version", "id", "name", "created_by", "created", "modified", "workflow_start", "workflow")
_KNOWN = {
    *_REQUIRED, "description", "playbook_types", "playbook_activities", "playbook_processing_summary", "revoked", "valid_from",
    "valid_until", "derived_from", "related_to", "priority", "severity", "impact", "industry_sectors", "labels",
    "external_references", "markings", "playbook_variables", "workflow_exception", "playbook_extensions",
    "authentication_info_definitions", "agent_definitions", "target_definitions", "extension_definitions",
    "data_marking_definitions", "signatures",
}  # fmt: skip
_COMMON = {
    "type", "name", "description", "external_references", "delay", "timeout", "step_variables", "owner", "on_completion",
    "on_success", "on_failure", "step_extensions",
}  # fmt: skip
_STEPS: Mapping[str, tuple[set[str], set[str]]] = {
    "start": (set(), set()),
    "end": (set(), set()),
    "action": ({"commands", "agent"}, {"targets", "in_args", "out_args"}),
    "if-condition": ({"condition", "on_true"}, {"on_false"}),
    "while-condition": ({"condition", "on_true"}, set()),
    "switch-condition": ({"switch", "cases"}, set()),
    "parallel": ({"next_steps"}, set()),
    "playbook-action": ({"playbook_id"}, {"playbook_version", "in_args", "out_args"}),
}
"""What each type of step must and may have besides the common properties (4.3 to 4.10)."""
_WAYS = ("on_completion", "on_success", "on_failure", "on_true", "on_false")


def faults(playbook: object) -> list[Fault]:
    """Everything that does not keep to the standard; empty for a playbook that does."""
    if not isinstance(playbook, Mapping):
        return ["3.1 a playbook is a JSON object"]
    lacking = [f"3.1 {name}: missing" for name in _REQUIRED if name not in playbook]
    if lacking or not isinstance(playbook["workflow"], Mapping):
        return lacking or ["3.1 workflow: no object"]
    return [*_metadata(playbook), *_summaries(playbook), *_identifiers(playbook), *_steps(playbook), *_reachable(playbook)]


def _metadata(book: Json) -> Iterator[Fault]:
    yield from (f"3.1 {name}: the standard knows no such property" for name in book if name not in _KNOWN)
    for name, only in (("type", "playbook"), ("spec_version", "cacao-2.0")):
        if book[name] != only:
            yield f"3.1 {name}: must be {only}"
    for name in ("created", "modified"):
        if not _TIME.fullmatch(str(book[name])):
            yield f"3.1 {name}: must be UTC with exactly three decimals, ending in Z"
    if str(book["modified"]) < str(book["created"]):
        yield "3.1 modified: earlier than created"
    for name in ("severity", "priority", "impact"):
        if name in book and not (isinstance(book[name], int) and 0 <= book[name] <= 100):  # noqa: PLR2004 - the standard's range
            yield f"3.1 {name}: must be a whole number from 0 to 100"
    for name in book.get("playbook_variables", {}):
        if not _VARIABLE.fullmatch(name):
            yield f"10.18 playbook_variables: {name} is no variable's name"


def _summaries(book: Json) -> Iterator[Fault]:
    """What the metadata says of the workflow."""
    if book.get("playbook_types") and not book.get("playbook_activities"):
        yield "3.1 playbook_activities: at least one is needed where playbook_types are given"
    done = {command.get("playbook_activity") for step in book["workflow"].values() for command in step.get("commands", ())}
    for activity in book.get("playbook_activities", ()):
        if activity not in done:
            yield f"3.1 playbook_activities: no step does {activity}"
    types = [step.get("type") for step in book["workflow"].values()]
    for needed in ("start", "action", "end"):
        if needed not in types and (needed != "action" or "playbook-action" not in types):
            yield f"3.1 workflow: has no {needed} step"
    start = book["workflow"].get(book["workflow_start"])
    if start is None or start.get("type") != "start":
        yield "3.1 workflow_start: names no start step of the workflow"
    if "workflow_exception" in book and book["workflow_exception"] not in book["workflow"]:
        yield "3.1 workflow_exception: names no step of the workflow"


def _identifiers(book: Json) -> Iterator[Fault]:
    dictionaries = ("workflow", "agent_definitions", "target_definitions", "extension_definitions")
    objects = {key: value for name in dictionaries for key, value in book.get(name, {}).items()}
    seen: dict[str, str] = {}
    for id_, type_ in [
        (book["id"], "playbook"),
        (book["created_by"], "identity"),
        *((k, v.get("type")) for k, v in objects.items()),
    ]:
        match = _ID.fullmatch(str(id_))
        if match is None or match[1] != type_:
            yield f"10.10 {id_}: must be {type_}--UUID"
            continue
        if id_ in book["workflow"] and match[3] != "4":
            yield f"10.10 {id_}: steps must have a UUID of version 4"
        if seen.setdefault(match[2], id_) != id_:
            yield f"10.10 {id_}: its UUID is {seen[match[2]]}'s already"


def _steps(book: Json) -> Iterator[Fault]:
    known = {_key(one) for one in book.get("external_references", ())}
    for id_, step in book["workflow"].items():
        where = f"{step.get('name', id_)}"
        if step.get("type") not in _STEPS:
            yield f"4.1 {where}.type: {step.get('type')} is no type of step"
            continue
        must, may = _STEPS[step["type"]]
        yield from (f"4 {where}.{name}: missing" for name in sorted(must - step.keys()))
        yield from (f"4 {where}.{name}: not for {step['type']}" for name in sorted(step.keys() - _COMMON - must - may))
        for name, least in (("delay", 1), ("timeout", 0)):
            if name in step and not (isinstance(step[name], int) and step[name] >= least):
                yield f"4.1 {where}.{name}: must be whole milliseconds"
        yield from _ways(where, step, book)
        yield from _action(where, step, book)
        yield from _references(where, step, known)


def _references(where: str, step: Json, known: set[str]) -> Iterator[Fault]:
    for one in step.get("external_references", ()):
        if _key(one) not in known:
            yield f"3.1 {where}.external_references: {one.get('name')} is missing at the playbook"
        if "name" not in one or not one.keys() & {"description", "source", "url", "external_id", "reference_id"}:
            yield f"10.9 {where}.external_references: a name and something else are needed"


def _ways(where: str, step: Json, book: Json) -> Iterator[Fault]:
    kind, ways = step["type"], {name for name in _WAYS if name in step}
    if kind == "start" and ways & {"on_success", "on_failure"}:
        yield f"4.3 {where}: a start step has no on_success or on_failure"
    if kind == "end" and ways:
        yield f"4.4 {where}: an end step leads nowhere"
    if "on_completion" in ways and ways & {"on_success", "on_failure"}:
        yield f"4.1 {where}.on_completion: not beside on_success or on_failure"
    if kind != "end" and not ways & {"on_completion", "on_success"}:
        yield f"4.1 {where}: leads nowhere, and is no end step"
    for name in sorted(ways):
        if step[name] not in book["workflow"]:
            yield f"4.1 {where}.{name}: names no step of the workflow"
    for variable in re.findall(r"(__[a-zA-Z][\w-]*?__):value", str(step.get("condition", ""))):
        if variable not in book.get("playbook_variables", {}):
            yield f"10.18 {where}.condition: {variable} is not declared"


def _action(where: str, step: Json, book: Json) -> Iterator[Fault]:
    if step["type"] == "action" and not step.get("commands"):
        yield f"4.5 {where}.commands: at least one is needed"
    if step["type"] == "action" and step.get("agent") not in book.get("agent_definitions", {}):
        yield f"4.5 {where}.agent: not in agent_definitions"
    for command in step.get("commands", ()):
        if "type" not in command:
            yield f"5 {where}.commands: a command without type"
        if command.get("type") == "manual" and not command.keys() & {"command", "command_b64"}:
            yield f"5 {where}.commands: a manual command needs command or command_b64"
    for extension in step.get("step_extensions", {}):
        if extension not in book.get("extension_definitions", {}):
            yield f"8 {where}.step_extensions: {extension} is not defined"


def _reachable(book: Json) -> Iterator[Fault]:
    """A step that nothing leads to is a fault of the export, though no section says so."""
    workflow: Mapping[str, Json] = book["workflow"]
    waiting, found = [book["workflow_start"], book.get("workflow_exception")], set()
    while waiting:
        id_ = waiting.pop()
        if id_ in workflow and id_ not in found:
            found.add(id_)
            step = workflow[id_]
            waiting += [step[name] for name in _WAYS if name in step]
            waiting += [*step.get("next_steps", ()), *dict(step.get("cases", {})).values()]
    yield from (f"4 {step.get('name', id_)}: nothing leads here" for id_, step in workflow.items() if id_ not in found)


def _key(reference: Json) -> str:
    return repr(sorted(reference.items()))
