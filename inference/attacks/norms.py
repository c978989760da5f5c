"""How far an attacked picture is from the clean one: exactly as 8-bit pictures, and after a camera's JPEG.

Pure measuring: it attacks nothing and judges no strength. No topic feeds it.

Source: L_inf and L2 as in Goodfellow et al. 2015 and Moosavi-Dezfooli et al. 2016; JPEG as a filter of perturbations, Dziugaite
et al. 2016.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from streams.errors import BadInput
from streams.sources.base import Picture


@dataclass(frozen=True)
class Norms:
    """Distance of two pictures over all channels, in levels of 0..255.

    linf: largest change. l2: Euclidean length. rms: l2 / sqrt(number of values). changed: share of values that differ, 0..1.
    kept: what is left of the change, along itself: 1 as it is, 0 nothing; below 1 after JPEG, where the other numbers also count
    what the codec did to an attacked picture and not to the clean one.
    """

    linf: int
    l2: float
    rms: float
    changed: float
    kept: float = 1.0


def norms(clean: Picture, attacked: Picture, jpeg: int | None = None) -> Norms:
    """Distance of the attacked picture from the clean one.

    Args:
        clean: H x W x 3, uint8.
        attacked: same.
        jpeg: quality 1..100 through which both are sent first; None: compared as they are.

    Raises:
        BadInput: if the pictures are not uint8 of one shape, or jpeg is not within 1..100.
    """
    if clean.shape != attacked.shape or clean.dtype != np.uint8 or attacked.dtype != np.uint8:
        raise BadInput(f"norms compare two uint8 pictures of one shape, was given {clean.shape} and {attacked.shape}")
    before = attacked.astype(np.float64) - clean
    after = before if jpeg is None else sent(attacked, jpeg).astype(np.float64) - sent(clean, jpeg)
    length = float((before**2).sum())
    return Norms(
        linf=int(np.abs(after).max(initial=0)),
        l2=float(np.sqrt((after**2).sum())),
        rms=float(np.sqrt((after**2).mean())) if after.size else 0.0,
        changed=float((after != 0).mean()) if after.size else 0.0,
        kept=float((before * after).sum()) / length if length else 1.0,
    )


def sent(picture: Picture, jpeg: int) -> Picture:
    """The picture as it arrives through JPEG of a quality within 1..100. Raises BadInput outside."""
    if not 1 <= jpeg <= 100:  # noqa: PLR2004 - the codec's range
        raise BadInput(f"JPEG quality {jpeg} is not within 1..100; cameras here send 92")
    done, data = cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, jpeg])
    if not done:
        raise BadInput(f"a picture of {picture.shape} cannot be written as JPEG; give H x W x 3")
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[:, :, ::-1], np.uint8)
