"""Who may have to be told of an incident, and by when: a list that a deployment owns.

It decides which entries of the list speak of an incident and when they run out, counted from awareness: a person's first
acknowledgement, or detection while there is none. It refuses to state a legal duty: the packaged entries are examples, and each
says what legal review has to answer first. No topic feeds it.

Source: paper 4.7 (incident reporting); GDPR article 33, NIS2 article 23, EU AI Act article 73 for the examples.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from responders.engine.incident import Incident
from streams.errors import BadInput, Unavailable
from streams.events import Severity

_LARGEST = 1 << 20


class Deadline(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Somebody may have to be told within `hours` of awareness; `review` is what a lawyer has to say first."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    hours: Annotated[float, Meta(gt=0.0)]
    review: Annotated[str, Meta(min_length=1, max_length=500)]
    severity: Severity = Severity.LOW
    kinds: tuple[str, ...] = ()


class _Deadlines(Struct, frozen=True, forbid_unknown_fields=True):
    deadline: tuple[Deadline, ...] = ()


@dataclass(frozen=True)
class Due:
    """A deadline of this incident; `left` is negative once it has passed."""

    deadline: Deadline
    at: datetime
    left: timedelta


def deadlines(path: Path | None) -> tuple[Deadline, ...]:
    """The deadlines of a TOML file, or the packaged examples. Raises Unavailable or BadInput naming the file and what is wrong."""
    where = str(path) if path else "responders/report/deadlines.toml"
    try:
        data = path.read_bytes() if path else files("responders.report").joinpath("deadlines.toml").read_bytes()
    except OSError as error:
        raise Unavailable(f"{where} cannot be read ({error.strerror}): mend KERBWATCH_DEADLINES") from error
    try:
        if len(data) > _LARGEST:
            raise BadInput(f"{where} is larger than {_LARGEST} bytes")
        return msgspec.convert(tomllib.loads(data.decode()), _Deadlines).deadline
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise BadInput(f"{where} does not hold: {error}") from error


def aware_at(incident: Incident) -> datetime:
    """When somebody became aware of it."""
    return incident.acknowledged_at or incident.detected_at


def aware(incident: Incident) -> str:
    """The same in words."""
    how = f"acknowledged by {incident.acknowledged_by}" if incident.acknowledged_at else "detected; nobody has acknowledged it"
    return f"{aware_at(incident):%Y-%m-%d %H:%M:%S} UTC ({how})"


def dues(incident: Incident, duties: Sequence[Deadline], now: datetime) -> tuple[Due, ...]:
    """The deadlines that speak of this incident, the next one first."""
    order = list(Severity)
    ours = [
        (duty, aware_at(incident) + timedelta(hours=duty.hours))
        for duty in duties
        if order.index(incident.severity) >= order.index(duty.severity) and (not duty.kinds or incident.kind in duty.kinds)
    ]
    return tuple(Due(duty, at, at - now) for duty, at in sorted(ours, key=lambda pair: pair[1]))
