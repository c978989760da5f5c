"""The main job, shown: two cameras, one attack, one incident, one new model, start to end, on the real stack.

After a clean stretch the urban camera's pictures are attacked (FGSM, eps 0.03, white box). The system must notice, open an
incident, set the attacked frames aside, switch the urban context to its safe-mode model, see clean input again, recover and
close, and leave the highway camera alone. Meanwhile the urban model is retrained, approved by two people and brought into service
(`demo_retraining`). Success is decided by facts alone: every one is read back from Kafka, database, registry and sealed evidence.

Source: paper 4.6 (safe mode, roll-back, secure retraining), 4.7 (incident response).
"""

import json
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from sqlalchemy import select

from infra.db import Sessions, open_database, reading
from infra.files import alone
from infra.settings import Settings, read_settings
from infra.tables import TimelineRow, WorkerRow
from responders.engine.incident import Resolution
from responders.playbooks.playbooks import State
from responders.rollouts.rollout import State as RolloutState
from streams import codec, policy, stack, topics
from streams.commands import process
from streams.console.view import Sight, cameras_table, look, timeline_table
from streams.demo.facts import Facts, gather
from streams.demo.retraining import SIZE, RetrainingFact, Story, gather_retraining, judged, prepare, table
from streams.errors import BadInput, Unavailable
from streams.events import Context, Health, Kind, Mode, WorkerStatus
from streams.ledger import Entry, read_ledger
from streams.sources.open import open_source

_CAMERAS = (("gate", Context.URBAN), ("bridge", Context.HIGHWAY))
_SOURCES = tuple(f"street:{context}?size={SIZE[0]}x{SIZE[1]}" for _, context in _CAMERAS)
_LONGEST_PX = 512
_READY_S = 120.0
_AFTER = 100_000
_CALM_AFTER_S = 4.0
_DRAIN_S = 30.0
_LOOK_S = 0.5


@dataclass(frozen=True)
class Script:
    """How the cameras play: pictures a second, clean ones, attacked ones, and clean ones again until the incident is over."""

    fps: float = 3.0
    clean: int = 135
    attacked: int = 75
    eps: float = 0.03
    limit_s: float = 480.0


@dataclass(frozen=True)
class Check:
    """One thing that must hold, and what was found."""

    holds: bool
    what: str


def demo(
    source: Annotated[
        list[str] | None, typer.Option("--source", help="Twice: what the urban and what the highway camera see; as for `replay`.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the facts to this file.")] = None,
    keep_running: Annotated[bool, typer.Option(help="Leave the stack up afterwards, for the other commands.")] = False,
) -> None:
    """Two cameras, one attack, one incident, start to end. Example: `kerbwatch demo --json facts.json`."""
    sources = tuple(source or _SOURCES)
    if len(sources) != len(_CAMERAS):
        raise BadInput(f"{len(sources)} sources given, 2 are needed: --source for the urban camera, --source for the highway one")
    console = Console()
    with interrupts() as stop, ExitStack() as left:
        settings = left.enter_context(demo_home(read_settings(), console))
        began = time.monotonic()
        left.callback(_stop_stack, settings, console, keep_running=keep_running)
        weights = stack.start(settings, datetime.now(UTC), lambda step: console.print(f"[dim]setting up:[/] {step}"))
        console.print("[dim]setting up:[/] golden dataset, people")
        secrets = prepare(settings, datetime.now(UTC))
        wait_until_served(settings, stop)
        console.print(f"[dim]ready after {time.monotonic() - began:.0f} s[/]")
        story = Story(settings, left, console, secrets)
        ledgers = play(settings, sources, weights, stop, console=console, meanwhile=story, more=lambda: not story.over)
        if stop.is_set():
            raise typer.Exit(130)
        facts = gather(settings, ledgers)
        with console.status("asking old, safe and new weights about the attacked frames"):
            retraining = gather_retraining(settings, ledgers, weights.safe)
        checks = judge(facts, weights, retraining)
        _report(facts, ledgers, look(open_database(settings)).timeline, console)
        if retraining is not None:
            console.print(table(retraining))
        for check in checks:
            console.print(f"[green]holds[/]  {check.what}" if check.holds else f"[red]FAILS[/]  {check.what}")
        if json_file is not None:
            json_file.write_text(json.dumps(_as_json(facts, checks, retraining), indent=2) + "\n", encoding="utf-8")
        if not all(check.holds for check in checks):
            raise typer.Exit(1)


