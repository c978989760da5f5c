"""What rounds came to, scenario by scenario and over all: found, kind right, how fast, at whose expense.

It decides how outcomes are counted; it runs and reads nothing. No topic feeds it.

Source: paper 4.7 (clocks of the response plan).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from rich.table import Table

from responders.console.tables import table
from streams.drill.referee import Outcome
from streams.drill.scenario import Scenario


@dataclass(frozen=True)
class Clock:
    """Percentiles of seconds over the rounds that have them; None without one."""

    p50: float | None
    p95: float | None
    rounds: int


@dataclass(frozen=True)
class Line:
    """A scenario's rounds, and in how many something was found, of the right kind, and at the other camera's expense.

    faults: each once, in words.
    """

    name: str
    passed: bool
    rounds: int
    rounds_passed: int
    found: int
    kind_right: int
    seconds_to_detect: Clock
    seconds_to_contain: Clock
    seconds_to_recover: Clock
    wrong_weights: int
    disturbed: int
    false_incidents: int
    attacked: int
    attacked_not_quarantined: int
    faults: tuple[str, ...]


@dataclass(frozen=True)
class Board:
    """The whole drill.

    seconds_to_detect, seconds_to_contain: over the rounds of scenarios that declare a limit for them (recovery: for containment);
    with `_all`, over every round that has a value, whatever was found and however slow it may be.
    """

    scenarios: tuple[Line, ...]
    rounds: int
    rounds_passed: int
    seconds_to_detect: Clock
    seconds_to_contain: Clock
    seconds_to_recover: Clock
    seconds_to_detect_all: Clock
    seconds_to_contain_all: Clock
    seconds_to_recover_all: Clock
    kind_right: int
    disturbed: int
    wrong_weights: int
    false_incidents: int
    command: str
    machine: str
    date: str
    outcomes: tuple[Outcome, ...]

    @property
    def passed(self) -> bool:
        """Whether every round did, and there was one."""
        return 0 < self.rounds_passed == self.rounds


def board(scenarios: Sequence[Scenario], outcomes: Sequence[Outcome], *, command: str, machine: str, date: str) -> Board:
    """Count the outcomes of these scenarios; a scenario without one does not appear."""
    lines = []
    for scenario in {one.name: one for one in scenarios}.values():  # one that is played twice in a turn is one line
        mine = [one for one in outcomes if one.scenario == scenario.name]
        if not mine:
            continue
        lines.append(
            Line(
                name=scenario.name,
                passed=all(one.passed for one in mine),
                rounds=len(mine),
                rounds_passed=sum(one.passed for one in mine),
                found=sum(bool(one.kinds) for one in mine),
                kind_right=sum(one.kind_right for one in mine),
                seconds_to_detect=_clock([one.seconds_to_detect for one in mine]),
                seconds_to_contain=_clock([one.seconds_to_contain for one in mine]),
                seconds_to_recover=_clock([one.seconds_to_recover for one in mine]),
                wrong_weights=sum(one.wrong_weights for one in mine),
                disturbed=sum(bool(one.disturbed) for one in mine),
                false_incidents=sum(len(one.false_incidents) for one in mine),
                attacked=sum(one.attacked for one in mine),
                attacked_not_quarantined=sum(one.attacked_not_quarantined for one in mine),
                faults=tuple(dict.fromkeys(fault for one in mine for fault in one.faults)),
            )
        )
    limited = {one.name for one in scenarios if one.expect.detect_within_s is not None}
    held = {one.name for one in scenarios if one.expect.contain_within_s is not None}
    return Board(
        scenarios=tuple(lines),
        rounds=len(outcomes),
        rounds_passed=sum(one.passed for one in outcomes),
        seconds_to_detect=_clock([one.seconds_to_detect for one in outcomes if one.scenario in limited]),
        seconds_to_contain=_clock([one.seconds_to_contain for one in outcomes if one.scenario in held]),
        seconds_to_recover=_clock([one.seconds_to_recover for one in outcomes if one.scenario in held]),
        seconds_to_detect_all=_clock([one.seconds_to_detect for one in outcomes]),
        seconds_to_contain_all=_clock([one.seconds_to_contain for one in outcomes]),
        seconds_to_recover_all=_clock([one.seconds_to_recover for one in outcomes]),
        kind_right=sum(one.kind_right for one in outcomes),
        disturbed=sum(bool(one.disturbed) for one in outcomes),
        wrong_weights=sum(one.wrong_weights for one in outcomes),
        false_incidents=sum(len(one.false_incidents) for one in outcomes),
        command=command,
        machine=machine,
        date=date,
        outcomes=tuple(outcomes),
    )


def as_json(made: Board) -> dict[str, object]:
    """For machines."""
    return {**asdict(made), "passed": made.passed}


def as_table(made: Board) -> Table:
    """For people: a line a scenario; seconds at the 50th and 95th percentile."""
    shown = table(
        *("scenario", "passed", "detect", "contain", "recover", "wrong", "false"),
        title=f"{made.rounds_passed} of {made.rounds} rounds passed; seconds, p50 / p95",
    )
    shown.caption = "wrong: frames judged by the wrong weights; false: incidents that nothing explains"
    shown.caption_justify = "left"
    for column in shown.columns:
        column.no_wrap = True
    for line in made.scenarios:
        colour = "green" if line.passed else "red"
        clocks = (line.seconds_to_detect, line.seconds_to_contain, line.seconds_to_recover)
        counts = (str(line.wrong_weights or ""), str(line.false_incidents or ""))
        shown.add_row(f"[{colour}]{line.name}[/]", f"{line.rounds_passed}/{line.rounds}", *map(_told, clocks), *counts)
    shown.add_section()
    limited = (made.seconds_to_detect, made.seconds_to_contain, made.seconds_to_recover)
    every = (made.seconds_to_detect_all, made.seconds_to_contain_all, made.seconds_to_recover_all)
    shown.add_row("those with a limit", "", *map(_told, limited))
    shown.add_row(
        "all", f"{made.rounds_passed}/{made.rounds}", *map(_told, every), str(made.wrong_weights), str(made.false_incidents)
    )
    return shown


def in_words(made: Board) -> list[str]:
    """What was wrong, a line a fault, by scenario; empty where nothing was."""
    return [f"{line.name}: {fault}" for line in made.scenarios for fault in line.faults]


def _clock(seconds: Sequence[float | None]) -> Clock:
    known = [one for one in seconds if one is not None]
    if not known:
        return Clock(None, None, 0)
    low, high = np.percentile(known, (50, 95))
    return Clock(round(float(low), 2), round(float(high), 2), len(known))


def _told(clock: Clock) -> str:
    if clock.p50 is None:
        return ""
    return f"{clock.p50:.1f}" if clock.rounds == 1 else f"{clock.p50:.1f} / {clock.p95:.1f}"
