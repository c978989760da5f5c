"""A frame as tests want it: described truly, signed by nobody."""

import hashlib
from datetime import UTC, datetime

import msgspec

from streams.events import Context, Frame, event_id

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def a_frame(body: bytes, **changes: object) -> Frame:
    """Camera gate's frame 3 of epoch 7, 96 x 64 pixels, with `body` as its picture; the id follows from what is changed."""
    frame = Frame(
        id="",
        source="camera/gate",
        time=NOW,
        subject="gate",
        camera_id="gate",
        context=Context.URBAN,
        epoch=7,
        sequence=3,
        width_px=96,
        height_px=64,
        content_type="image/jpeg",
        digest=hashlib.sha256(body).hexdigest(),
        signature="c2ln",
    )
    frame = msgspec.structs.replace(frame, **changes)
    own = event_id("frame", frame.camera_id, frame.epoch, frame.sequence)
    return msgspec.structs.replace(frame, id=changes.get("id", own))
