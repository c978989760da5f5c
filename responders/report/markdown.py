"""The report as Markdown with its plots as files beside it, for tickets and wikis.

It decides layout; it refuses to let somebody else's words become markup: what has a meaning in Markdown or HTML is escaped. Pure;
no topic feeds it.
"""

import re
from collections.abc import Mapping, Sequence

from responders.report import plots
from responders.report.content import Content, span, utc
from responders.report.html import percent

_WEIGHTS = ("weights", "mode", "frames", "suspicious", "from (UTC)", "to (UTC)")
_MARKUP = re.compile(r"([\\`*_{}\[\]()#!|<>&~])")


def document(content: Content) -> tuple[str, Mapping[str, str]]:
    """The text, and the drawings (SVG) by the file names that it uses."""
    drawings = {f"{one.label}.svg".replace(" ", "-"): plots.frame(one) for one in content.snapshots}
    if drawn := plots.onset(content.points, content.clocks):
        drawings = {"onset.svg": drawn, **drawings}
    parts = [
        f"# {_plain(content.title)}",
        f"**{_plain(content.status)}**, {_plain(content.about)}, incident `{content.incident_id}`",
        *(f"**{question}** {_plain(answer)}" for question, answer in content.answers),
        _table(
            ("clock", "time (UTC)", "after impact", ""),
            [(c.name, utc(c.at), "" if c.after_s is None else span(c.after_s), c.note) for c in content.clocks],
        ),
    ]
    if "onset.svg" in drawings:
        parts += ["## Around the onset", "![scores and people around the onset](onset.svg)"]
    if content.snapshots:
        parts += ["## Before, during, after"]
        parts += [
            f"![{_plain(one.label)}]({name})\n\n{_plain(one.label)}: {_plain(one.caption)}"
            for name, one in zip([name for name in drawings if name != "onset.svg"], content.snapshots, strict=True)
        ]
    if content.effects:
        rows = [(e.period, str(e.frames), str(e.people), percent(e.missed), f"{e.false_per_frame:.2f}") for e in content.effects]
        parts += ["## Effect on people", _table(("period", "frames", "people", "missed", "false boxes a frame"), rows)]
    if (said := content.diagnosis) is not None:
        likely = f"Most likely: {said.cause} ({percent(said.confidence)} sure). {'; '.join(said.evidence)}."
        parts += ["## Diagnosis", _plain(likely)]
    if content.causes:
        parts += ["## Causes", _list([f"{cause.detector}: {cause.words}" for cause in content.causes])]
    if content.samples:
        held = [(one.id, one.name, one.state, one.said) for one in content.samples]
        parts += ["## Training samples held back", _table(("sample", "name", "state", "what was found"), held)]
        parts += [f"{content.more_samples} more are in the evidence (samples.jsonl)."] if content.more_samples else []
    if content.dues:
        late = [(d, "passed " if d.left.total_seconds() < 0 else "") for d in content.dues]
        duties = [(d.deadline.name, utc(d.at), passed + span(d.left.total_seconds()), d.deadline.review) for d, passed in late]
        parts += [
            "## Reporting deadlines",
            f"Counted from awareness: {_plain(content.aware)}. Examples from this deployment's settings, for legal review.",
            _table(("who may have to be told", "due (UTC)", "left", "for legal review"), duties),
        ]
    weights = [(s.digest, s.mode, str(s.frames), str(s.suspicious), utc(s.first_at), utc(s.last_at)) for s in content.served]
    changes = [
        (utc(line.at), line.actor, f"{line.action}{f' x {line.times}' if line.times > 1 else ''}: {line.what}")
        for line in content.timeline
    ]
    parts += [
        "## Follow-ups",
        "\n".join(f"- {one}" for one in content.follow_ups),  # our own words, with commands in them
        *(["## Which weights judged what", _table(_WEIGHTS, weights)] if weights else []),
        "## Timeline",
        _table(("time (UTC)", "who", "what"), changes),
        "## Provenance of the data",
        _table(("", ""), content.provenance),
        *([f"Not at hand: {_plain('; '.join(content.missing))}."] if content.missing else []),
        f"Written {utc(content.written_at)} UTC by kerbwatch.",
    ]
    return "\n\n".join(parts) + "\n", drawings


def _plain(text: str) -> str:
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))


def _list(items: Sequence[str]) -> str:
    return "\n".join(f"- {_plain(item)}" for item in items)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *([_plain(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
