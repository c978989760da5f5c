"""What a rollout is: a retrained model on its way into service, what happens to it, and what can be decided about it. Frozen data.

It decides nothing: `deciding.py` does, as a pure fold of happenings over this state. It refuses an act that says not who and why.
Fed through `store.py` (the retraining run, human acts, ticks with what topics `detections` and `worker-status` showed).

    requested -> training -> gating -> awaiting_approval -> shadow -> canary -> full -> done
                    |           |              |                ^        |        |
                  failed     rejected      rejected             +-held---+     returned       (from shadow and canary too)

Source: paper 4.6 (approval by R3 and R8, staged deployment, immediate roll-back).
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from msgspec import Struct

from responders.people.access import Deed
from responders.people.roles import Role
from responders.rollouts.comparison import Figures, Limits, Tally
from streams.errors import BadInput
from streams.events import Context, Mode, RolloutPhase

RESPONDER = "responder"
APPROVERS = (Role.DATA_SCIENTIST, Role.SECMLOPS_ENGINEER)
"""One person of each role, two different people (paper 4.6)."""


class State(StrEnum):
    """Where a rollout is."""

    REQUESTED = "requested"  # a retraining run was asked for
    TRAINING = "training"  # the run works
    GATING = "gating"  # the candidate is in the registry, the gate tests it
    AWAITING_APPROVAL = "awaiting_approval"  # the gate was passed; people are asked
    SHADOW = "shadow"  # judges every frame beside the serving model
    CANARY = "canary"  # serves some cameras
    FULL = "full"  # is the context's normal model, and may still be returned
    DONE = "done"
    RETURNED = "returned"  # taken out by itself
    REJECTED = "rejected"  # by the gate or by a person
    FAILED = "failed"  # the run could not make a candidate
    CANCELLED = "cancelled"


LIVE = (State.SHADOW, State.CANARY, State.FULL)
OVER = (State.DONE, State.RETURNED, State.REJECTED, State.FAILED, State.CANCELLED)
NOTHING = Tally()
RUNNING = (State.REQUESTED, State.TRAINING, State.GATING)


class Verb(StrEnum):
    """What a person may do about a rollout."""

    APPROVE = "approve"
    REJECT = "reject"
    CANCEL = "cancel"
    PAUSE = "pause"  # the run rests between two steps
    RESUME = "resume"
    ROLL_BACK = "roll-back"  # of the context's normal model: a candidate in service goes with it


DEEDS = {
    Verb.APPROVE: Deed.APPROVE_MODEL,
    Verb.REJECT: Deed.REJECT_MODEL,
    Verb.CANCEL: Deed.CANCEL_ROLLOUT,
    Verb.PAUSE: Deed.PAUSE_RUN,
    Verb.RESUME: Deed.RESUME_RUN,
    Verb.ROLL_BACK: Deed.ROLL_BACK,
}
"""What a person signs who does it, and so who may (`responders.people.access`)."""


@dataclass(frozen=True)
class Act:
    """A person's act; `roles` are those that the deployment knows of `actor`. Raises BadInput if actor or comment is blank.

    `normal_digest` is the context's normal model at that moment; `gone` are those who approved before and no longer have the role.
    """

    id: str
    time: datetime
    verb: Verb
    actor: str
    comment: str
    roles: tuple[Role, ...] = ()
    role: Role | None = None
    """The role acted in, where the actor has both that may approve."""
    normal_digest: str = ""
    gone: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.actor.strip() or not self.comment.strip():
            raise BadInput(f"{self.verb} needs an actor and a comment; give both (--actor, --comment)")


@dataclass(frozen=True)
class Progress:
    """The run is at `done` of `of` in the work called `step`, with `left_s` seconds to go by its own estimate."""

    time: datetime
    step: str
    done: int
    of: int
    left_s: float


@dataclass(frozen=True)
class Staged:
    """The run's candidate is in the registry; the gate is next."""

    time: datetime
    digest: str


@dataclass(frozen=True)
class Gated:
    """What the gate says of the candidate, and by which limits, in plain words."""

    time: datetime
    digest: str
    passed: bool
    why: str


@dataclass(frozen=True)
class Failed:
    """No candidate can be made, or the one there is cannot be served."""

    time: datetime
    why: str


@dataclass(frozen=True)
class Tick:
    """A moment, and what is known then of the rollout's context.

    `mode` is what the context is asked to serve, `normal_digest` its normal model; `live` and `agreeing` are the workers heard of,
    and those of them that obey its newest model state. `cameras` and `tally` are of the candidate's whole time in service. `alarm`
    names an incident that opened on frames which the candidate answered for.
    """

    time: datetime
    mode: Mode
    live: tuple[str, ...] = ()
    agreeing: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()
    tally: Tally = NOTHING
    alarm: str = ""
    normal_digest: str = ""

    @property
    def confirmed(self) -> bool:
        """Whether every live worker, and at least one, obeys (README, promise 4)."""
        return bool(self.live) and set(self.live) <= set(self.agreeing)


Happening = Act | Progress | Staged | Gated | Failed | Tick


@dataclass(frozen=True)
class Record:
    """Something for the timeline and everybody who watches."""

    id: str
    state: State
    actor: str
    action: str
    what: str


@dataclass(frozen=True)
class Serve:
    """What workers are told: the candidate's phase, None without one, and the normal model from now on, None where that stays.

    `back`: the candidate was the normal model; one that may be gone back to is to take its place (`store.py` knows which).
    """

    id: str
    state: State
    phase: RolloutPhase | None
    normal_digest: str | None
    what: str
    actor: str = RESPONDER
    action: str = "serve"
    back: bool = False


Decision = Record | Serve


class Approval(Struct, frozen=True):
    """Who approved, in which role, when and why."""

    actor: str
    role: Role
    time: datetime
    comment: str


class Rollout(Struct, frozen=True, kw_only=True):
    """All that is known of one rollout; plain data, so that it rests in the database as JSON.

    `normal_digest` is the model that it is to follow: the context's normal one when it was asked for, and anew when two people let
    it into service, for people may have named another meanwhile. `since` is when the state began, `reported` whether the workers
    obey in it, `base` the tally then, `before` the figures in shadow. `serves_since`: from then on they obey, and in normal mode
    without a break; None in safe mode. `heard_at` is the run's last word, or when people let it go on; while it is `paused` no
    word is expected.
    """

    id: str
    context: Context
    incident_id: str
    requested_by: str
    requested_at: datetime
    normal_digest: str
    limits: Limits
    short: bool = False
    state: State = State.REQUESTED
    since: datetime
    heard_at: datetime
    paused: bool = False
    step: str = ""
    done: int = 0
    of: int = 0
    left_s: float = 0.0
    candidate_digest: str = ""
    gate: str = ""
    approvals: tuple[Approval, ...] = ()
    acts: tuple[str, ...] = ()
    phase: RolloutPhase | None = None
    share: float = 0.0
    reported: bool = False
    base: Tally = Tally()
    before: Figures | None = None
    serves_since: datetime | None = None
    ticked_at: datetime | None = None
    escalated: str = ""
    why: str = ""
    decided: int = 0

    @property
    def missing(self) -> tuple[Role, ...]:
        """The roles that have not approved yet."""
        return tuple(role for role in APPROVERS if role not in {approval.role for approval in self.approvals})
