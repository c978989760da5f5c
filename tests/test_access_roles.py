"""What each role may do, and that two people are two people."""

from itertools import permutations
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from responders.people.access import RULES, Deed, missing, refusal
from responders.people.roles import Role

ROLES = st.lists(st.sampled_from(Role), max_size=3)
VOICES = st.dictionaries(st.sampled_from("abcd"), ROLES, max_size=4)
BOTH = (Role.DATA_ENGINEER, Role.SECMLOPS_ENGINEER)


def test_every_deed_has_a_rule_that_somebody_can_meet() -> None:
    assert set(RULES) == set(Deed)
    for rule in RULES.values():
        assert rule.roles
        assert set(rule.together) <= set(rule.roles)


def test_what_needs_two_people_or_changes_who_may_act_needs_a_code() -> None:
    with_code = {deed for deed, rule in RULES.items() if rule.code}
    assert {deed for deed, rule in RULES.items() if rule.together} <= with_code
    assert with_code >= {Deed.APPROVE_STEP, Deed.APPROVE_MODEL, Deed.PROMOTE, Deed.RELEASE, Deed.DISCARD, Deed.ROTATE_KEYS}
    assert with_code >= {Deed.ADD_PERSON, Deed.REMOVE_PERSON, Deed.ROTATE_OWN_KEY}


def test_the_papers_pairs_are_the_ones_that_must_agree() -> None:
    for deed in (Deed.APPROVE_MODEL, Deed.PROMOTE):
        assert RULES[deed].together == (Role.DATA_SCIENTIST, Role.SECMLOPS_ENGINEER)
    for deed in (Deed.RELEASE, Deed.DISCARD, Deed.VOUCH):
        assert RULES[deed].together == (Role.DATA_ENGINEER, Role.SECMLOPS_ENGINEER)


@given(st.sampled_from(Deed), ROLES)
def test_a_role_of_the_rule_is_enough_and_without_one_the_refusal_names_what_is_needed(deed: Deed, roles: list[Role]) -> None:
    why = refusal(deed, roles)
    assert (why == "") == bool(set(RULES[deed].roles) & set(roles))
    if why:
        assert all(role.value in why for role in RULES[deed].roles)


def test_one_person_with_both_roles_is_still_one_person() -> None:
    assert missing(BOTH, {"a": BOTH}) == (Role.SECMLOPS_ENGINEER,)
    assert missing(BOTH, {"a": BOTH, "b": (Role.DATA_ENGINEER,)}) == ()
    assert missing(BOTH, {"a": (Role.DATA_ENGINEER,), "b": (Role.DATA_ENGINEER,)}) == (Role.SECMLOPS_ENGINEER,)


@given(st.lists(st.sampled_from(Role), max_size=3), VOICES)
def test_nothing_is_missing_exactly_where_different_people_can_stand_for_every_role(
    together: list[Role], voices: dict[str, list[Role]]
) -> None:
    stands = any(
        all(role in voices[name] for role, name in zip(together, people, strict=True))
        for people in permutations(voices, len(together))
    )
    assert (missing(together, voices) == ()) == stands
    assert len(missing(together, voices)) <= len(together)


def test_the_page_about_people_shows_this_table() -> None:
    page = (Path(__file__).parent.parent / "docs" / "people.md").read_text(encoding="utf-8")
    shown = {}
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 2 + len(Role) and cells[1] in {"", "x", "2"}:
            shown[cells[0]] = cells[1:]
    named = {
        "note": (Deed.NOTE,),
        "acknowledge": (Deed.ACKNOWLEDGE,),
        "assign, snooze, close": (Deed.ASSIGN, Deed.SNOOZE, Deed.CLOSE),
        "reclassify": (Deed.RECLASSIFY,),
        "approve or reject a playbook's step": (Deed.APPROVE_STEP, Deed.REJECT_STEP),
        "approve a retrained model, promote": (Deed.APPROVE_MODEL, Deed.PROMOTE),
        "reject a retrained model": (Deed.REJECT_MODEL,),
        "cancel a rollout": (Deed.CANCEL_ROLLOUT,),
        "roll back": (Deed.ROLL_BACK,),
        "pause or resume a retraining run": (Deed.PAUSE_RUN, Deed.RESUME_RUN),
        "have a model retrained, stage one": (Deed.RETRAIN, Deed.STAGE),
        "vouch for golden data": (Deed.VOUCH,),
        "send a refused message again": (Deed.REPLAY,),
        "disown an entry of the audit log": (Deed.DISOWN,),
        "look at a quarantined picture": (Deed.OPEN,),
        "release, discard": (Deed.RELEASE, Deed.DISCARD),
        "add or remove people": (Deed.ADD_PERSON, Deed.REMOVE_PERSON),
        "rotate keys": (Deed.ROTATE_KEYS,),
        "one's own key": (Deed.ROTATE_OWN_KEY,),
    }
    assert set(shown) == set(named)
    assert {deed for deeds in named.values() for deed in deeds} == set(Deed) - {Deed.ENROL}
    for words, deeds in named.items():
        for deed in deeds:
            rule = RULES[deed]
            marks = ["2" if role in rule.together else "x" if role in rule.roles else "" for role in Role]
            assert shown[words] == [*marks, "yes" if rule.code else ""], deed
