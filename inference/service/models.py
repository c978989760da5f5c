"""Which loaded network judges whose frames: the one in service, the reference that input is scored against, a candidate beside it.

It obeys `ModelState` and keeps networks loaded ahead: the safe model while the normal one serves, so that a switch only changes
which of them is asked, and the candidate of a rollout. Those two are loaded beside the stream, not in it. It refuses to let them
hurt service: a candidate that does not load or fails at work is left out and reported, and the model in service answers. What an
order asks to serve is loaded at once if need be; if that fails the context stays as it was. A reference that does not load keeps
nobody from being served: input is then scored against the model in service, and that is reported. Topic: model-state, through
the worker.

Source: paper 4.6 (safe-mode models, staged deployment), SC-6.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
import numpy as np

from inference.service.serving import View
from streams.errors import BrokenContract, KerbwatchError, Tampered, Unavailable
from streams.events import Context, Mode, ModelState, RolloutPhase, rollout_share
from streams.sources.base import Picture

_GREY: Picture = np.full((64, 64, 3), 128, np.uint8)
_STEADY = 100
"""Frames that a model answers, after one that it did not, until it is no longer told as a fault."""


class Network(Protocol):
    """What judges: pictures of one size in, one view each out (`inference.service.serving.Served`)."""

    def look(self, pictures: Sequence[Picture]) -> list[View]:
        """Views in the order of the pictures (H x W x 3, RGB, 0..255)."""
        ...


@dataclass(frozen=True)
class Model:
    """A loaded network and the digest of its weights. Equal by digest."""

    digest: str
    network: Network = field(compare=False)

    def prove(self) -> None:
        """Let it look at the picture that every model must answer before it is used. Raises what the network raises."""
        self.network.look([_GREY])


@dataclass(frozen=True)
class Lineup:
    """Who looks at a camera's frames: `serving` answers, `beside` is compared with it on some, `reference` scores the input.

    In shadow `beside` is the candidate; where a canary answers, it is the model that the candidate is to follow.
    """

    state: ModelState
    serving: Model
    reference: Model
    beside: Model | None = None


@dataclass
class Models:
    """The networks of all contexts. `load` opens weights by digest (verified); `aside` loads what is not needed at once."""

    load: Callable[[str], Network]
    aside: Executor
    _loaded: dict[str, Network] = field(default_factory=dict)
    _coming: dict[str, Future[Network]] = field(default_factory=dict)
    _failed: dict[str, str] = field(default_factory=dict)
    _stumbled: dict[str, tuple[str, int]] = field(default_factory=dict)
    _tampered: set[str] = field(default_factory=set)
    _lacking: dict[Context, KerbwatchError] = field(default_factory=dict)
    _states: dict[Context, ModelState] = field(default_factory=dict)

    def assign(self, state: ModelState) -> bool:
        """Serve `state.context` as it says from the next frame on. Returns False if it is served so already, or by a later order.

        A responder that was stalled may put an old order behind a newer one on the topic.

        Where the reference does not load, the weights in service are the reference (`faults`, `unproven` say so).

        Raises Tampered or Unavailable where the weights to be served do not load; the context then stays as it was.
        """
        now = self._states.get(state.context)
        if now is not None and (now.decision_id == state.decision_id or state.time < now.time):
            return False
        self._open(state.weights_digest)
        self._lacking.pop(state.context, None)
        try:
            self._open(state.reference_digest)
        except KerbwatchError as error:
            # Mostly the reference is the normal model, and the safe one is asked for because that cannot be trusted.
            self._lacking[state.context] = error
            state = msgspec.structs.replace(state, reference_digest=state.weights_digest)
        self._states[state.context] = state
        self._failed = {
            digest: why for digest, why in self._failed.items() if digest in self._ahead() and digest not in _ahead(state)
        }
        self._forget_unused()
        for digest in sorted(self._ahead() - self._loaded.keys() - self._coming.keys() - self._failed.keys()):
            self._coming[digest] = self.aside.submit(self._tried, digest)
        return True

    def take_in(self) -> bool:
        """Take over what was loaded aside since; True if something came or failed. Costs nothing where nothing is under way."""
        done = [digest for digest, future in self._coming.items() if future.done()]
        for digest in done:
            future = self._coming.pop(digest)
            error = future.exception()
            if error is None:
                self._loaded[digest] = future.result()
            else:
                self._failed[digest] = f"model {digest[:12]} does not load: {error}"
                if isinstance(error, Tampered):
                    self._tampered.add(digest)
        if done:
            self._forget_unused()
        return bool(done)

    def lineup(self, context: Context, camera_id: str) -> Lineup:
        """Who looks at this camera's frames. Raises BrokenContract if the context has no weights yet: wait for them first."""
        state = self._states.get(context)
        if state is None:
            raise BrokenContract(f"no weights are assigned to context {context}; run `kerbwatch setup`")
        serving = Model(state.weights_digest, self._loaded[state.weights_digest])
        reference = Model(state.reference_digest, self._loaded[state.reference_digest])
        digest, wanted = self.candidate(context), state.candidate
        if wanted is None or digest is None:
            return Lineup(state, serving, reference)
        candidate = Model(digest, self._loaded[digest])
        if wanted.phase is RolloutPhase.CANARY:
            serves = rollout_share(wanted.rollout_id, camera_id) < wanted.share
            return Lineup(state, candidate, reference, serving) if serves else Lineup(state, serving, reference)
        return Lineup(state, serving, reference, candidate)

    def mode(self, context: Context) -> Mode | None:
        """The mode that the context is served in; None before its first order."""
        state = self._states.get(context)
        return None if state is None else state.mode

    def candidate(self, context: Context) -> str | None:
        """The digest of the context's candidate that is loaded and has not failed."""
        state = self._states.get(context)
        wanted = state.candidate.weights_digest if state is not None and state.candidate is not None else None
        return wanted if wanted in self._loaded and wanted not in self._failed else None

    def failed(self, digest: str, why: str) -> None:
        """A model that was loaded ahead failed at work: leave it out until another order names it."""
        self._failed[digest] = why

    def stumbled(self, digest: str, why: str) -> None:
        """The model in service or the reference did not answer a frame: it stays, and that is told until it is steady again."""
        self._stumbled[digest] = (why, _STEADY)

    def answered(self, digest: str, frames: int) -> None:
        """A model answered so many frames."""
        if digest in self._stumbled:
            why, left = self._stumbled.pop(digest)
            if left > frames:
                self._stumbled[digest] = (why, left - frames)

    @property
    def faults(self) -> tuple[str, ...]:
        """Why models that were to be at hand are not, and which of them failed on a frame, in plain words."""
        lacking = (f"input is scored against the model in service: {error}" for error in self._lacking.values())
        return (*self._failed.values(), *(why for why, _ in self._stumbled.values()), *dict.fromkeys(lacking))

    @property
    def tampered(self) -> dict[Context, str]:
        """Contexts for which a model is to be at hand whose bytes are not what they should be, and the reason."""
        return {
            context: self._failed[digest]
            for context, state in self._states.items()
            for digest in sorted(_ahead(state) & self._tampered & self._failed.keys())
        }

    @property
    def unproven(self) -> dict[Context, str]:
        """Contexts that are served without their reference, because its bytes are not what they should be, and the reason."""
        return {context: str(error) for context, error in self._lacking.items() if isinstance(error, Tampered)}

    def _open(self, digest: str) -> None:
        """Have a network in memory now."""
        if digest in self._loaded:
            return
        coming = self._coming.pop(digest, None)
        try:
            self._loaded[digest] = self._tried(digest) if coming is None else coming.result()
        except KerbwatchError:
            raise
        except Exception as error:  # whatever torch, onnxruntime or the file system has to say of a bad file
            raise Unavailable(f"model {digest[:12]} does not load ({error}); see `kerbwatch models verify`") from error

    def _tried(self, digest: str) -> Network:
        """Load it and let it look once: weights may verify and still answer with nonsense."""
        model = Model(digest, self.load(digest))
        model.prove()
        return model.network

    def _ahead(self) -> set[str]:
        return set().union(*(_ahead(state) for state in self._states.values()))

    def _forget_unused(self) -> None:
        used = self._ahead() | {digest for one in self._states.values() for digest in (one.weights_digest, one.reference_digest)}
        self._loaded = {digest: network for digest, network in self._loaded.items() if digest in used}
        self._stumbled = {digest: why for digest, why in self._stumbled.items() if digest in used}


def _ahead(state: ModelState) -> set[str]:
    """What is to be at hand for a context beside what serves it now."""
    candidate = state.candidate.weights_digest if state.candidate is not None else None
    return {digest for digest in (state.safe_digest, candidate) if digest is not None}
