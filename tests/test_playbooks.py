"""A playbook file that does not hold is refused with the file and the key that is wrong."""

import re
from importlib.resources import files

import msgspec
import pytest

from detectors import catalogue
from detectors.traffic import rules
from inference.lifecycle import vetting_alarm
from inference.service import backlog, doubts, refusals
from responders.playbooks import playbooks
from responders.playbooks.detectors import DETECTORS
from responders.regular import checks
from streams.errors import BadInput
from streams.events import Kind

EVASION = files("responders").joinpath("playbooks", "evasion.toml").read_text(encoding="utf-8")


def test_every_kind_has_a_playbook() -> None:
    assert set(playbooks.load()) == set(Kind)


def test_the_evasion_playbook_holds() -> None:
    names = [step.name for step in playbooks.parse(EVASION, "evasion.toml").steps]
    assert names == ["quarantine", "safe_mode", "await_safe_mode", "watch", "restore", "await_normal_mode", "close"]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("version = 3", "version = one", "line 3"),
        ('kind = "evasion"\n', "", "kind"),
        ('kind = "evasion"', 'kind = "weather"', r"weather.*\$\.kind"),
        ('action = "quarantine"', 'action = "quarantene"', r"\$\.steps\[0\]\.action"),
        ("time_limit_s = 15 ", "time_limt_s = 15 ", "time_limt_s.*steps"),
        ("time_limit_s = 1800", "time_limit_s = 0", r"steps\[3\]\.time_limit_s"),
        ("time_limit_s = 1800", "", r"steps\[3\]\.time_limit_s: missing for action await_calm"),
        ('action = "quarantine"', 'action = "quarantine"\nmode = "safe"', r"steps\[0\]\.mode: not for action quarantine"),
        ('name = "watch"', 'name = "restore"', r"steps\[4\]\.name: 'restore' is taken"),
        ('on_relapse = "safe_mode"', 'on_relapse = "safemode"', "on_relapse: no step 'safemode'"),
        ('on_human_close = "restore"\n', "", "on_human_close: missing"),
        ('"AML.T0015"', '"T0015"', r"techniques\[0\]"),
        ('function = "detect"', 'function = "guess"', r"steps\[3\]\.function"),
        ('mode = "normal"\nstate', 'mode = "safe"\nstate', r"steps\[4\].*await_reports safe|last serve must be normal"),
        ('action = "close"\nstate = "closed"', 'action = "close"\nstate = "open"', r"steps\[6\]\.state"),
    ],
)
def test_a_fault_is_named_by_file_and_key(old: str, new: str, says: str) -> None:
    assert old in EVASION
    with pytest.raises(BadInput, match=r"evasion\.toml") as caught:
        playbooks.parse(EVASION.replace(old, new, 1), "evasion.toml")
    assert re.search(says, str(caught.value)), str(caught.value)


BREAKS = [
    ("evasion", 'undo = "restore"\n', "", r"undo: missing for serve safe"),
    ("evasion", 'undo = "restore"', 'undo = "watch"', r"undo: 'watch' is no later step that serves the normal mode"),
    ("evasion", 'on_failure = "safe_mode"', 'on_failure = "await_safe_mode"', r"on_failure: 'await_safe_mode' is no other step"),
    ("evasion", "retries = 1\n", "retries = 99\n", r"\$\.steps\[2\]\.retries"),
    ("evasion", 'role = "R7"', 'role = "R8"', r"calls\[1\]\.role: R8 is called earlier"),
    ("evasion", 'role = "R7"', 'role = "R9"', r"calls\[1\]\.role"),
    ("evasion", "cameras = 3", "cameras = 1", r"\$\.grading\.cameras"),
    ("drift", 'approval = ["R8"]', 'approval = ["R8", "R8"]', r"approval: a role is named twice"),
    ("drift", 'when = { at_least = "high" }', "when = { }", r"when: names nothing"),
    ("drift", 'when = { at_least = "high" }', 'when = { at_least = "high", below = "high" }', r"when: no severity is below"),
    ("drift", 'when = { at_least = "high" }', 'when = { causes = ["bad luck"] }', r"\$\.steps\[2\]\.when\.causes"),
    ("drift", "onset_signals = 2\n", "", r"onset_signals: missing for action await_onset"),
    ("drift", "dwell_s = 30\nstate", "state", r"dwell_s: missing for action await_onset"),
    ("drift", 'state = "suspected"', 'state = "open"', r"state: suspected belongs to await_onset"),
    ("traffic", 'approval = ["R6"]\n', "", r"approval: missing for action manual"),
    ("traffic", "time_limit_s = 86400\n", "", r"time_limit_s: missing for action manual"),
    ("health", "time_limit_s = 900", "time_limit_s = 900\nretries = 1", r"retries: not for action await_calm"),
    ("health", "time_limit_s = 900", 'time_limit_s = 900\napproval = ["R6"]', r"approval: not for action await_calm"),
    ("evasion", "relapse_within_s = 600", "relapse_within_s = inf", r"\$\.relapse_within_s"),
    ("evasion", "relapse_within_s = 600", "relapse_within_s = 1e12", r"<= 31536000\.0 - at `\$\.relapse_within_s"),
    ("evasion", "time_limit_s = 1800", "time_limit_s = inf", r"\$\.steps\[3\]\.time_limit_s"),
    ("evasion", "time_limit_s = 1800", "time_limit_s = nan", r"\$\.steps\[3\]\.time_limit_s"),
    ("drift", "dwell_s = 30\n", "dwell_s = inf\n", r"\$\.steps\[0\]\.dwell_s"),
    ("poisoning", '["newcomer"]', '["newcommer"]', r"when\.detectors: no detector is called 'newcommer'; did you mean newcomer"),
    ("poisoning", '["vetting"]', '["weather"]', r"when\.not_detectors: no detector is called 'weather'; there are answers, "),
    ("health", "changed = 2026-11-21", 'changed = "yesterday"', r"\$\.changed"),
]