@contextmanager
def demo_home(settings: Settings, console: Console) -> Iterator[Settings]:
    """Settings with a home that is the demo's to clear, cleared: the given one unless a deployment lives there.

    What plays in it shares nothing with a deployment and tells nobody. Raises BadInput while another demo or drill plays there.
    """
    home = settings.home.resolve()
    if not (home / policy.DEMO_MARK).exists() and ((home / "kerbwatch.db").exists() or settings.database_url is not None):
        home = home / "demo"
        console.print(f"{settings.home} holds a deployment; the demo lives in {home} (KERBWATCH_HOME for the other commands)")
    apart = settings.on_its_own(home)
    if any((settings.webhook_url is not None, settings.alertmanager_url, settings.smtp_host)):
        console.print("nobody is told of what happens here: its webhook, Alertmanager and mail are left out")
    with alone(home / ".playing", f"a demo or a drill plays in {home}: wait for it, or give another KERBWATCH_HOME and ports"):
        if (home / policy.DEMO_MARK).exists():
            stack.stop(apart)
            for name in ("kafka", "faust", "quarantine", "held", "logs", "cameras", "golden", "checkpoints", "registry"):
                shutil.rmtree(home / name, ignore_errors=True)
            for path in home.glob("kerbwatch.db*"):
                path.unlink()
        (home / policy.DEMO_MARK).touch()
        policy.demonstrate(apart)
        yield apart


def wait_until_served(settings: Settings, stop: threading.Event) -> None:
    """Return when a worker serves, or the user has had enough. Raises Unavailable after two minutes."""
    sessions = open_database(settings)
    if not _until(stop, _READY_S, lambda: _worker_serves(sessions)) and not stop.is_set():
        raise Unavailable(f"the inference worker does not serve after {_READY_S:.0f} s; see {settings.home / 'logs'}")


def judge(facts: Facts, weights: stack.Weights, retraining: RetrainingFact | None) -> tuple[Check, ...]:
    """Whether the run was what it should be, fact by fact."""
    made: list[Check] = []
    judged(retraining, lambda holds, what: made.append(Check(holds, what)))
    new = [retraining.candidate] if retraining is not None and retraining.state == RolloutState.DONE else []
    (attacked, _), (spared, _) = _CAMERAS
    incident = next((one for one in facts.incidents if one.camera == attacked), None)
    stretches = [one for one in facts.weights if one.camera == attacked]
    modes = [one.mode for one in stretches]
    served = [one.digest for one in stretches]
    others = {one.digest for one in facts.weights if one.camera == spared}
    frames = facts.frames
    return (
        Check(facts.events_lost == 0, f"{facts.events_lost} events lost"),
        Check(facts.double_effects == 0, f"{facts.double_effects} effects done twice"),
        Check(
            frames.sent == frames.judged and frames.refused == 0,
            f"{frames.judged} of {frames.sent} frames judged, {frames.refused} refused",
        ),
        Check(len(facts.incidents) == 1, f"{len(facts.incidents)} incident"),
        Check(
            incident is not None
            and (incident.kind, incident.state, incident.resolution) == (Kind.EVASION, State.CLOSED, Resolution.RECOVERED),
            "none on the attacked camera" if incident is None else f"{incident.kind} on {attacked}: {incident.resolution}",
        ),
        Check(
            incident is not None and (incident.seconds_to_detect or -1.0) > 0.0,
            "not detected" if incident is None else f"detected {incident.seconds_to_detect} s after the first attacked frame",
        ),
        Check(
            frames.attacked > 0 and frames.attacked_not_quarantined == 0,
            f"{frames.attacked - frames.attacked_not_quarantined} of {frames.attacked} attacked frames set aside",
        ),
        Check(
            modes == [Mode.NORMAL, Mode.SAFE, *[Mode.NORMAL] * (1 + len(new))]
            and served == [weights.normal, weights.safe, weights.normal, *new],
            f"{attacked} was judged by {', '.join(f'{one.digest[:8]} ({one.mode})' for one in stretches)}",
        ),
        Check(others == {weights.normal}, f"{spared} was judged by {len(others)} model throughout"),
        *made,
    )


