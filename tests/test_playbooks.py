"""A playbook file that does not hold is refused with the file and the key that is wrong."""

import re
from importlib.resources import files

import pytest

from responders import playbooks
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
        ("version = 2", "version = one", "line 3"),
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


def test_a_playbook_that_never_closes_is_refused() -> None:
    with pytest.raises(BadInput, match="close belongs to the last step"):
        playbooks.parse(EVASION[: EVASION.rindex("[[steps]]")], "evasion.toml")
