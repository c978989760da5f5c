"""Playbooks as CACAO 2.0, so that other tools can read, check and draw them.

It decides how our steps, conditions and approvals read in that standard; what the standard has no word for travels in an extension.
It refuses nothing: `cacao_rules.py` checks what comes out. The same playbook gives the same bytes. Pure. No topic feeds it.

A step that is done only sometimes stands in a branch of an if-condition; each role that must approve is a step of its own; the
chain of calls is the workflow's exception handler. Commands are manual: they say what is to be done, and kerbwatch does it.

Source: OASIS CACAO Security Playbooks 2.0 (27 November 2023), sections as named below; MITRE ATLAS v5.6.1; NIST SP 800-61r3.
"""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid5

import msgspec

from responders.people.roles import Role, named
from responders.playbooks.playbooks import Action, Condition, Function, Playbook, Step
from streams.events import Mode, Severity

Json = dict[str, Any]

NAMESPACE = UUID("aa7caf3a-d55a-4e9a-b34e-056215fba56a")
"""Of playbooks' ids (10.10)."""
_CREATED = "2026-11-01T00:00:00.000Z"
"""When our playbooks began; it never changes (3.1)."""
_TYPES = {Function.DETECT: "detection", Function.RESPOND: "mitigation", Function.RECOVER: "remediation"}
_ACTIVITIES = {
    Action.QUARANTINE: "restrict-access",
    Action.SERVE: "configure-systems",
    Action.AWAIT_ONSET: "match-indicator",
    Action.AWAIT_REPORTS: "scan-system",
    Action.AWAIT_CALM: "analyze-collected-data",
    Action.MANUAL: "eliminate-risk",
}
_DOES = {
    Action.QUARANTINE: "Set the suspicious frames aside, encrypted, and go on with those that follow.",
    Action.SERVE: "Ask every worker to serve the context with its {mode} model.",
    Action.AWAIT_ONSET: "Wait until the finding has been told {onset_signals} times, or has lasted {dwell_s:g} s without calm.",
    Action.AWAIT_REPORTS: "Wait until every live worker, and at least one, reports the {mode} model under this very decision.",
    Action.AWAIT_CALM: "Wait until every detector that raised has said calm; silence is not calm.",
    Action.MANUAL: "Done by people.",
}
_FRAMEWORK = {Function.DETECT: "DE", Function.RESPOND: "RS", Function.RECOVER: "RC"}


def export(playbook: Playbook) -> Json:
    """One playbook as a CACAO 2.0 object."""
    return _Export(playbook).whole()


def as_bytes(playbook: Playbook) -> bytes:
    """The same as JSON to read: indented, keys in the order of the standard, a newline at the end."""
    return json.dumps(export(playbook), indent=2, ensure_ascii=False).encode() + b"\n"


def condition_text(condition: Condition) -> str:
    """A condition in the grammar of STIX patterns, over the playbook's variables (4.8, 10.18)."""
    order = tuple(Severity)
    least = order.index(condition.at_least or Severity.LOW)
    below = len(order) if condition.below is None else order.index(condition.below)
    parts = []
    if condition.at_least or condition.below:
        parts.append(_one_of("severity", order[least:below]))
    parts += [
        _one_of(name, values)
        for name, values in (("context", condition.contexts), ("detector", condition.detectors), ("cause", condition.causes))
        if values
    ]
    parts += [f"__detector__:value != '{name}'" for name in condition.not_detectors]
    if condition.confidence is not None:
        parts.append(f"__confidence__:value >= {condition.confidence:g}")
    if condition.mode is not None:
        parts.append(f"__mode__:value = '{condition.mode}'")
    return " AND ".join(parts)


def _one_of(name: str, values: tuple[str, ...]) -> str:
    if len(values) == 1:
        return f"__{name}__:value = '{values[0]}'"
    listed = ", ".join(f"'{value}'" for value in values)
    return f"__{name}__:value IN ({listed})"


