"""What the responder asks for, carried out: which weights each context is served with, and what is said of those that are refused.

Fed by the topic `model-state`. It decides which order counts (of each context the newest: a worker that starts reads all there ever
were), and that one whose weights did not load is tried again, for nobody gives an order twice because a file is whole again. It
refuses to serve what does not verify: the context keeps what it had, or waits. It sends nothing; `worker.py` does.

A worker that starts, or that was held up for seconds, may be behind: nobody counts it as alive meanwhile, and safe mode may be
confirmed without it. So it first reads to where the topic ended a moment ago, and judges nothing before.

Source: paper 4.6 (safe mode), 4.5.3 (SC-6, provenance); README, promise 4.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import partial
from itertools import chain
from typing import Any

import structlog
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from inference.service.doubts import SERVES, STANDS_BY, Doubts
from inference.service.models import Models
from inference.service.reading import message_of
from streams import codec
from streams.codec import Message
from streams.errors import KerbwatchError, Tampered, Unavailable
from streams.events import Context, Mode, ModelState, Offset, Serving, Signal
from streams.topics import MODEL_STATE

_RETRY_S = 5.0
_HELD_UP_S = 2.0
"""Since the last look at the topic; less than the silence after which a worker counts as lost (`KERBWATCH_WORKER_LOST_S`)."""
_CATCH_UP_MS, _CATCH_UPS = 100, 50

log = structlog.get_logger("worker")


class Orders:
    """A worker's obedience. `serving`: what it has carried out, by context.

    Args:
        consumer: reads `model-state` from its start, by assignment and without a group.
        models: loads and keeps the networks.
        doubts: knows what was said of models that do not verify.
        positions: by partition of `frames`, where judging goes on.
        dead_letter: takes a message that is not obeyed, and why.
        steady_s: a clock that grows steadily, in seconds.
    """

    def __init__(
        self,
        consumer: KafkaConsumer,
        models: Models,
        doubts: Doubts,
        *,
        positions: Callable[[], Mapping[TopicPartition, int]],
        dead_letter: Callable[[Message, Exception], None],
        steady_s: Callable[[], float],
    ) -> None:
        self.serving: dict[Context, Serving] = {}
        self._consumer = consumer
        self._models = models
        self._doubts = doubts
        self._positions = positions
        self._dead_letter = dead_letter
        self._steady_s = steady_s
        self._faults: dict[Context | None, str] = {}
        self._untrusted: dict[tuple[Context, str], str] = {}
        self._refused: dict[Context, ModelState] = {}
        self._tried_s = steady_s()
        self._looked_s = float("-inf")
        self._partitions = [TopicPartition(MODEL_STATE.name, number) for number in range(MODEL_STATE.partitions)]

    def watch(self) -> None:
        """Begin with the first order there is."""
        self._consumer.assign(self._partitions)
        self._consumer.seek_to_beginning(*self._partitions)

    def obey(self) -> bool:
        """Carry out what is asked for now; whether anything changed.

        Raises Unavailable where it cannot be known what is asked for: after start or a stop of seconds, without a broker.
        """
        changed = self._models.take_in()
        for message, state in self._newest():
            waiting = self._refused.get(state.context)
            if waiting is not None and state.time < waiting.time:
                # A stalled responder's, behind the one that is tried again.
                log.warning("model-state is older than the one that waits for its weights", offset=message.offset)
                continue
            self._refused.pop(state.context, None)
            try:
                changed |= self._serve(state)
            except KerbwatchError as error:
                # The context keeps its weights; the responder sees no report of the new ones and escalates.
                log.exception("model-state not obeyed", offset=message.offset)
                self._dead_letter(message, error)
                self._refuse(state, error)
        if self._refused and self._steady_s() - self._tried_s >= _RETRY_S:
            changed |= self._try_again()
        return changed

    def doubted(self, now: datetime) -> list[Signal]:
        """What is news of models that do not verify, to serve or to stand by."""
        ready = {(context, STANDS_BY): why for context, why in self._models.tampered.items()}
        unproven = {(context, SERVES): why for context, why in self._models.unproven.items()}
        return self._doubts.told(self._untrusted | ready | unproven, now)

    @property
    def faults(self) -> tuple[str, ...]:
        """Why something that was asked for is not served, each reason once."""
        return tuple(dict.fromkeys(self._faults.values()))

    def _newest(self) -> list[tuple[Message, ModelState]]:
        newest: dict[Context, tuple[Message, ModelState]] = {}
        for record in self._records():
            if record.value is None:
                continue
            message = message_of(record)
            try:
                state = codec.decode(record.value, MODEL_STATE, ModelState).event
            except KerbwatchError as error:
                log.exception("model-state not understood", offset=record.offset)
                self._faults[None] = str(error)
                self._dead_letter(message, error)
                continue
            known = newest.get(state.context)
            if known is None or known[1].time <= state.time:
                newest[state.context] = (message, state)
        return list(newest.values())

    def _records(self) -> Iterator[Any]:
        """What came since the last call."""
        read = partial(self._consumer.poll, max_records=sys.maxsize)
        yield from chain.from_iterable(read(timeout_ms=0).values())
        if self._steady_s() - self._looked_s > _HELD_UP_S:
            try:
                ends = self._consumer.end_offsets(self._partitions)
                for _ in range(_CATCH_UPS):  # what was last in a compacted topic may be gone
                    if all((self._consumer.position(partition) or 0) >= end for partition, end in ends.items()):
                        break
                    yield from chain.from_iterable(read(timeout_ms=_CATCH_UP_MS).values())
                else:
                    log.warning("the end of model-state was not reached", ends=list(ends.values()))
            except KafkaError as error:
                raise Unavailable(
                    f"the broker does not tell what is to be served ({error}); see `kerbwatch kafka status`"
                ) from error
        self._looked_s = self._steady_s()

    def _serve(self, state: ModelState) -> bool:
        """Serve as asked; False where that is so already. Raises KerbwatchError where the weights do not load or verify."""
        if not self._models.assign(state):
            return False
        self._faults = {context: why for context, why in self._faults.items() if context not in {None, state.context}}
        self._untrusted = {key: why for key, why in self._untrusted.items() if key[0] is not state.context}
        self.serving[state.context] = Serving(
            context=state.context,
            weights_digest=state.weights_digest,
            mode=state.mode,
            decision_id=state.decision_id,
            # No frame before was judged with the new weights, and of each camera every one that is to come.
            from_offsets=tuple(Offset(partition.partition, offset) for partition, offset in sorted(self._positions().items())),
        )
        log.info("serving", context=state.context, mode=state.mode, digest=state.weights_digest[:12])
        return True

    def _refuse(self, state: ModelState, error: KerbwatchError) -> None:
        if not self._refused:  # else orders refused one after the other would put off the next try for all
            self._tried_s = self._steady_s()
        self._refused[state.context] = state
        self._faults[state.context] = str(error)
        if isinstance(error, Tampered):  # a file that is gone since is no proof that all is well: only serving it clears this
            self._untrusted[state.context, SERVES if state.mode is Mode.NORMAL else STANDS_BY] = str(error)

    def _try_again(self) -> bool:
        changed = False
        self._tried_s = self._steady_s()
        for context, state in list(self._refused.items()):
            try:
                changed |= self._serve(state)
                del self._refused[context]
            except KerbwatchError as error:  # no second dead letter; but a file that was missing may be an altered one by now
                self._refuse(state, error)
        return changed
