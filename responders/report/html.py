"""The report as one HTML file: readable on a phone, in light and dark, on paper, without a network.

It decides layout; it refuses to load anything from outside (a content security policy in the page says so to the browser) and to
print a word unescaped. Pure; no topic feeds it.
"""

import re
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from responders.report import plots
from responders.report.content import Content, span, utc


def page(content: Content) -> str:
    """The whole page."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["coded"] = _coded
    template = environment.from_string(files("responders.report").joinpath("page.html.j2").read_text(encoding="utf-8"))
    return template.render(
        c=content,
        onset=Markup(plots.onset(content.points, content.clocks)),  # noqa: S704 - our own drawing, escaped there
        frames=[(one, Markup(plots.frame(one))) for one in content.snapshots],  # noqa: S704 - as above
        pictures=any(one.picture for one in content.snapshots),
        utc=utc,
        span=span,
        percent=percent,
    )


def _coded(text: str) -> Markup:
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped before it becomes markup


def percent(share: float | None) -> str:
    """A share (0..1) as people read it; a dash for none."""
    return "\N{EN DASH}" if share is None else f"{share:.0%}"