def play(
    settings: Settings,
    sources: Sequence[str],
    weights: stack.Weights,
    stop: threading.Event,
    *,
    script: Script = Script(),
    console: Console | None = None,
    meanwhile: Callable[[Sight], None] = lambda _sight: None,
    more: Callable[[], bool] = lambda: False,
) -> list[list[Entry]]:
    """Run both cameras until the incident is over or `script.limit_s` is, let everything arrive, and return their ledgers.

    `meanwhile` is called at every look at the database; tests kill processes there. `more` says whether to go on even so.
    """
    sessions = open_database(settings)
    folder = settings.home.resolve() / "cameras"
    folder.mkdir(parents=True, exist_ok=True)
    ledgers = [folder / f"{camera}.jsonl" for camera, _ in _CAMERAS]
    with ExitStack() as left:
        cameras: list[subprocess.Popen[bytes]] = []
        for (name, context), spec, ledger in zip(_CAMERAS, sources, ledgers, strict=True):
            target = None if cameras else weights.normal
            command = _camera_command(name, context, _sized(spec, settings), ledger, script, target)
            cameras.append(left.enter_context(process(command, settings, ledger.with_suffix(".log"))))
        _follow(sessions, stop, list(zip(cameras, ledgers, strict=True)), script, console or Console(quiet=True), meanwhile, more)
    read = [read_ledger(path) for path in ledgers]
    if not stop.is_set():
        sent = sum(map(len, read))
        # What is late is not lost: everything gets its time to arrive before the count.
        _until(stop, _DRAIN_S, lambda: (now := look(sessions)).judged >= sent and not now.waiting)
    return read


def _camera_command(  # noqa: PLR0917 - one line at its only call
    name: str, context: Context, source: str, ledger: Path, script: Script, target: str | None
) -> list[str]:
    """A camera that plays its source; with the digest of a `target` it turns bad after the clean stretch."""
    common = ["--camera", name, "--context", context, "--fps", str(script.fps), "--ledger", str(ledger)]
    if target is None:
        return ["replay", source, "--loop", *common]
    stretch = ["--from-frame", str(script.clean), "--frames", str(script.attacked), "--after", str(_AFTER)]
    return ["chaos", "run", "fgsm", "--source", source, "--eps", str(script.eps), "--weights", target, *stretch, *common]


def _sized(spec: str, settings: Settings) -> str:
    """Real footage is shown at a size that two cores can judge and attack at the demo's rate."""
    if spec.startswith("street:") or "size=" in spec:
        return spec
    width_px, height_px = next(iter(open_source(spec, settings))).picture.shape[1::-1]
    scale = min(1.0, _LONGEST_PX / width_px)
    return f"{spec}{'&' if '?' in spec else '?'}size={round(width_px * scale)}x{round(height_px * scale)}"


