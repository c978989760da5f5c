"""Questions to Prometheus, put together from metric definitions.

It decides how counters, gauges and histograms are asked, and that every answer follows the camera and context chosen at the top of
the dashboard. It refuses a label that the metric does not have.

Source: Prometheus "Querying basics", "Histograms and summaries" (quantiles from buckets).
"""

from prometheus_client import Counter, Gauge, Histogram

from infra.metrics import Definition
from streams.errors import BrokenContract

Metric = Definition[Counter] | Definition[Gauge] | Definition[Histogram]
WINDOW = "$__rate_interval"
"""Grafana's own choice of window, never shorter than four scrapes."""


def series(metric: Metric, suffix: str = "", by: tuple[str, ...] = (), **only: str) -> str:
    """The metric's selector: narrowed to `only`, and to the chosen camera and context where it has these labels.

    Raises BrokenContract on a label that the metric does not have.
    """
    for label in (*by, *only):
        if label not in metric.labels:
            raise BrokenContract(
                f"{metric.name} has no label {label}, only {', '.join(metric.labels) or 'none'}; mend the panel that asks for it"
            )
    chosen = [f'{label}=~"${label}"' for label in ("camera", "context") if label in metric.labels]
    fixed = [f'{label}="{value}"' for label, value in only.items()]
    narrowed = ",".join((*chosen, *fixed))
    return f"{metric.name}{suffix}{{{narrowed}}}" if narrowed else f"{metric.name}{suffix}"


def _over(how: str, by: tuple[str, ...]) -> str:
    return f"{how} by ({', '.join(by)}) " if by else how


def rate(metric: Metric, *by: str, suffix: str = "", **only: str) -> str:
    """Per second, summed over everything but `by`."""
    return f"{_over('sum', by)}(rate({series(metric, suffix, by, **only)}[{WINDOW}]))"


def increase(metric: Metric, *by: str, window: str = WINDOW, **only: str) -> str:
    """How many more within the window, summed over everything but `by`."""
    return f"{_over('sum', by)}(increase({series(metric, '', by, **only)}[{window}]))"


def mean(metric: Metric, *by: str, **only: str) -> str:
    """Average of a histogram."""
    return f"{rate(metric, *by, suffix='_sum', **only)} / {rate(metric, *by, suffix='_count', **only)}"


def quantile(share: float, metric: Metric, *by: str) -> str:
    """Quantile of a histogram, as exact as its buckets are."""
    selector = series(metric, "_bucket", by)
    return f"histogram_quantile({share}, {_over('sum', ('le', *by))}(rate({selector}[{WINDOW}])))"


def now(metric: Metric, *by: str, how: str = "sum", **only: str) -> str:
    """A gauge as it stands, combined over everything but `by`."""
    return f"{_over(how, by)}({series(metric, '', by, **only)})"