@dataclass
class _Export:
    playbook: Playbook
    workflow: dict[str, Json] = field(default_factory=dict)
    agents: dict[str, Json] = field(default_factory=dict)
    references: dict[str, Json] = field(default_factory=dict)

    def whole(self) -> Json:
        book = self.playbook
        self._refer(book.techniques)
        start, handler = self._id("start", "start"), self._id("action", "call")
        self.workflow[start] = {"type": "start", "name": "start", "on_completion": self._entry(0)}
        for first, last in _groups(book.steps):
            self._put(first, last)
        if book.calls:
            self._put_calls(handler)
        used = " ".join(str(step.get("condition", "")) for step in self.workflow.values())
        types = list(dict.fromkeys(_TYPES[step.function] for step in book.steps))
        name = f"kerbwatch {book.kind}"
        activities = sorted({one["playbook_activity"] for step in self.workflow.values() for one in step.get("commands", ())})
        return {
            "type": "playbook",
            "spec_version": "cacao-2.0",
            "id": f"playbook--{uuid5(NAMESPACE, _canonical({'name': name, 'playbook_types': types}))}",
            "name": name,
            "description": book.title,
            "playbook_types": types,
            "playbook_activities": activities,
            "playbook_processing_summary": {
                "manual_playbook": True,
                "if_logic": any("condition" in step for step in self.workflow.values()),
                "temporal_logic": any("timeout" in step for step in self.workflow.values()),
                "extensions": True,
            },
            "created_by": self._id("identity", "kerbwatch"),
            "created": _CREATED,
            "modified": f"{book.changed.isoformat()}T00:00:00.000Z",
            "severity": (list(Severity).index(book.grading.base) + 1) * 25,
            "industry_sectors": ["automotive"],
            "labels": ["kerbwatch", str(book.kind), f"version-{book.version}"],
            "external_references": list(self.references.values()),
            "playbook_variables": {key: value for key, value in _variables().items() if key in used},
            "workflow_start": start,
            **({"workflow_exception": handler} if book.calls else {}),
            "workflow": self.workflow,
            "playbook_extensions": {self._extension: self._told_of_book()},
            "agent_definitions": self.agents,
            "extension_definitions": {self._extension: _definition(self._id("identity", "kerbwatch"))},
        }

    def _id(self, kind: str, *parts: str) -> str:
        """Step ids must be of UUID version 4 (10.10), whose bits are here taken from a digest: the same at every export."""
        shared = kind in {"identity", "extension-definition", "group", "security-category"}
        name = "/".join(("kerbwatch", "" if shared else self.playbook.kind, kind, *parts))
        return f"{kind}--{UUID(bytes=hashlib.sha256(name.encode()).digest()[:16], version=4)}"

    @property
    def _extension(self) -> str:
        return self._id("extension-definition", "kerbwatch")

    def _condition(self, step: Step) -> str:
        """When a step is done, "" for always: its own condition, or that there is something to undo."""
        if step.when is not None:
            return condition_text(step.when)
        undone = self.playbook.undone_by(step.name)
        return "__mode__:value = 'safe'" if undone is not None and (undone.when is not None or undone.approval) else ""

    def _entry(self, position: int) -> str:
        """Where a step begins: its condition, the first approval, or itself."""
        step = self.playbook.steps[position]
        return self._id("if-condition", step.name) if self._condition(step) else self._after_condition(step)

    def _after_condition(self, step: Step) -> str:
        return self._node(step, step.approval[0]) if step.approval else self._node(step)

    def _node(self, step: Step, role: Role | None = None) -> str:
        if step.action is Action.CLOSE:
            return self._id("end", step.name)
        return self._id("action", step.name) if role is None else self._id("action", step.name, role)

    def _put(self, first: int, last: int) -> None:
        """The steps from `first` to `last`, which share a condition and an approval; then the next one's beginning."""
        step = self.playbook.steps[first]
        if step.action is Action.CLOSE:
            self.workflow[self._node(step)] = {"type": "end", "name": step.name, "step_extensions": {self._extension: _told(step)}}
            return
        out = self._entry(last + 1)
        condition = self._condition(step)
        if condition:
            branch_end = self._id("end", step.name)
            self.workflow[self._id("if-condition", step.name)] = {
                "type": "if-condition",
                "name": f"{step.name}?",
                "on_completion": out,
                "condition": condition,
                "on_true": self._after_condition(step),
            }
            out = branch_end
        self._put_approvals(step, out)
        if step.action is not Action.MANUAL:
            if last > first:
                self._put_action(step, self._node(self.playbook.steps[last]))
            self._put_action(self.playbook.steps[last], out)
        if condition:
            self.workflow[out] = {"type": "end", "name": f"{step.name} is over"}

    def _put_approvals(self, step: Step, out: str) -> None:
        """A step for each role: it does a manual step, or approves another one."""
        manual = step.action is Action.MANUAL
        for number, role in enumerate(step.approval, start=1):
            if number < len(step.approval):
                goes_on = self._node(step, step.approval[number])
            else:
                goes_on = out if manual else self._node(step)
            text = step.text or f"Approve {step.name}."
            agent = self._agent("group", str(role), named((role,)))
            command = {
                "type": "manual",
                "description": f"{step.name}: {role}",
                "command": text,
                "playbook_activity": "eliminate-risk",
            }
            if not manual:
                command["playbook_activity"] = "identify-steps"
            self.workflow[self._node(step, role)] = {
                **self._common(step, f"{step.name}: {'done by' if manual else 'approved by'} {role}"),
                "on_success": goes_on,
                **self._refused(step, out),
                "commands": [command],
                "agent": agent,
            }

    def _put_action(self, step: Step, out: str) -> None:
        failure = self._failure(step) if step.waits and not step.approval else None
        if failure is not None or (step.time_limit_s is not None and not step.approval):
            ways = {"on_success": out, **({"on_failure": failure} if failure is not None else {})}
        else:
            ways = {"on_completion": out}
        does = _DOES[step.action].format_map(msgspec.structs.asdict(step))
        self.workflow[self._node(step)] = {
            **self._common(step, step.name),
            **ways,
            "commands": [{"type": "manual", "command": does, "playbook_activity": _ACTIVITIES[step.action]}],
            "agent": self._agent("security-category", "responder", "kerbwatch's responder", category=["orchestrator"]),
        }

    def _refused(self, step: Step, out: str) -> Json:
        """Where a no leads; what people were to do and did not do leads nowhere but to the chain of people (4.1)."""
        failure = self._failure(step) or (None if step.action is Action.MANUAL else out)
        return {} if failure is None else {"on_failure": failure}

    def _failure(self, step: Step) -> str | None:
        return None if step.on_failure is None else self._entry(self.playbook.position(step.on_failure))

    def _common(self, step: Step, name: str) -> Json:
        limited = step.time_limit_s is not None
        return {
            "type": "action",
            "name": name,
            **({"description": step.text} if step.text else {}),
            "external_references": self._refer((*(step.techniques or self.playbook.techniques), *step.mitigations), step.function),
            **({"timeout": round((step.time_limit_s or 0) * 1000)} if limited else {}),
            "step_extensions": {self._extension: _told(step)},
        }

    def _put_calls(self, handler: str) -> None:
        """The chain of people, as the exception handler: that is where a step without a way for failure leads (4.1)."""
        end = self._id("end", "called")
        chain = "; ".join(
            f"{named((one.role,))}, {one.wait_s:g} s, severity {one.at_least} or worse" for one in self.playbook.calls
        )
        self.workflow[handler] = {
            "type": "action",
            "name": "call people",
            "description": "Each in turn until somebody acknowledges.",
            "on_completion": end,
            "commands": [{"type": "manual", "command": f"Call in turn: {chain}.", "playbook_activity": "deliver-content"}],
            "agent": self._agent("security-category", "responder", "kerbwatch's responder", category=["orchestrator"]),
        }
        self.workflow[end] = {"type": "end", "name": "people know"}

    def _agent(self, kind: str, key: str, name: str, **more: object) -> str:
        id_ = self._id(kind, key)
        self.agents[id_] = {"type": kind, "name": name, **more}
        return id_

    def _refer(self, ids: tuple[str, ...], function: Function | None = None) -> list[Json]:
        """References of a step; all of them stand at the playbook too (3.1)."""
        found = [_atlas(id_) for id_ in ids]
        if function is not None:
            found.append(
                {
                    "name": "NIST SP 800-61r3",
                    "description": f"function {function}",
                    "url": "https://doi.org/10.6028/NIST.SP.800-61r3",
                    "external_id": _FRAMEWORK[function],
                }
            )
        for one in found:
            self.references[one["external_id"]] = one
        return found

    def _told_of_book(self) -> Json:
        told = msgspec.to_builtins(self.playbook)
        return {
            key: value for key, value in told.items() if key not in {"steps", "title", "techniques"} and value not in (None, [])
        }


