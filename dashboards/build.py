"""Dashboards as Grafana's JSON, made with the Grafana Foundation SDK; the same input gives the same bytes.

It decides grid, colours and options; what is shown comes from `watch.py` and `models.py`. The bytes are
committed under `generated/`, where docker-compose mounts them and `kerbwatch dashboards push` takes them from; a test fails when
they are stale.

Source: Grafana "Dashboard JSON model"; grid of 24 columns.
"""

import json
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model

from dashboards import models, watch
from dashboards.panels import Board, Look, Mark, Panel
from infra import metrics

GENERATED = Path(__file__).parent / "generated"
REFRESH = "kerbwatch dashboards build"
"""The one command that brings `GENERATED` up to date."""

_BOARDS = (watch.BOARD, models.BOARD)
_TAG = "kerbwatch"
_SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
_HEIGHTS = {Look.NUMBER: 4}
_HEIGHT = 8
_CALM, _ALARM = "green", "red"


def render() -> dict[str, str]:
    """Every dashboard: file name to JSON text."""
    return {f"{one.name}.json": f"{json.dumps(_board(one), cls=JSONEncoder, indent=2, sort_keys=True)}\n" for one in _BOARDS}


def stale(folder: Path = GENERATED) -> tuple[str, ...]:
    """Names of the files in `folder` that differ from what `render` gives, are missing, or are no longer made."""
    wanted = render()
    found = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.json")}
    return tuple(sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name)))


def write(folder: Path = GENERATED) -> tuple[str, ...]:
    """Bring `folder` up to date; returns the names of the files that changed."""
    changed = stale(folder)
    wanted = render()
    folder.mkdir(exist_ok=True)
    for name in changed:
        if name in wanted:
            (folder / name).write_text(wanted[name], encoding="utf-8")
        else:
            (folder / name).unlink()
    return changed


def _board(shown: Board) -> model.Dashboard:
    board = (
        dashboard.Dashboard(shown.title)
        .uid(f"kerbwatch-{shown.name}")
        .description(shown.description)
        .tags([_TAG])
        .link(_to_the_others())
        .refresh("5s")
        .time("now-15m", "now")
        .timezone("utc")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(_choice("context", f"label_values({metrics.FRAMES_JUDGED.name}, context)"))
        .with_variable(_choice("camera", f'label_values({metrics.FRAMES_JUDGED.name}{{context=~"$context"}}, camera)'))
    )
    for mark in shown.marks:
        board = board.annotation(_Annotation(mark))
    number = 0
    for row in shown.rows:
        board = board.with_row(dashboard.Row(row.title))
        for panel in row.panels:
            number += 1
            board = board.with_panel(_panel(panel).id(number))
    return board.build()


def _to_the_others() -> dashboard.DashboardLink:
    """All dashboards of ours, side by side at the top; the time and the chosen cameras stay."""
    link = dashboard.DashboardLink(_TAG).type(model.DashboardLinkType.DASHBOARDS).tags([_TAG])
    return link.keep_time(keep_time=True).include_vars(include_vars=True)


def _choice(name: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(name.capitalize())
        .datasource(_SOURCE)
        .query(query)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(multi=True)
        .include_all(include_all=True)
        .all_value(".*")
        .current(model.VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


class _PrometheusAnnotation(model.AnnotationQuery):
    """The SDK's annotation lacks the Prometheus data source's own fields (how a mark is worded, how often it is asked for)."""

    def __init__(self, mark: Mark) -> None:
        super().__init__(name=mark.name, datasource=_SOURCE, icon_color=mark.colour, expr=mark.expr)
        self.title_format = mark.title

    def to_json(self) -> dict[str, object]:
        return {**super().to_json(), "titleFormat": self.title_format, "step": "15s"}


class _Annotation(dashboard.AnnotationQuery):
    def __init__(self, mark: Mark) -> None:
        super().__init__()
        self._internal = _PrometheusAnnotation(mark)


_AnyPanel = timeseries.Panel | stat.Panel | statetimeline.Panel


def _panel(panel: Panel) -> _AnyPanel:
    made: _AnyPanel
    if panel.look is Look.NUMBER:
        made = (
            stat.Panel()
            .graph_mode(common_model.BigValueGraphMode.AREA)
            .color_mode(common_model.BigValueColorMode.VALUE)
            .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        )
    elif panel.look is Look.STATES:
        made = (
            statetimeline.Panel()
            .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))  # every state drawn is simply true
            .show_value(common_model.VisibilityMode.NEVER)
            .legend(common.VizLegendOptions().show_legend(show_legend=False))
        )
    else:
        made = _curves(panel)
    made = (
        made.title(panel.title)
        .description(panel.description)
        .datasource(_SOURCE)
        .unit(panel.unit)
        .span(panel.columns)
        .height(_HEIGHTS.get(panel.look, _HEIGHT))
        .thresholds(_thresholds(panel))
    )
    if panel.empty:
        made = made.no_value(panel.empty)
    for number, query in enumerate(panel.queries):
        letter = chr(ord("A") + number)
        made = made.with_target(
            prometheus.Dataquery().ref_id(letter).datasource(_SOURCE).expr(query.expr).legend_format(query.legend).range()
        )
    return made


def _curves(panel: Panel) -> timeseries.Panel:
    made = (
        timeseries.Panel()
        .min(0)
        .show_points(common_model.VisibilityMode.NEVER)
        .tooltip(common.VizTooltipOptions().mode(common_model.TooltipDisplayMode.MULTI).sort(common_model.SortOrder.DESCENDING))
        .legend(
            common.VizLegendOptions()
            .display_mode(common_model.LegendDisplayMode.LIST)
            .placement(common_model.LegendPlacement.BOTTOM)
            .show_legend(show_legend=True)
        )
    )
    if panel.look is Look.BARS:
        made = made.draw_style(common_model.GraphDrawStyle.BARS).fill_opacity(80)
    if panel.look in (Look.BARS, Look.STACK):
        made = made.stacking(common.StackingConfig().mode(common_model.StackingMode.NORMAL))
    if panel.look is Look.STACK:
        made = made.fill_opacity(30)
    if panel.threshold is not None:
        made = made.thresholds_style(common.GraphThresholdsStyleConfig().mode(common_model.GraphTresholdsStyleMode.DASHED))
    return made


def _thresholds(panel: Panel) -> dashboard.ThresholdsConfig:
    steps = [model.Threshold(value=None, color=_CALM if panel.wanted is None else _ALARM)]
    if panel.wanted is not None:
        steps.append(model.Threshold(value=panel.wanted, color=_CALM))
    if panel.threshold is not None:
        steps.append(model.Threshold(value=panel.threshold, color=_ALARM))
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps)
