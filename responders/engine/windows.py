"""Arithmetic of frame windows: which frames are suspicious, which of them are not ordered into quarantine yet.

It decides nothing else, and refuses to join frames of two camera starts (epochs). Pure; fed by `incident.py`.
"""

from msgspec.structs import replace

from streams.events import Window


def joined(windows: tuple[Window, ...]) -> tuple[Window, ...]:
    """The same frames in as few windows as possible, in order."""
    result: list[Window] = []
    for window in sorted(windows, key=lambda w: (w.epoch, w.first_sequence)):
        last = result[-1] if result else None
        if last is not None and last.epoch == window.epoch and window.first_sequence <= last.last_sequence + 1:
            result[-1] = replace(last, last_sequence=max(last.last_sequence, window.last_sequence))
        else:
            result.append(window)
    return tuple(result)


def missing(wanted: tuple[Window, ...], had: tuple[Window, ...]) -> tuple[Window, ...]:
    """The frames of `wanted` that are not in `had`; both joined."""
    result: list[Window] = []
    for window in wanted:
        first = window.first_sequence
        for old in (old for old in had if old.epoch == window.epoch):
            if old.last_sequence < first or old.first_sequence > window.last_sequence:
                continue
            if old.first_sequence > first:
                result.append(replace(window, first_sequence=first, last_sequence=old.first_sequence - 1))
            first = old.last_sequence + 1
        if first <= window.last_sequence:
            result.append(replace(window, first_sequence=first))
    return tuple(result)
