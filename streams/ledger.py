"""The camera's own record of what it sent, with the truth that must never enter an event: boxes, attacks, places in the log.

A file of JSON lines beside the stream, append only and flushed line by line, so that it survives a killed camera: one line when a
message is about to be sent, the same line again with its place once the broker has it; the last one counts. It decides nothing and
no service reads it; the demo, experiments and tests do, to compare what happened with what was found.
"""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from streams.errors import BadInput, Refusal
from streams.events import Context, Digest, Frame, UtcTime
from streams.sources.base import Person, Shot

BoxPx = tuple[float, float, float, float]


class Truth(msgspec.Struct, frozen=True, array_like=True):
    """A person who is there: full box and visible part (left, top, width, height in pixels)."""

    box_px: BoxPx
    visible_px: BoxPx
    ignore: bool


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One message that a camera sent. `number` counts messages; an attack may send one frame several times, or none.

    `people` is None where nobody knows. `partition` and `offset` are None until the broker acknowledged.
    """

    number: int
    frame_id: str
    camera_id: str
    context: Context
    epoch: int
    sequence: int
    digest: Digest
    camera_time: UtcTime
    shot: str
    attack: str | None = None
    people: tuple[Truth, ...] | None = None
    partition: int | None = None
    offset: int | None = None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Entry)


class Ledger:
    """Writes a ledger; the file is made anew. A context manager. Raises BadInput if it cannot be made."""

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb")
        except OSError as error:
            raise BadInput(f"ledger {path} cannot be written: {error.strerror}; give another path") from error
        self._open: dict[int, Entry] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def sending(self, number: int, frame: Frame, attack: str | None, shot: Shot) -> None:
        """A message is about to be sent, made from `shot`."""
        entry = Entry(
            number=number,
            frame_id=frame.id,
            camera_id=frame.camera_id,
            context=frame.context,
            epoch=frame.epoch,
            sequence=frame.sequence,
            digest=frame.digest,
            camera_time=frame.time,
            shot=shot.name,
            attack=attack,
            people=None if shot.people is None else tuple(_truth(person) for person in shot.people),
        )
        self._open[number] = entry
        self._write(entry)

    def landed(self, number: int, partition: int, offset: int) -> None:
        """The broker has message `number`."""
        self._write(msgspec.structs.replace(self._open.pop(number), partition=partition, offset=offset))

    def _write(self, entry: Entry) -> None:
        self._file.write(_encoder.encode(entry) + b"\n")
        self._file.flush()


def _truth(person: Person) -> Truth:
    def rounded(box: BoxPx) -> BoxPx:
        x, y, w, h = (round(float(value), 2) for value in box)
        return (x, y, w, h)

    return Truth(rounded(person.box_px), rounded(person.visible_px), person.ignore)


def read_ledger(path: Path) -> list[Entry]:
    """Every message in the order of sending; readable while the camera still writes (a half-written last line is left out).

    Raises BadInput naming file and line if one does not hold.
    """
    return list({entry.number: entry for entry in _lines(path)}.values())


def _lines(path: Path) -> Iterator[Entry]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"ledger {path} is not readable: {error.strerror}; `kerbwatch replay --ledger FILE` writes one") from error
    whole, _, _half = data.rpartition(b"\n")
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            yield _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadInput(f"ledger {path}, line {number} does not hold: {error}; was it edited?", Refusal.UNDECODABLE) from error
