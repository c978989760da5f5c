"""The desk takes in what people signed, once, and puts every refusal on record; on SQLite and PostgreSQL alike."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
from a_person import Phone, newcomer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from incident_events import at
from msgspec.structs import replace
from sqlalchemy import select, update

from infra import totp
from infra.db import Sessions, reading, writing
from infra.keys import people_key, person_key_file, read_person_key
from infra.people_tables import ActRow, PersonKeyRow, PersonRow
from infra.settings import Settings
from infra.tables import EffectRow
from responders.people import desk, people
from responders.people.access import Deed
from responders.people.acts import Signed, Statement, public_of, sign
from responders.people.desk import Admitted, Desk
from responders.people.login import first_operator
from responders.people.roles import Role
from streams import codec
from streams.errors import BadInput, Unavailable
from streams.events import AuditEntry
from streams.topics import AUDIT

pytest_plugins = ["databases"]

TARGET = "f" * 32


class Town:
    """Three people, a desk, and a clock."""

    def __init__(self, database: Settings, sessions: Sessions) -> None:
        self.settings, self.sessions, self.now = database, sessions, at(0)
        self.desk = Desk(sessions, lambda: people_key(database))
        self.phones: dict[str, Phone] = {}
        self.add("data-1", Role.DATA_ENGINEER)
        self.add("security-1", Role.SECMLOPS_ENGINEER)
        self.add("architect-1", Role.SOLUTION_ARCHITECT)

    def add(self, name: str, *roles: Role) -> None:
        with writing(self.sessions) as session:
            self.phones[name] = newcomer(session, self.settings, name, roles, self.now)

    def key(self, name: str) -> Ed25519PrivateKey:
        return read_person_key(person_key_file(self.settings, name))

    def said(self, name: str, deed: Deed, comment: str = "seen") -> Statement:
        return Statement(actor=name, deed=deed, target=TARGET, comment=comment, time=self.now)

    def act(self, name: str, deed: Deed, code: str | None = None) -> Admitted:
        self.now += timedelta(seconds=1)
        return self.desk.admit(sign(self.key(name), self.said(name, deed)), code, self.now)

    def act_with_code(self, name: str, deed: Deed) -> Admitted:
        self.now += timedelta(seconds=60)
        return self.act(name, deed, self.phones[name].code(self.now))

    def audit(self) -> Sequence[AuditEntry]:
        with reading(self.sessions) as session:
            bodies = session.scalars(select(EffectRow.payload).where(EffectRow.topic == "audit").order_by(EffectRow.number)).all()
        return [codec.decode(body, AUDIT, AuditEntry).event for body in bodies]

    def refusals(self) -> list[tuple[str, str]]:
        return [(entry.actor, entry.why) for entry in self.audit() if entry.action == "people.refuse"]


@pytest.fixture
def town(database: Settings, sessions: Sessions) -> Town:
    return Town(database, sessions)


def test_an_act_is_kept_with_its_signature_in_database_and_audit_trail(town: Town) -> None:
    admitted = town.act("security-1", Deed.CLOSE)
    with reading(town.sessions) as session:
        row = session.scalar(select(ActRow))
        assert row is not None
        assert (row.id, row.actor, row.deed, row.target, row.with_code) == (admitted.id, "security-1", "close", TARGET, False)
        assert desk.check(session) == desk.Checked(1, ())
    entry = next(entry for entry in town.audit() if entry.action == "people.act")
    assert entry.signed.encode() == row.body
    assert (entry.actor, entry.target, entry.why, entry.cause_id) == ("security-1", TARGET, "close: seen", admitted.id)
    assert entry.signature


def test_who_is_not_who_they_say_is_refused_on_record(town: Town) -> None:
    stranger = Ed25519PrivateKey.generate()
    for name, why in (("stranger-1", "not known"), ("security-1", "not signed with their key")):
        with pytest.raises(BadInput, match=why):
            town.desk.admit(sign(stranger, town.said(name, Deed.CLOSE)), None, town.now)
    assert [actor for actor, _ in town.refusals()] == ["stranger-1", "security-1"]
    with reading(town.sessions) as session:
        assert session.scalars(select(ActRow)).all() == []


def test_what_was_changed_after_signing_is_refused(town: Town) -> None:
    signed = sign(town.key("architect-1"), town.said("architect-1", Deed.NOTE))
    other = Signed(signed.body.replace(b"architect-1", b"security-1"), signed.signature)
    with pytest.raises(BadInput, match="not signed with their key"):
        town.desk.admit(other, None, town.now)
    with pytest.raises(BadInput, match="not readable"):
        town.desk.admit(Signed(b"{}", signed.signature), None, town.now)
    with pytest.raises(BadInput, match="layout"):
        town.desk.admit(sign(town.key("architect-1"), replace(signed.statement(), layout="another")), None, town.now)


def test_an_act_counts_once_and_only_while_it_is_fresh(town: Town) -> None:
    signed = sign(town.key("security-1"), town.said("security-1", Deed.CLOSE))
    town.desk.admit(signed, None, town.now)
    with pytest.raises(BadInput, match="given before"):
        town.desk.admit(signed, None, town.now)
    for seconds in (-121, 121):
        stale = sign(town.key("security-1"), town.said("security-1", Deed.CLOSE, str(seconds)))
        with pytest.raises(BadInput, match="counts for 120 s"):
            town.desk.admit(stale, None, town.now + timedelta(seconds=seconds))
    assert len(town.refusals()) == 3


def test_a_role_that_may_not_is_refused_on_record(town: Town) -> None:
    with pytest.raises(BadInput, match=r"R2 .* to close an incident, R6"):
        town.act("architect-1", Deed.CLOSE)
    assert town.refusals()[0][0] == "architect-1"
    assert town.refusals()[0][1].startswith("close: has R2")
    town.act("architect-1", Deed.NOTE)
    with pytest.raises(BadInput, match="comment"):
        town.desk.admit(sign(town.key("architect-1"), town.said("architect-1", Deed.NOTE, " ")), None, town.now)


def test_an_act_without_a_comment_is_refused_on_record_and_costs_no_code(town: Town) -> None:
    town.now += timedelta(seconds=60)
    code = town.phones["security-1"].code(town.now)
    silent = sign(town.key("security-1"), town.said("security-1", Deed.ROTATE_KEYS, " "))
    with pytest.raises(BadInput, match="--comment"):
        town.desk.admit(silent, code, town.now)
    [(actor, why)] = town.refusals()
    assert (actor, "comment that says why is missing" in why) == ("security-1", True)
    assert town.act("security-1", Deed.ROTATE_KEYS, code)


def test_a_code_is_needed_counts_once_and_a_guesser_is_stopped(town: Town) -> None:
    with pytest.raises(BadInput, match="six digits"):
        town.act("security-1", Deed.ROTATE_KEYS)
    code = town.phones["security-1"].code(town.now)
    assert town.act("security-1", Deed.ROTATE_KEYS, code).statement.deed is Deed.ROTATE_KEYS
    with pytest.raises(BadInput, match="wrong or was used"):
        town.act("security-1", Deed.ROTATE_KEYS, code)
    for _ in range(4):
        with pytest.raises(BadInput, match="wrong or was used"):
            town.act("security-1", Deed.ROTATE_KEYS, "000000")
    right = totp.code_at(town.phones["security-1"].secret, totp.step_of(town.now) + 1)
    with pytest.raises(BadInput, match="wait 5 minutes"):
        town.act("security-1", Deed.ROTATE_KEYS, right)
    town.now += timedelta(minutes=5)
    town.act_with_code("security-1", Deed.ROTATE_KEYS)
    assert len(town.refusals()) == 7
    with reading(town.sessions) as session:
        assert session.get_one(PersonRow, "security-1").totp_failures == 0
        assert all(row.with_code for row in session.scalars(select(ActRow)))


def test_a_code_that_is_given_twice_at_once_counts_once(town: Town) -> None:
    code = town.phones["security-1"].code(town.now)
    signed = [sign(town.key("security-1"), town.said("security-1", Deed.ROTATE_KEYS, str(n))) for n in range(4)]
    start = threading.Barrier(len(signed))

    def give(one: Signed) -> bool:
        start.wait(10)
        try:
            town.desk.admit(one, code, town.now)
        except BadInput:
            return False
        return True

    with ThreadPoolExecutor(len(signed)) as threads:
        assert sum(threads.map(give, signed)) == 1


def test_without_a_second_factor_nothing_that_needs_one_is_possible(town: Town) -> None:
    with writing(town.sessions) as session:
        session.get_one(PersonRow, "security-1").totp_sealed = None
    with pytest.raises(BadInput, match="people enrol"):
        town.act("security-1", Deed.ROTATE_KEYS, "123456")
    town.act("security-1", Deed.ENROL)


def test_a_second_factor_is_replaced_with_a_code_of_the_old_one_only(town: Town) -> None:
    with pytest.raises(BadInput, match="six digits"):
        town.act("data-1", Deed.ENROL)
    town.act_with_code("data-1", Deed.ENROL)


def test_a_sealed_secret_opens_for_nobody_else(town: Town) -> None:
    with writing(town.sessions) as session:
        mine = session.get_one(PersonRow, "data-1").totp_sealed
        assert mine is not None
        assert town.phones["data-1"].secret not in mine
        session.execute(update(PersonRow).where(PersonRow.name == "security-1").values(totp_sealed=mine))
    with pytest.raises(BadInput, match="cannot be checked"):
        town.act_with_code("security-1", Deed.ROTATE_KEYS)
    assert [actor for actor, _ in town.refusals()] == ["security-1"]


def agreed(town: Town, deed: Deed = Deed.RELEASE, *, later: timedelta = timedelta(0)) -> desk.Agreement:
    with reading(town.sessions) as session:
        return desk.agreement(session, deed, TARGET, town.now + later)


def test_two_people_agree_once_and_within_a_day(town: Town) -> None:
    town.act_with_code("data-1", Deed.RELEASE)
    assert agreed(town).missing == (Role.SECMLOPS_ENGINEER,)
    town.act_with_code("data-1", Deed.RELEASE)
    assert agreed(town).missing == (Role.SECMLOPS_ENGINEER,)
    town.act_with_code("security-1", Deed.RELEASE)
    both = agreed(town)
    assert (both.people, both.missing) == (("data-1", "security-1"), ())
    assert agreed(town, Deed.DISCARD).people == ()
    assert agreed(town, later=timedelta(hours=25)).people == ()
    with writing(town.sessions) as session:
        desk.use(session, both)
    assert agreed(town).people == ()


def test_one_person_with_both_roles_does_not_agree_with_themself(town: Town) -> None:
    town.add("both-1", Role.DATA_ENGINEER, Role.SECMLOPS_ENGINEER)
    town.act_with_code("both-1", Deed.RELEASE)
    town.act_with_code("both-1", Deed.RELEASE)
    assert len(agreed(town).missing) == 1
    town.act_with_code("data-1", Deed.RELEASE)
    assert agreed(town).missing == ()


def test_a_voice_is_lost_with_the_role(town: Town) -> None:
    town.act_with_code("data-1", Deed.RELEASE)
    town.act_with_code("security-1", Deed.RELEASE)
    with writing(town.sessions) as session:
        people.put(session, "data-1", [Role.SOLUTION_ARCHITECT], "root", town.now)
    assert agreed(town).missing == (Role.DATA_ENGINEER,)


def test_what_a_thief_signed_counts_neither_for_who_was_added_again_nor_beside_their_own_word(town: Town) -> None:
    town.act_with_code("data-1", Deed.RELEASE)  # somebody else, with their key and phone
    with writing(town.sessions) as session:
        people.drop(session, "data-1", "root", town.now)
    person_key_file(town.settings, "data-1").unlink()
    town.add("data-1", Role.DATA_ENGINEER)
    town.act_with_code("security-1", Deed.RELEASE)
    assert (agreed(town).people, agreed(town).missing) == (("security-1",), (Role.DATA_ENGINEER,))
    again = town.act_with_code("data-1", Deed.RELEASE)
    assert agreed(town).missing == ()
    assert len(agreed(town).acts) == 2
    assert again.id in agreed(town).acts


def test_old_acts_hold_after_a_new_key_and_forged_ones_are_found(town: Town) -> None:
    town.act("security-1", Deed.CLOSE)
    with writing(town.sessions) as session:
        people.give_key(session, "security-1", public_of(Ed25519PrivateKey.generate()), "security-1", town.now)
    with pytest.raises(BadInput, match="not signed with their key"):
        town.act("security-1", Deed.CLOSE)
    town.act("architect-1", Deed.NOTE)
    with reading(town.sessions) as session:
        assert desk.check(session) == desk.Checked(2, ())
    with writing(town.sessions) as session:
        session.execute(update(ActRow).where(ActRow.actor == "architect-1").values(actor="data-1"))
        session.execute(update(ActRow).where(ActRow.actor == "security-1").values(target="0" * 32))
    with reading(town.sessions) as session:
        faults = desk.check(session).faults
    assert len(faults) == 2
    assert "something else than what was signed" in faults[0]
    assert "not on record as theirs" in faults[1]


def test_somebody_who_may_add_people_always_stays(town: Town) -> None:
    with pytest.raises(BadInput, match="nobody would be left"), writing(town.sessions) as session:
        people.drop(session, "security-1", "root", town.now)
    with pytest.raises(BadInput, match="nobody would be left"), writing(town.sessions) as session:
        people.put(session, "security-1", [Role.DATA_ENGINEER], "root", town.now)
    town.add("security-2", Role.SECMLOPS_ENGINEER)
    with writing(town.sessions) as session:
        people.drop(session, "security-1", "root", town.now)
        assert session.scalar(select(PersonKeyRow.until).where(PersonKeyRow.name == "security-1")) == town.now
    with pytest.raises(BadInput, match="not known"):
        town.act("security-1", Deed.NOTE)


@pytest.mark.parametrize("name", ["", " ", "../x", "a b", "x" * 65, "-x", "\u202ex"])
def test_what_is_no_name_is_refused(name: str, town: Town) -> None:
    with writing(town.sessions) as session, pytest.raises(BadInput, match="no name"):
        people.put(session, name, [Role.DATA_ENGINEER], "root", town.now)


def test_the_first_operator_of_a_home_is_its_user_and_nobody_after_that(database: Settings, sessions: Sessions) -> None:
    settings = replace(database, person="operator-1")
    now: datetime = at(0)
    assert first_operator(settings, now) == "operator-1"
    assert first_operator(replace(settings, person="operator-2"), now) == ""
    with reading(sessions) as session:
        [only] = people.listed(session)
    assert (only.name, only.roles, only.second_factor) == ("operator-1", people.FIRST_ROLES, False)
    path = person_key_file(settings, "operator-1")
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    with pytest.raises(BadInput, match="chmod 600"):
        read_person_key(path)
    with pytest.raises(Unavailable, match="KERBWATCH_PERSON"):
        read_person_key(path.with_name("nobody.key"))
