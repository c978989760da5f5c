"""One frame that was set aside as a picture for people: with its boxes, beside a clean neighbour, and the difference of the two.

It decides how the three are drawn; it refuses nothing and knows no files. Arrays are H x W x 3, RGB, 8 bit. No topic feeds it:
`kerbwatch quarantine show` does.

Source: paper 4.6 (manual review), 4.7 (incident analysis).
"""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from streams.events import Box

Picture = NDArray[np.uint8]

GAIN = 8
"""How much the difference is magnified: a perturbation of 0.03 (8 of 255 levels) becomes plain to see."""
_GREY = 128
_ROOM_PX = 26
_GAP_PX = 6
_PAPER, _INK, _BOX = (250, 250, 250), (20, 20, 20), (255, 60, 30)


def difference(picture: Picture, neighbour: Picture) -> Picture:
    """What was added to (brighter than grey) or taken from the neighbour, `GAIN` times. Both must have one shape."""
    signed = picture.astype(np.int16) - neighbour.astype(np.int16)
    return np.clip(_GREY + GAIN * signed, 0, 255).astype(np.uint8)


def with_boxes(picture: Picture, boxes: Sequence[Box]) -> Picture:
    """The picture with a frame and the score around each person found."""
    image = Image.fromarray(picture)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=11)
    for box in boxes:
        left, top = box.x_px, box.y_px
        pen.rectangle((left, top, left + box.w_px, top + box.h_px), outline=_BOX, width=2)
        pen.text((left + 1, top - 13 if top > 13 else top + box.h_px + 1), f"{box.score:.2f}", fill=_BOX, font=font)  # noqa: PLR2004 - the text's height
    return np.asarray(image)


def sheet(panels: Sequence[tuple[str, Picture]]) -> bytes:
    """The panels side by side under their captions, as a PNG."""
    width = sum(picture.shape[1] for _, picture in panels) + _GAP_PX * (len(panels) + 1)
    height = max(picture.shape[0] for _, picture in panels) + _ROOM_PX + _GAP_PX
    paper = Image.new("RGB", (width, height), _PAPER)
    pen, font, left = ImageDraw.Draw(paper), ImageFont.load_default(size=13), _GAP_PX
    for caption, picture in panels:
        pen.text((left, 5), _fitted(caption, font, picture.shape[1]), fill=_INK, font=font)
        paper.paste(Image.fromarray(picture), (left, _ROOM_PX))
        left += picture.shape[1] + _GAP_PX
    out = io.BytesIO()
    paper.save(out, "PNG")
    return out.getvalue()


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width_px: int) -> str:
    while len(text) > 1 and font.getlength(text) > width_px:
        text = f"{text[:-2]}\N{HORIZONTAL ELLIPSIS}"
    return text
