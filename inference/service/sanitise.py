"""Cleans pictures before the model sees them: small changes that an honest picture survives and a perturbation does not.

It decides which steps there are and in which order a chain takes them; whether a mode uses a chain is a setting, and refuses to
judge pictures. Pure: picture in, picture of the same shape out. The judge applies it to frames of topic `frames`; cues and
quarantine always see the picture as it came.

Source: paper SC-4 (input sanitising); Xu, Evans, Qi 2018 (bit depth, median); Das et al. 2017 (JPEG as a defence).
"""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from streams.errors import BadInput
from streams.sources.base import Picture

Chain = Callable[[Picture], Picture]
_LEVELS = 255
_MOST_STEPS = 4


def chain(text: str) -> Chain:
    """The cleaning that a text describes: steps joined by "+", taken in order; "" leaves pictures as they are.

    Steps: `median-K` (K x K pixels, 3 or 5), `jpeg-Q` (quality 10 to 95), `bits-B` (2 to 7 bits a channel).

    Raises BadInput for anything else.
    """
    names = [name.strip() for name in text.split("+")] if text.strip() else []
    if len(names) > _MOST_STEPS:
        raise BadInput(f"a chain of {len(names)} cleaning steps; {_MOST_STEPS} are allowed")
    steps = [_step(name) for name in names]

    def clean(picture: Picture) -> Picture:
        for step in steps:
            picture = step(picture)
        return picture

    return clean


def _step(name: str) -> Chain:
    kind, _, number = name.partition("-")
    amount = int(number) if number.isascii() and number.isdigit() else -1
    if kind == "median" and amount in {3, 5}:
        return lambda picture: _as_picture(cv2.medianBlur(picture, amount))
    if kind == "jpeg" and amount in range(10, 96):
        return lambda picture: jpeg(picture, amount)
    if kind == "bits" and amount in range(2, 8):
        table = _fewer_levels(amount)
        return lambda picture: _as_picture(cv2.LUT(picture, table))
    raise BadInput(f"no cleaning step {name!r}; there are median-3, median-5, jpeg-10 to jpeg-95, bits-2 to bits-7")


def jpeg(picture: Picture, quality: int) -> Picture:
    """The picture (H x W x 3, RGB) after JPEG at a quality of 1 to 100."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise BadInput(f"a picture of shape {picture.shape} does not encode as JPEG")
    return _as_picture(cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB))


def _fewer_levels(bits: int) -> NDArray[np.uint8]:
    most = 2**bits - 1
    table: NDArray[np.uint8] = np.round(np.round(np.arange(_LEVELS + 1) / _LEVELS * most) * _LEVELS / most).astype(np.uint8)
    return table


def _as_picture(changed: Any) -> Picture:
    picture: Picture = np.asarray(changed, np.uint8)
    return picture