@pytest.mark.parametrize(("name", "old", "new", "says"), BREAKS, ids=[f"{name}: {new or old}" for name, old, new, _ in BREAKS])
def test_a_fault_is_named_by_the_line_on_which_it_stands(name: str, old: str, new: str, says: str) -> None:
    text = files("responders").joinpath("playbooks", f"{name}.toml").read_text(encoding="utf-8")
    assert old in text
    broken = text.replace(old, new, 1)
    with pytest.raises(BadInput) as caught:
        playbooks.parse(broken, f"{name}.toml")
    said = str(caught.value)
    assert re.search(says, said), said
    lines = broken.splitlines()
    key = text[: text.index(old)].count("\n") + 1 + new.rstrip().count("\n")
    found = int(re.search(r"line (\d+)", said)[1])  # type: ignore[index]
    # Where the key is missing, the line is that of the table that it belongs to.
    headers = [number for number, line in enumerate(lines[:key], start=1) if line.startswith("[[")]
    assert found in {key, headers[-1] if headers else 0}


def test_a_number_of_thousands_of_digits_is_no_toml() -> None:
    with pytest.raises(BadInput, match="is no TOML"):
        playbooks.parse(f"version = {'9' * 5_000}", "long.toml")


@pytest.mark.parametrize("seconds", ["inf", "1e12", "nan"])
def test_no_call_waits_for_ever(seconds: str) -> None:
    wait = re.search(r"wait_s = \d+", EVASION)
    assert wait is not None
    with pytest.raises(BadInput, match=r"evasion\.toml, line \d+: .*calls\[0\]\.wait_s"):
        playbooks.parse(EVASION.replace(wait[0], f"wait_s = {seconds}", 1), "evasion.toml")


def test_the_detectors_that_a_playbook_may_name_are_those_that_speak() -> None:
    drift_and_evasion = {entry.name for entry in catalogue.RUNNING}
    of_frames = {guard.name for guard in (*rules.GUARDS, rules.CHAFF)}
    of_workers = {backlog.DETECTOR, refusals.DETECTOR, doubts.SERVES, doubts.STANDS_BY}
    assert drift_and_evasion | of_frames | of_workers | {*checks.DETECTORS.values(), vetting_alarm.DETECTOR} == DETECTORS


def test_a_file_nested_too_deeply_is_refused_with_its_line() -> None:
    with pytest.raises(BadInput, match=r"deep\.toml, line 2: brackets in brackets"):
        playbooks.parse("version = 1\ndeep = " + "[" * 3000 + "]" * 3000, "deep.toml")


def test_an_old_incidents_playbook_still_decodes() -> None:
    old = b"""{"kind":"drift","version":1,"title":"t","techniques":[],"steps":[{"name":"close","action":"close","state":"closed",
    "function":"recover","mode":null,"time_limit_s":null,"mitigations":[]}],"on_relapse":null,"max_relapses":0,
    "on_human_close":null}"""
    assert msgspec.json.decode(old, type=playbooks.Playbook).version == 1


def test_a_playbook_that_never_closes_is_refused() -> None:
    with pytest.raises(BadInput, match="close belongs to the last step"):
        playbooks.parse(EVASION[: EVASION.rindex("[[steps]]")], "evasion.toml")
