"""A responder that a test may kill: its whole story from the first event to the last, in a process of its own.

Where it can die is read from the code: `points_in_code` lists every transaction (`with writing(...)`) and every send (`port.send`,
`channel.send`) of the modules that the responder's agent uses. `live` is what the process runs; it passes those points by wrapping
`writing` and by being the port and the channel itself, so nothing in the product knows of it.
"""

import ast
import base64
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

from incident_events import NORMAL, SAFE, act, at, status
from incident_events import signal as finding
from msgspec.structs import replace
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from infra import db
from infra.db import Sessions, open_database, reading
from infra.settings import Settings
from infra.tables import EffectRow, IncidentRow, NotificationRow
from responders.engine.effects import carry_out
from responders.engine.incident import Verb
from responders.engine.store import Store
from responders.notify import deliveries
from responders.notify.channels import ChannelName
from responders.notify.notices import Notice, trial
from responders.playbooks import playbooks
from responders.playbooks.playbooks import Playbook, State
from responders.rollouts.rollout import OVER, Failed
from responders.rollouts.store import Rollouts, listed
from streams import codec, topics
from streams.events import Context, Event, ModelState, Phase
from streams.topics import Topic

ROOT = Path(__file__).parent.parent
AGENT = ROOT / "streams" / "responding.py"
RESPONDER = ("Responder", "_Lane")
STORY_S = 60.0
STRIDE_S = 1000.0
"""Between two steps of the story, longer than every hold, back-off and lease."""
SHIFT_S = 300.0
"""Later by so much another runner finds a dead one's leases ended."""
QUICKLY = 100
"""So much faster than time two runners' clock for deliveries goes."""


def modules_of_the_responder() -> dict[str, Path]:
    """The modules of `responders` that the responder's agent and its lanes name in their code."""
    tree = ast.parse(AGENT.read_text(encoding="utf-8"))
    imported = {
        alias.asname or alias.name: node.module or ""
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("responders.") and _file(node.module or "").is_file()
        for alias in node.names
    }
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name in RESPONDER]
    assert len(classes) == len(RESPONDER)
    names = {node.id for each in classes for node in ast.walk(each) if isinstance(node, ast.Name)}
    return {imported[name]: _file(imported[name]) for name in names & imported.keys()}


def _file(module: str) -> Path:
    return ROOT / (module.replace(".", "/") + ".py")


def points_in_code() -> set[str]:
    """Every place where the responder commits or sends, as "module.function: commit" or "...: send"."""
    found: set[str] = set()

    def walk(node: ast.AST, where: str) -> None:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            where = f"{where}.{node.name}"
        if isinstance(node, ast.With) and any(_calls(item.context_expr, "writing") for item in node.items):
            found.add(f"{where}: commit")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "send":
            found.add(f"{where}: send")
        for child in ast.iter_child_nodes(node):
            walk(child, where)

    for module, path in modules_of_the_responder().items():
        walk(ast.parse(path.read_text(encoding="utf-8")), module)
    return found


def _calls(expression: ast.expr, name: str) -> bool:
    return isinstance(expression, ast.Call) and isinstance(expression.func, ast.Name) and expression.func.id == name


@dataclass(frozen=True)
class Life:
    """One life of the process. It kills itself at the `die_at_point`-th point or the `die_at_line`-th line of our code, from 0.

    `later_s`: its clock is so much ahead, so that a dead runner's leases have ended.
    """

    runner: str = "one"
    die_at_point: int | None = None
    die_at_line: int | None = None
    later_s: float = 0.0
    count_lines: bool = False


@dataclass
class _Faults:
    life: Life
    passed: list[str] = field(default_factory=list)
    lines: int = 0

    def point(self, what: str) -> None:
        if len(self.passed) == self.life.die_at_point:
            os.kill(os.getpid(), signal.SIGKILL)
        self.passed.append(what)

    def trace(self, frame: FrameType, _event: str, _argument: object) -> Any:
        return self._line if _is_ours(frame.f_code) else None

    def _line(self, _frame: FrameType, event: str, _argument: object) -> Any:
        if event == "line":
            if self.lines == self.life.die_at_line:
                os.kill(os.getpid(), signal.SIGKILL)
            self.lines += 1
        return self._line


def _is_ours(code: CodeType) -> bool:
    return "/responders/" in code.co_filename and "/responders/playbooks/playbooks.py" not in code.co_filename


