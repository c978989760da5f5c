"""The keeper's part of quarantine: an order is carried out once all of its frames can be on record, and what is missing is told.

It decides when an order waits: as long as the lane of judged frames has not read what was on topic `detections` when the order
came, because rows that come late are no missing rows. It refuses to wait for ever for a lane that stands still, and to pass over
frames in silence: what is on no record then, or in no log any more before it was sealed, is told in the incident's timeline and
dead-lettered. Fed by topic `quarantine`.

Source: paper 4.6 (automatic quarantine), 4.7 (evidence preservation).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from infra.clients import consumer
from infra.db import Sessions, reading, writing
from infra.provision import app_id
from infra.settings import Settings
from infra.tables import IncidentRow, TimelineRow
from responders.engine import outbox
from responders.engine.incident import Record
from responders.engine.past import incident_of
from responders.quarantine.quarantine import Located, not_aside, offsets_of, set_aside
from streams import topics
from streams.errors import BadInput, Unavailable
from streams.events import QuarantineOrder, event_id
from streams.frame_log import read_detections, read_frames
from streams.topics import Role

LONGEST = timedelta(hours=1)
"""So long an order waits for the lane of judged frames; others wait behind it meanwhile."""
_KEEPER = "keeper"


class Lane(Protocol):
    """How far judged frames are in the log, and how far they are on record; offsets by partition."""

    def ends(self) -> Mapping[int, int]:
        """Where each partition ends now."""
        ...

    def read(self) -> Mapping[int, int]:
        """Up to where each partition is on record, for whichever keeper reads it."""
        ...


@dataclass(frozen=True)
class JudgedLane:
    """Topic `detections` and what the keepers' group has committed of it: rows are written before that. Raises Unavailable."""

    settings: Settings

    def ends(self) -> Mapping[int, int]:
        """Where each partition ends now."""
        with self._client(None) as client:
            return {place.partition: end for place, end in client.end_offsets(_partitions()).items()}

    def read(self) -> Mapping[int, int]:
        """Up to where each partition is on record; its beginning where nothing was committed yet."""
        places = _partitions()
        with self._client(app_id(Role.KEEPER)) as client:  # without a subscription it takes nobody's partitions
            first = client.beginning_offsets(places)
            return {place.partition: client.committed(place) or first[place] for place in places}

    @contextmanager
    def _client(self, group: str | None) -> Iterator[KafkaConsumer]:
        with closing(consumer(self.settings, Role.KEEPER, group=group)) as client:
            try:
                yield client
            except KafkaError as error:
                raise Unavailable(f"the broker does not say how far judged frames are ({type(error).__name__})") from error


def _partitions() -> list[TopicPartition]:
    return [TopicPartition(topics.DETECTIONS.name, number) for number in range(topics.DETECTIONS.partitions)]


@dataclass
class Quarantining:
    """Carries out orders, one after another; what it remembers between two tries is only what it waits for.

    `count` is told how many frames were sealed.
    """

    settings: Settings
    sessions: Sessions
    lane: Lane
    count: Callable[[int], object]
    _waiting: dict[str, tuple[Mapping[int, int], datetime]] = field(default_factory=dict)

    def obey(self, order: QuarantineOrder, now: datetime) -> None:
        """Seal what the order names.

        Raises:
            Unavailable: records of its frames may still come; ask again.
            BadInput: all that can be had is sealed, and some of the frames are on no record or in no log any more; the incident's
                timeline says so.
        """
        located = self._located(order)
        if not _complete(order, located):
            behind = not self._passed(order)
            if behind and now - self._waiting.setdefault(order.id, (self.lane.ends(), now))[1] < LONGEST:
                raise Unavailable(f"frames of quarantine order {order.id} are not all on record yet")
            located = self._located(order)  # rows came in between
        seen = read_detections(self.settings, located.places)
        frames = ((frame, body, seen.get(frame.id)) for frame, body in read_frames(self.settings, located.places))
        self.count(set_aside(self.sessions, self.settings, order, frames, now).sealed)
        self._waiting.pop(order.id, None)
        with reading(self.sessions) as session:
            gone = not_aside(session, self.settings, order, located.places)
        if located.missing or gone:
            self._tell(order, located.missing, gone, now)

    def _located(self, order: QuarantineOrder) -> Located:
        with reading(self.sessions) as session:
            return offsets_of(session, order)

    def _passed(self, order: QuarantineOrder) -> bool:
        """Whether all that was judged before this order was first seen here is on record, or was refused."""
        if order.id not in self._waiting:
            return False
        ends, read = self._waiting[order.id][0], self.lane.read()
        return all(read.get(partition, 0) >= end for partition, end in ends.items())

    def _tell(self, order: QuarantineOrder, missing: int, gone: int, now: datetime) -> None:
        """Into the incident's timeline, once; then to whoever handles what cannot be handled. Raises BadInput."""
        window = order.window
        which = f"{order.camera_id}:{window.epoch}:{window.first_sequence}-{window.last_sequence}"
        said = []
        if missing:
            said.append(
                f"{missing} frames of {which} are on no record and were not set aside: dropped, refused, or judged while nobody "
                "kept records; see `kerbwatch dlq list`"
            )
        if gone:
            said.append(
                f"{gone} frames of {which} are on record and were not set aside: the log of frames holds their pictures no more"
            )
        what = "; ".join(said)
        id_ = event_id("decision", order.id, "missing")
        with writing(self.sessions) as session:
            row = session.get(IncidentRow, order.incident_id)
            known = session.query(TimelineRow).filter_by(decision_id=id_).first() is not None
            if row is not None and not known:
                incident = incident_of(row)
                told = Record(id_, incident.state, _KEEPER, "frames-missing", what)
                session.add(
                    TimelineRow(
                        incident_id=incident.id, decision_id=id_, time=now, state=told.state, actor=told.actor,
                        action=told.action, what=what, cause_id=order.id,
                    )
                )  # fmt: skip
                outbox.post_decision(session, incident, told, order.id, now)
        raise BadInput(f"quarantine order {order.id}: {what}")


def _complete(order: QuarantineOrder, located: Located) -> bool:
    """Whether nothing more can come: a camera's frames are judged in order, and the order's last one is on record."""
    return bool(located.places) and located.places[-1].sequence == order.window.last_sequence
