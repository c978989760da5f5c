"""What each role may do, which deeds need a second factor, and which need two people: one table.

It decides whether somebody with certain roles may do something, and whose word is still missing where two must agree. It knows
nobody and no database: `people.py` knows who has which role, `desk.py` asks. `kerbwatch people roles` shows the table.

Source: paper table 1 (R1 to R8), 4.6 (approval by R3 and R8; review of what is quarantined by R4 and R8; R8 leads the response),
4.7 (R8, R7 and R6 monitor and respond).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from responders.people.roles import Role, named

TOGETHER = timedelta(hours=24)
"""Where two must agree, what one said counts for so long."""
_ALL = tuple(Role)
_SCIENTIST, _DATA, _DEVOPS, _MLOPS, _SECURITY = (
    Role.DATA_SCIENTIST,
    Role.DATA_ENGINEER,
    Role.DEVOPS_ENGINEER,
    Role.MLOPS_ENGINEER,
    Role.SECMLOPS_ENGINEER,
)
_RESPONSE = (_DEVOPS, _MLOPS, _SECURITY)


class Deed(StrEnum):
    """Everything that a person does and signs."""

    NOTE = "note"
    ACKNOWLEDGE = "acknowledge"
    ASSIGN = "assign"
    SNOOZE = "snooze"
    RECLASSIFY = "reclassify"
    CLOSE = "close"
    APPROVE_STEP = "approve-step"
    REJECT_STEP = "reject-step"
    APPROVE_MODEL = "approve-model"
    REJECT_MODEL = "reject-model"
    CANCEL_ROLLOUT = "cancel-rollout"
    PROMOTE = "promote"
    ROLL_BACK = "roll-back"
    RETRAIN = "retrain"
    PAUSE_RUN = "pause-run"
    RESUME_RUN = "resume-run"
    STAGE = "stage"
    VOUCH = "vouch"
    REPLAY = "replay"
    DISOWN = "disown"
    OPEN = "open"
    RELEASE = "release"
    DISCARD = "discard"
    ADD_PERSON = "add-person"
    REMOVE_PERSON = "remove-person"
    ENROL = "enrol"
    ROTATE_OWN_KEY = "rotate-own-key"
    ROTATE_KEYS = "rotate-keys"


@dataclass(frozen=True)
class Rule:
    """Who may do a deed.

    One of `roles` is needed. `together`: so many different people must do it, one for each of these roles. `code`: each of them
    shows a second factor.
    """

    what: str
    roles: tuple[Role, ...]
    together: tuple[Role, ...] = ()
    code: bool = False


def _both(what: str, *roles: Role) -> Rule:
    return Rule(what, roles, together=roles, code=True)


RULES: Mapping[Deed, Rule] = {
    Deed.NOTE: Rule("write into an incident's timeline", _ALL),
    Deed.ACKNOWLEDGE: Rule("look after an incident, which ends the paging", (_SCIENTIST, _DATA, *_RESPONSE)),
    Deed.ASSIGN: Rule("hand an incident to somebody", _RESPONSE),
    Deed.SNOOZE: Rule("silence an incident's paging until a moment", _RESPONSE),
    Deed.RECLASSIFY: Rule("say what an incident really is", (_SCIENTIST, _MLOPS, _SECURITY)),
    Deed.CLOSE: Rule("close an incident", _RESPONSE),
    Deed.APPROVE_STEP: Rule("let a playbook's step go on, in a role that the step names", _ALL, code=True),
    Deed.REJECT_STEP: Rule("refuse a playbook's step, in a role that the step names", _ALL, code=True),
    Deed.APPROVE_MODEL: _both("let a retrained model into service", _SCIENTIST, _SECURITY),
    Deed.REJECT_MODEL: Rule("refuse a retrained model", (_SCIENTIST, _SECURITY), code=True),
    Deed.CANCEL_ROLLOUT: Rule("take a retrained model out of service", (_SCIENTIST, _SECURITY)),
    Deed.PROMOTE: _both("name a model for service, all of it at once", _SCIENTIST, _SECURITY),
    Deed.ROLL_BACK: Rule("go back to the last good model, at once", (_SCIENTIST, *_RESPONSE)),
    Deed.RETRAIN: Rule("have a model retrained after an incident", (_SCIENTIST, _MLOPS, _SECURITY)),
    Deed.PAUSE_RUN: Rule("let a retraining run rest, which keeps what it has", (_SCIENTIST, _MLOPS, _SECURITY)),
    Deed.RESUME_RUN: Rule("let a retraining run go on that rests", (_SCIENTIST, _MLOPS, _SECURITY)),
    Deed.STAGE: Rule("put a model into the registry, which serves nothing yet", (_SCIENTIST, _MLOPS, _SECURITY)),
    Deed.VOUCH: _both("vouch for golden data, every sample looked at", _DATA, _SECURITY),
    Deed.REPLAY: Rule("send a message that was refused once more", _RESPONSE),
    Deed.DISOWN: Rule("say of an entry of the audit log that nobody of ours wrote it", (_SECURITY,)),
    Deed.OPEN: Rule("look at a picture in quarantine", (_SCIENTIST, _DATA, _SECURITY)),
    Deed.RELEASE: _both("let frames and training samples out of quarantine", _DATA, _SECURITY),
    Deed.DISCARD: _both("destroy frames and training samples in quarantine", _DATA, _SECURITY),
    Deed.ADD_PERSON: Rule("let somebody act in roles", (_SECURITY,), code=True),
    Deed.REMOVE_PERSON: Rule("let somebody act no longer", (_SECURITY,), code=True),
    Deed.ENROL: Rule("set up one's own second factor (a code only where there was one)", _ALL),
    Deed.ROTATE_OWN_KEY: Rule("take a new personal key", _ALL, code=True),
    Deed.ROTATE_KEYS: Rule("make certificates and signing keys anew", (_DEVOPS, _SECURITY), code=True),
}


def refusal(deed: Deed, roles: Sequence[Role]) -> str:
    """Why somebody with these roles may not; "" if they may."""
    rule = RULES[deed]
    if set(rule.roles) & set(roles):
        return ""
    has = f"has {named(roles)}" if roles else "has no role"
    return f"{has}; to {rule.what}, {named(rule.roles, ' or ')} is needed"


def missing(together: Sequence[Role], voices: Mapping[str, Sequence[Role]]) -> tuple[Role, ...]:
    """The roles that no person is left for, when each of `voices` (roles by name) speaks for one role at most."""
    if not together:
        return ()
    first, *rest = together
    ways = [
        missing(rest, {name: roles for name, roles in voices.items() if name != speaker})
        for speaker, has in voices.items()
        if first in has
    ]
    return min([*ways, (first, *missing(rest, voices))], key=len)