def _follow(  # noqa: PLR0917 - one line at its only call
    sessions: Sessions,
    stop: threading.Event,
    cameras: Sequence[tuple["subprocess.Popen[bytes]", Path]],
    script: Script,
    console: Console,
    meanwhile: Callable[[Sight], None],
    more: Callable[[], bool],
) -> None:
    began = time.monotonic()
    over_at: float | None = None
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        while not stop.wait(_LOOK_S):
            now = time.monotonic() - began
            sight = look(sessions)
            meanwhile(sight)
            sent = [read_ledger(path) if path.exists() else [] for _, path in cameras]
            live.update(_picture(sight, sent, now, getattr(meanwhile, "line", "")))
            for process, path in cameras:
                if process.poll() is not None:
                    raise Unavailable(f"camera {path.stem} ended early; see {path.with_suffix('.log')}")
            closed = bool(sight.incidents) and all(row.state == State.CLOSED for row in sight.incidents)
            if closed and _attack_is_over(sent[0]) and not more():
                over_at = over_at or now
                if now - over_at >= _CALM_AFTER_S:
                    return
            if now > script.limit_s:
                console.print(f"[red]not over after {now:.0f} s[/]")
                return


def _attack_is_over(sent: Sequence[Entry]) -> bool:
    return any(entry.attack for entry in sent) and not sent[-1].attack


def _picture(sight: Sight, sent: Sequence[Sequence[Entry]], now_s: float, story: str) -> Group:
    attack = sent[0][-1].attack if sent[0] else None
    say = f"[red]{attack} on {sent[0][-1].camera_id}[/]" if attack else "input is clean"
    counts = f"{sum(map(len, sent))} frames sent, {sight.judged} judged, {sight.quarantined} in quarantine"
    return Group(cameras_table(sight, f"{now_s:4.0f} s   {say}"), timeline_table(sight.timeline), counts, story)


def _report(
    facts: Facts,
    ledgers: Sequence[Sequence[Entry]],
    timeline: Sequence[TimelineRow],
    console: Console,
) -> None:
    attacked = [entry for ledger in ledgers for entry in ledger if entry.attack]
    if attacked:
        console.print(
            f"first attacked frame: {attacked[0].camera_id} {attacked[0].sequence} at {attacked[0].camera_time:%H:%M:%S.%f}"[:-3]
            + f" UTC, last: {attacked[-1].sequence}"
        )
    console.print(timeline_table(timeline))
    clocks = Table(
        "incident", "kind", "camera", "state", "detected", "contained", "recovered", title="clocks", title_justify="left"
    )
    for one in facts.incidents:
        clocks.add_row(
            one.id[:8], one.kind, one.camera, one.resolution or one.state,
            f"{one.seconds_to_detect} s", f"{one.seconds_to_contain} s", f"{one.seconds_to_recover} s",
        )  # fmt: skip
    console.print(clocks)
    served = Table(
        "camera", "context", "mode", "weights", "frames", title="which weights judged which frames", title_justify="left"
    )
    for stretch in facts.weights:
        served.add_row(
            stretch.camera, stretch.context, stretch.mode, stretch.digest[:12], f"{stretch.from_frame} to {stretch.to_frame}"
        )
    console.print(served)


def _as_json(facts: Facts, checks: Sequence[Check], retraining: RetrainingFact | None) -> dict[str, object]:
    told = {"retraining": None if retraining is None else asdict(retraining)}
    return {**asdict(facts), **told, "checks": [asdict(check) for check in checks], "ok": all(check.holds for check in checks)}


def _worker_serves(sessions: Sessions) -> bool:
    with reading(sessions) as session:
        said = [codec.decode(body, topics.WORKER_STATUS, WorkerStatus).event for body in session.scalars(select(WorkerRow.body))]
    return any(status.health is Health.SERVING for status in said)


def _until(stop: threading.Event, limit_s: float, done: Callable[[], bool]) -> bool:
    """Wait for `done`; False if it did not come in time or the user has had enough."""
    until = time.monotonic() + limit_s
    while not done():
        if stop.wait(_LOOK_S) or time.monotonic() > until:
            return False
    return True


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM set the event; whatever is being started is then stopped in order, and nothing is left behind."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop_stack(settings: Settings, console: Console, *, keep_running: bool) -> None:
    if keep_running:
        console.print("the stack is left running; try `kerbwatch incidents list`, then `kerbwatch down`")
    else:
        console.print("[dim]stopping[/]")
        stack.stop(settings)
