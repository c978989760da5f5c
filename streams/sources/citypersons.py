"""CityPersons: Cityscapes frames with annotated people, from either form of annotation.

It decides which annotations are people and which are `ignore`, by the data set's training convention: class 1 of at least 50 px is
a person, riders, sitting people, groups, small ones and fake humans are `ignore`. It refuses a frame folder without annotations.
Truth goes into the shot, never into an event. No topic; it stands in for a camera.

Source: Zhang et al., CityPersons, CVPR 2017, sections 3.1 and 4; annotations' README (rows are class, x, y, w, h, instance, x_vis,
y_vis, w_vis, h_vis) and the JSON form (`objects` with `label`, `bbox`, `bboxVis`).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import numpy as np

from streams.errors import BadInput, Refusal
from streams.sources.base import Person, Shot
from streams.sources.images import STILLS_FPS, natural, read_picture

MIN_HEIGHT_PX = 50
"""People less tall are neither counted nor punished (in pixels of the 2048 x 1024 original)."""
_PEDESTRIAN = 1
_FRAME = "_leftImg8bit.png"
_JSON = "_gtBboxCityPersons.json"


class _Object(msgspec.Struct):
    label: str
    bbox: tuple[float, float, float, float]
    bboxVis: tuple[float, float, float, float]  # noqa: N815 as the data set spells it


class _Annotation(msgspec.Struct):
    objects: list[_Object]


def _person(box: tuple[float, float, float, float], visible: tuple[float, float, float, float], *, pedestrian: bool) -> Person:
    """Cuts the visible box to the full one; where none is annotated (groups) the whole counts as visible."""
    left, top = max(box[0], visible[0]), max(box[1], visible[1])
    right, bottom = min(box[0] + box[2], visible[0] + visible[2]), min(box[1] + box[3], visible[1] + visible[3])
    shown = right > left and bottom > top
    part = (left, top, right - left, bottom - top) if shown else box
    return Person(box, part, ignore=not (pedestrian and shown and box[3] >= MIN_HEIGHT_PX))


def read_mat(path: Path) -> Mapping[str, tuple[Person, ...]]:
    """People by frame file name from `anno_train.mat` or `anno_val.mat`. Raises BadInput naming the file if it is not one."""
    try:
        with path.open("rb") as file:
            from scipy.io import loadmat  # type: ignore[import-untyped] # noqa: PLC0415 - ships no types; slow, and seldom needed

            return _table(loadmat(file))
    except OSError as error:
        raise BadInput(f"annotations {path} are not readable: {error}; check path and permissions") from error
    except Exception as error:
        raise BadInput(
            f"{path} holds no CityPersons annotations ({error}); expected anno_train.mat or anno_val.mat", Refusal.UNDECODABLE
        ) from error


def _table(content: Mapping[str, np.ndarray]) -> Mapping[str, tuple[Person, ...]]:  # type: ignore[type-arg] # whatever the file holds
    table = next(value for name, value in content.items() if name.startswith("anno_"))
    found: dict[str, tuple[Person, ...]] = {}
    for record in table.ravel():
        entry = record[0, 0]
        # int first: rows come as uint8 where an image has few boxes, and y + h would wrap
        rows = np.asarray(entry["bbs"]).reshape(-1, 10).astype(np.int64)
        found[str(entry["im_name"][0])] = tuple(
            _person(_four(row[1:5]), _four(row[6:10]), pedestrian=int(row[0]) == _PEDESTRIAN)
            for row in rows
            if row[3] > 0 and row[4] > 0
        )
    return found


def _four(values: np.ndarray) -> tuple[float, float, float, float]:  # type: ignore[type-arg] # rows of whatever the file holds
    x, y, w, h = (float(value) for value in values)
    return (x, y, w, h)


def read_json(path: Path) -> tuple[Person, ...]:
    """People of one frame from its gtBboxCityPersons file. Raises BadInput naming the file if it does not hold."""
    try:
        objects = msgspec.json.decode(path.read_bytes(), type=_Annotation, strict=False).objects
    except OSError as error:
        raise BadInput(f"annotations {path} are not readable: {error.strerror}; check path and permissions") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"annotations {path} do not hold: {error}; expected objects with label, bbox and bboxVis") from error
    return tuple(
        _person(one.bbox, one.bboxVis, pedestrian=one.label == "pedestrian")
        for one in objects
        if one.bbox[2] > 0 and one.bbox[3] > 0
    )


class CityPersons:
    """Frames below `frames` (searched to any depth) that are annotated below `annotations` (the same folder if None).

    `.mat` files are read first; a frame that they do not name is looked up among the JSON files.
    Raises BadInput if there is no frame, no annotation, or a frame that nothing annotates.
    """

    def __init__(self, frames: Path, annotations: Path | None = None) -> None:
        notes = annotations or frames
        self._files = sorted(frames.rglob(f"*{_FRAME}"), key=natural)
        if not self._files:
            raise BadInput(f"no *{_FRAME} below {frames}; give the folder that holds leftImg8bit")
        mats = [notes] if notes.suffix == ".mat" else sorted(notes.rglob("anno_*.mat"))
        jsons = {} if notes.is_file() else {path.name: path for path in notes.rglob(f"*{_JSON}")}
        if not mats and not jsons:
            raise BadInput(f"no anno_*.mat and no *{_JSON} below {notes}; use images:{frames} for frames without annotations")
        known: dict[str, tuple[Person, ...]] = {}
        for path in mats:
            known |= read_mat(path)
        self._people: dict[Path, tuple[Person, ...]] = {}
        for path in self._files:
            note = jsons.get(path.name.replace(_FRAME, _JSON))
            if path.name not in known and note is None:
                raise BadInput(f"frame {path.name} is annotated nowhere below {notes}; add its annotation or remove the frame")
            self._people[path] = known[path.name] if path.name in known or note is None else read_json(note)
        self._name = f"citypersons-{frames.resolve().name}"

    @property
    def name(self) -> str:
        """What the source calls itself in ledgers and logs."""
        return self._name

    @property
    def fps(self) -> float:
        """Pictures per second; the annotated frames are stills far apart."""
        return STILLS_FPS

    def __len__(self) -> int:
        return len(self._files)

    def shot(self, number: int) -> Shot:
        """One frame, counted from 0; read when asked for. Raises IndexError past the end."""
        path = self._files[number]
        return Shot(path.name.removesuffix(_FRAME), number / STILLS_FPS, read_picture(path), self._people[path])

    def __iter__(self) -> Iterator[Shot]:
        return map(self.shot, range(len(self)))
