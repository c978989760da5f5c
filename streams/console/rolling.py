"""`kerbwatch rollouts cancel|pause|resume`: people take a retrained model out of service, or let its run rest, by signed acts.

It decides nothing: `responders.rollouts` does who may and what follows, `streams.promotion` which former model comes back. No topic
feeds it.

Source: paper 4.6 (immediate roll-back), SC-10.
"""

from inference.provenance.registry import registry_of
from responders.console.rollouts import RolloutId, act
from responders.console.tables import AsJson, Comment
from responders.people.login import Actor, Code, logged_in
from responders.rollouts.rollout import Verb
from streams.promotion import going_back


def cancel(rollout: RolloutId, comment: Comment, actor: Actor = None, code: Code = None, as_json: AsJson = False) -> None:
    """Stop a rollout; a candidate in service goes at once. Example: kerbwatch rollouts cancel 9c1e -m "a better one comes"."""
    with logged_in(actor, code) as login:
        former = going_back(registry_of(login.settings), login.settings)
        act(login, Verb.CANCEL, rollout, comment, former=former, as_json=as_json)


def pause(rollout: RolloutId, comment: Comment, actor: Actor = None, code: Code = None, as_json: AsJson = False) -> None:
    """Let a retraining run rest: it ends between two steps and keeps what it has, until `kerbwatch rollouts resume`.

    Example: kerbwatch rollouts pause 9c1e -m "the machine is needed"
    """
    with logged_in(actor, code) as login:
        act(login, Verb.PAUSE, rollout, comment, as_json=as_json)


def resume(rollout: RolloutId, comment: Comment, actor: Actor = None, code: Code = None, as_json: AsJson = False) -> None:
    """Let a paused run go on where it stood; the keeper starts it within seconds (`kerbwatch up`).

    Example: kerbwatch rollouts resume 9c1e -m "the rush hour is over"
    """
    with logged_in(actor, code) as login:
        act(login, Verb.RESUME, rollout, comment, as_json=as_json)