def _caller(frame: FrameType) -> str:
    return f"{frame.f_globals['__name__']}.{frame.f_code.co_qualname}"


def _wrap(module: ModuleType, faults: _Faults) -> None:
    @contextmanager
    def writing(sessions: Sessions) -> Iterator[Session]:
        where = _caller(sys._getframe(2))
        with db.writing(sessions) as session:
            yield session
            faults.point(f"{where}: commit")
        faults.point(f"{where}: commit")

    vars(module)["writing"] = writing


@dataclass(frozen=True)
class Ledger:
    """A file that keeps what was sent, through any death of the sender: kind, id, sender, bytes."""

    path: Path

    def add(self, kind: str, id_: str, sender: str, body: bytes) -> None:
        line = f"{kind} {id_} {sender} ".encode() + base64.b64encode(body) + b"\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)

    def rows(self) -> list[tuple[str, str, str, bytes]]:
        if not self.path.exists():
            return []
        parts = [line.split(b" ") for line in self.path.read_bytes().splitlines()]
        return [(kind.decode(), id_.decode(), sender.decode(), base64.b64decode(body)) for kind, id_, sender, body in parts]

    def asked(self) -> ModelState:
        """What the town's worker is asked for last."""
        states = [
            codec.decode(body, topics.MODEL_STATE, ModelState).event for kind, _, _, body in self.rows() if kind == "model-state"
        ]
        return [state for state in states if state.context is Context.URBAN][-1]


@dataclass(frozen=True)
class _FilePort:
    ledger: Ledger
    faults: _Faults
    runner: str
    takes_s: float

    def send(self, topic: Topic, key: str, event: Event) -> None:
        where = _caller(sys._getframe(1))
        self.faults.point(f"{where}: send")
        assert key == getattr(event, topic.key)
        time.sleep(self.takes_s)
        self.ledger.add(topic.name, event.id, self.runner, codec.encode(event))
        self.faults.point(f"{where}: send")


@dataclass(frozen=True)
class _FileChannel:
    ledger: Ledger
    faults: _Faults
    runner: str
    name: ChannelName = ChannelName.WEBHOOK

    def send(self, notices: Sequence[Notice]) -> None:
        where = _caller(sys._getframe(1))
        self.faults.point(f"{where}: send")
        for notice in notices:
            self.ledger.add("notice", notice.key, self.runner, notice.what.encode())
        self.faults.point(f"{where}: send")


def patient() -> dict[Any, Playbook]:
    """The shipped playbooks with limits that no pause of a test reaches."""
    long_s = 1e6

    def relaxed(book: Playbook) -> Playbook:
        steps = tuple(replace(step, time_limit_s=long_s) if step.time_limit_s is not None else step for step in book.steps)
        return replace(book, steps=steps, calls=tuple(replace(one, wait_s=long_s) for one in book.calls))

    return {kind: relaxed(book) for kind, book in playbooks.load().items()}


