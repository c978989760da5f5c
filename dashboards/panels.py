"""What a dashboard consists of, without Grafana: rows of panels with their queries and plain words, and marks over all of them.

It decides which looks there are; what is shown is in `watch.py` and `models.py`, and `build.py` turns it into JSON.

Source: Grafana "Panels and visualizations", "Annotate visualizations".
"""

from dataclasses import dataclass
from enum import StrEnum


class Look(StrEnum):
    """How a panel draws its numbers."""

    LINES = "lines"
    STACK = "stack"
    BARS = "bars"
    NUMBER = "number"
    STATES = "states"


@dataclass(frozen=True)
class Query:
    """One PromQL expression and how its series are called."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One panel. `unit` is Grafana's unit id; `columns` of the 24 that a row has.

    `threshold` draws a line, or turns a number red from there upwards; below `wanted` a number is red. `empty` is what it says
    where there is nothing to draw.
    """

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    look: Look = Look.LINES
    columns: int = 12
    threshold: float | None = None
    wanted: float | None = None
    empty: str = ""


@dataclass(frozen=True)
class Row:
    """A heading and the panels below it."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Mark:
    """Something that happened, drawn over every panel as long as `expr` is above 0. Labels stand in {{braces}}."""

    name: str
    expr: str
    title: str
    colour: str


@dataclass(frozen=True)
class Board:
    """One dashboard. `name` is its file's and the end of its uid."""

    name: str
    title: str
    description: str
    rows: tuple[Row, ...]
    marks: tuple[Mark, ...]