def _groups(steps: tuple[Step, ...]) -> list[tuple[int, int]]:
    """First and last position of steps that are done or left out together: asking for a mode, and awaiting its reports."""
    firsts = [n for n, step in enumerate(steps) if step.action is not Action.AWAIT_REPORTS]
    return [(n, n + 1 if steps[n].action is Action.SERVE else n) for n in firsts]


def _told(step: Step) -> Json:
    """What the standard has no word for."""
    told = _pruned(msgspec.to_builtins(step))
    return {"nist_function": told.pop("function")} | {key: value for key, value in told.items() if key != "text"}


def _pruned(value: Any) -> Any:
    """Without what says nothing: none, empty, not at all."""
    if isinstance(value, dict):
        pruned = {key: _pruned(one) for key, one in value.items()}
        return {key: one for key, one in pruned.items() if one not in (None, [], {}, "", 0)}
    return [_pruned(one) for one in value] if isinstance(value, list) else value


def _atlas(id_: str) -> Json:
    kind = "techniques" if ".T" in id_ else "mitigations"
    return {"name": "MITRE ATLAS", "description": kind[:-1], "url": f"https://atlas.mitre.org/{kind}/{id_}", "external_id": id_}


def _variables() -> dict[str, Json]:
    told = {
        "severity": "how bad the incident is: low, medium, high or critical",
        "context": "where the camera is: urban or highway",
        "detector": "a detector that has raised",
        "cause": "what the diagnosis says is behind it",
        "confidence": "how sure the diagnosis is, 0 to 1",
        "mode": f"what the incident asks its context to be served in: {Mode.NORMAL} or {Mode.SAFE}",
    }
    return {f"__{name}__": {"type": "string", "description": text, "external": True} for name, text in told.items()}


def _definition(author: str) -> Json:
    return {
        "type": "extension-definition",
        "name": "kerbwatch playbooks",
        "description": "A step as kerbwatch walks it: action, state, retries, undo, dwell; the NIST SP 800-61r3 function.",
        "created_by": author,
        "schema": "The fields of Step and Playbook in responders/playbooks/playbooks.py of kerbwatch, by the same names.",
        "version": "1.0.0",
    }


def _canonical(value: object) -> str:
    """RFC 8785 for what we name playbooks with: ASCII strings and lists."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
