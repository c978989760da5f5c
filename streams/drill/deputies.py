"""The people of a drill: where a playbook asks for roles, somebody in each of them approves, as people would.

It decides nothing: which roles are asked for is the incident's. It refuses nothing itself: what these people say goes through the
same command, signature and second factor as anybody's. They are brought in when needed, in the drill's own home. No topic.

Source: paper 4.6 (approval by roles), 4.7 (the response plan is exercised).
"""

from datetime import UTC, datetime

from infra import totp
from infra.db import Sessions, writing
from infra.keys import people_key, person_key_file, replace_person_key
from infra.settings import Settings
from responders.people import people
from responders.people.acts import public_of
from responders.people.roles import Role
from streams.commands import command

_BY = "drill"


def approve(settings: Settings, sessions: Sessions, incident: str, roles: tuple[Role, ...]) -> None:
    """The step that an incident stands at, approved by one person in each role. Raises Unavailable if a command fails."""
    for role in roles:
        name = f"drill-{role.lower()}"
        code = _brought_in(settings, sessions, name, role)
        words = ["incidents", "approve", incident, "--actor", name, "--code", code, "-m", "drill: what was asked for is done"]
        command(words, settings)


def _brought_in(settings: Settings, sessions: Sessions, name: str, role: Role) -> str:
    """A person with a key and a second factor of their own, both new; the code that counts now."""
    now, secret = datetime.now(UTC), totp.new_secret()
    with writing(sessions) as session:
        people.put(session, name, [role], _BY, now)
        people.give_key(session, name, public_of(replace_person_key(person_key_file(settings, name))), _BY, now)
        people.enrol(session, name, secret, people_key(settings), step=0, now=now)
    return totp.code_at(secret, totp.step_of(now))