class _Story:
    """What happens, step by step; a step that is told again after a death does no harm, as with Kafka."""

    def __init__(self, settings: Settings, life: Life, shift_s: "Synchronized[float] | None") -> None:
        self.home, self.life, self.shift_s = settings.home, life, shift_s
        self.faults = _Faults(life)
        for name in modules_of_the_responder():
            module = importlib.import_module(name)
            if "writing" in vars(module):
                _wrap(module, self.faults)
        self.sessions = open_database(settings)
        self.store = Store(self.sessions, patient(), worker_lost_s=6, clock_allowance_s=5)
        self.rollouts = Rollouts(self.store)
        self.ledger = Ledger(self.home / "sent")
        # Beside another, a send takes a while, as with a real broker: time enough for the other to come in between.
        self.port = _FilePort(self.ledger, self.faults, life.runner, 0.0 if shift_s is None else 0.005)
        self.channel = _FileChannel(self.ledger, self.faults, life.runner)
        self.began, self.step = time.monotonic(), 0

    def clock(self) -> datetime:
        shift_s = self.life.later_s + (self.shift_s.value if self.shift_s is not None else 0.0)
        return at(self.step * STRIDE_S + shift_s + time.monotonic() - self.began)

    def senders_clock(self) -> datetime:
        """Beside another leases end by one clock for both, as on real hosts; each life's own jumps from step to step."""
        return self.clock() if self.shift_s is None else at(time.monotonic() + self.shift_s.value)

    def tell(self, place: Path) -> None:
        steps = (
            self.assign,
            self.attack,
            self.contain,
            self.acknowledge,
            self.grow,
            self.recover,
            self.retrain,
            self.give_up,
            self.test,
        )
        self.step = int(place.read_text()) if place.exists() else 0
        while self.step < len(steps):
            steps[self.step]()
            self.until(lambda: self.idle)
            self.step += 1
            place.write_text(str(self.step))

    def until(self, done: Callable[[], bool]) -> None:
        ends = time.monotonic() + STORY_S
        while True:
            while carry_out(self.sessions, self.port, self.senders_clock, self.life.runner).sent:
                pass
            deliveries.dispatch(self.sessions, (self.channel.name,), self.clock())
            while deliveries.deliver(self.sessions, self.channel, self._late, self.life.runner).sent:
                pass
            if done():
                return
            assert time.monotonic() < ends, f"step {self.step} does not end"
            time.sleep(0.01)

    def _late(self) -> datetime:
        """Deliveries are held for a moment; in the story that moment is over. Beside another it passes quickly, for both alike."""
        if self.shift_s is None:
            return self.clock() + deliveries.INTERVAL
        return at(time.monotonic() * QUICKLY + self.shift_s.value)

    @property
    def idle(self) -> bool:
        with reading(self.sessions) as session:
            effects = session.scalar(select(func.count()).where(EffectRow.state == "waiting"))
            told = session.scalar(select(func.count()).where(NotificationRow.state == "waiting"))
        return not effects and not told

    def incidents(self) -> dict[str, IncidentRow]:
        with reading(self.sessions) as session:
            return {row.camera_id: row for row in session.scalars(select(IncidentRow))}

    def reach(self, *states: State) -> None:
        """The worker reports until every incident is so far."""

        def reported() -> bool:
            now = self.clock()
            self.store.accept(status("w1", (now - at(0)).total_seconds(), self.ledger.asked()), now)
            self.store.tick(self.clock())
            return all(row.state in states for row in self.incidents().values())

        self.until(reported)

    def assign(self) -> None:
        for context in Context:
            self.store.assign(context, NORMAL, SAFE, self.clock())

    def attack(self) -> None:
        self.store.accept_all([finding(Phase.RAISED, 10, 14, camera=camera) for camera in ("cam1", "cam2")], self.clock())

    def contain(self) -> None:
        self.reach(State.CONTAINED, State.RECOVERING, State.CLOSED)

    def acknowledge(self) -> None:
        self.store.accept(act(Verb.ACKNOWLEDGE, self.incidents()["cam1"].id, 30), self.clock())

    def grow(self) -> None:
        said = [(Phase.ONGOING, last) for last in range(15, 25)] + [(Phase.CALM, 60)]
        self.store.accept_all([finding(phase, 10, last, camera=c) for phase, last in said for c in ("cam1", "cam2")], self.clock())

    def recover(self) -> None:
        self.reach(State.CLOSED)

    def retrain(self) -> None:
        self.rollouts.request(self.incidents()["cam1"].id, "operator-1", short=True, now=self.clock(), act_id="retrain-1")

    def give_up(self) -> None:
        self.rollouts.tick(self.clock())
        with reading(self.sessions) as session:
            [rollout] = listed(session)
        if rollout.state not in OVER:
            self.rollouts.hear(rollout.id, Failed(self.clock(), "nothing to learn from"), self.clock())

    def test(self) -> None:
        deliveries.attempt(self.sessions, self.channel, trial("webhook", "tester", at(0)), self.clock, self.life.runner)


def live(settings: Settings, life: Life, shift_s: "Synchronized[float] | None" = None) -> None:
    """Tell the story to its end, or die in it; afterwards the points that were passed lie in the file `passed`."""
    story = _Story(settings, life, shift_s)
    own = settings.home / f"place-{life.runner}" if shift_s is not None else settings.home / "place"
    if life.die_at_line is not None or life.count_lines:
        sys.settrace(story.faults.trace)
    story.tell(own)
    sys.settrace(None)
    (settings.home / "passed").write_text("\n".join([str(story.faults.lines), *story.faults.passed]))
    story.sessions.kw["bind"].dispose()
