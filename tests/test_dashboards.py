"""Dashboards: golden JSON, queries that name what exists and return data in a real Prometheus, and the push to Grafana."""

import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import isnan
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
import requests
import yaml
from a_run import drive
from prometheus_client import Histogram
from typer.testing import CliRunner

from dashboards import build, promql
from dashboards.cli import app
from dashboards.push import push
from infra import metrics as named
from infra.metrics import Metrics, Service, serve_metrics
from infra.settings import Secret, Settings
from responders.rollouts.comparison import Limits
from streams.errors import BadInput, BrokenContract, Unavailable

BOARDS = {name: json.loads((build.GENERATED / f"{name}.json").read_text(encoding="utf-8")) for name in ("watch", "models")}
PANELS = {
    f"{name}: {panel['title']} #{panel['id']}": panel
    for name, board in BOARDS.items()
    for panel in board["panels"]
    if panel["type"] != "row"
}
QUERIES = {f"{name} {target['refId']}": target["expr"] for name, panel in PANELS.items() for target in panel["targets"]}
QUERIES |= {f"{name}: mark {mark['name']}": mark["expr"] for name, board in BOARDS.items() for mark in board["annotations"]["list"]}
MODELS = [panel for name, panel in PANELS.items() if name.startswith("models: ")]
SWITCHED = QUERIES["watch: mark Switched weights"]
SELECTOR = re.compile(r"(kerbwatch_\w+)(?:\{([^}]*)\})?")
SCRAPE_S = 0.5


def definition(exposed: str) -> named.Definition:
    found = named.BY_NAME.get(exposed) or named.BY_NAME.get(re.sub(r"_(bucket|sum|count)$", "", exposed))
    assert found is not None, f"no metric is called {exposed}"
    assert found.name == exposed or found.kind is Histogram
    return found


def test_the_committed_json_is_what_the_code_makes() -> None:
    assert not build.stale(), f"stale: {build.stale()}; refresh with `{build.REFRESH}`"


def test_the_same_code_makes_the_same_bytes() -> None:
    assert build.render() == build.render()


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_names_only_metrics_and_labels_that_exist(name: str) -> None:
    expr = QUERIES[name]
    selectors = SELECTOR.findall(expr)
    assert selectors
    known: set[str] = {"le"}
    for exposed, narrowed in selectors:
        labels = set(definition(exposed).labels)
        assert set(re.findall(r"(\w+)=", narrowed)) <= labels
        known |= labels
    grouped = {label.strip() for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", expr) for label in group.split(",")}
    assert grouped <= known


def test_a_metric_s_camera_and_context_always_follow_the_choice_at_the_top() -> None:
    for expr in QUERIES.values():
        for exposed, narrowed in SELECTOR.findall(expr):
            for label in {"camera", "context"} & set(definition(exposed).labels):
                assert f'{label}=~"${label}"' in narrowed


def test_a_label_that_a_metric_lacks_is_refused() -> None:
    with pytest.raises(BrokenContract, match="kerbwatch_batch_frames has no label camera"):
        promql.rate(named.BATCH, "camera")


def test_legends_use_only_labels_that_their_query_keeps() -> None:
    for panel in PANELS.values():
        for target in panel["targets"]:
            kept = re.findall(r"by \(([^)]*)\)", target["expr"])
            wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert wanted <= {label.strip() for group in kept for label in group.split(",")}, panel["title"]


@pytest.mark.parametrize("name", BOARDS)
def test_no_panel_overlaps_another_and_all_lie_on_the_grid(name: str) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in BOARDS[name]["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
            assert cell not in taken, f"{panel['title']} lies on {taken[cell]}"
            taken[cell] = panel["title"]
    height = max(y for _, y in taken) + 1
    assert len(taken) == 24 * height, "the grid has holes"


def test_every_panel_explains_itself() -> None:
    for board in BOARDS.values():
        numbers = [panel["id"] for panel in board["panels"] if panel["type"] != "row"]
        assert len(set(numbers)) == len(numbers)
    for panel in PANELS.values():
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]


def test_a_panel_that_is_empty_without_a_rollout_says_so_in_its_description_and_in_place_of_curves() -> None:
    only_then = ("kerbwatch_rollout_", "kerbwatch_compared_", "kerbwatch_retraining_")
    found = [
        panel for panel in PANELS.values() if all(any(word in target["expr"] for word in only_then) for target in panel["targets"])
    ]
    assert len(found) > len(only_then)
    for panel in found:
        assert "Empty" in panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["noValue"]


def test_the_dashboards_differ_in_uid_and_title_and_lead_to_one_another() -> None:
    assert {board["uid"] for board in BOARDS.values()} == {"kerbwatch-watch", "kerbwatch-models"}
    assert len({board["title"] for board in BOARDS.values()}) == len(BOARDS)
    for board in BOARDS.values():
        assert set(board["links"][0]["tags"]) <= set(board["tags"])


# Every query against a real Prometheus


@dataclass
class Prometheus:
    """A running server and the time in which it saw the run."""

    port: int

    def ask(self, path: str, **asked: str) -> Any:
        answer = requests.get(f"http://127.0.0.1:{self.port}{path}", params=asked, timeout=5)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def scraped(self) -> int:
        try:
            return sum(sample["value"][1] == "1" for sample in self.ask("/api/v1/query", query="up")["result"])
        except requests.RequestException:
            return 0


@pytest.fixture(scope="module")
def prometheus(free_ports: Callable[[int], tuple[int, ...]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("no prometheus binary: apt-get install prometheus, and the queries are tried on a real one")
    folder = tmp_path_factory.mktemp("prometheus")
    of = {service: Metrics(service) for service in Service}
    own, *offered = free_ports(1 + len(of))
    with ExitStack() as stack:
        for index, service in enumerate(Service):
            stack.enter_context(serve_metrics(Settings(metrics_port=offered[index] - index), of[service]))
        config = {
            "global": {"scrape_interval": f"{int(SCRAPE_S * 1000)}ms", "scrape_timeout": f"{int(SCRAPE_S * 1000)}ms"},
            "scrape_configs": [
                {"job_name": "kerbwatch", "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in offered]}]}
            ],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
        log = stack.enter_context((folder / "log").open("wb"))
        server = subprocess.Popen(
            [
                binary,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{own}",
            ],
            stdout=log,
            stderr=log,
        )
        try:
            running = Prometheus(own)
            _wait(lambda: running.scraped() == len(of), 20, folder / "log")
            for round_number in range(10):
                drive(of, safe=round_number >= 5, now=datetime.now(UTC))
                time.sleep(SCRAPE_S / 2)
            _wait(lambda: len(running.ask("/api/v1/query", query=SWITCHED.replace("$context", ".*"))["result"]) > 0, 10)
            yield running
        finally:
            server.terminate()
            server.wait(timeout=20)


def _wait(until: Callable[[], bool], seconds: float, log: Path | None = None) -> None:
    end = time.monotonic() + seconds
    while not until():
        if time.monotonic() > end:
            pytest.fail(f"not in {seconds:.0f} s: {log.read_text(encoding='utf-8')[-2000:] if log else 'no data'}")
        time.sleep(0.2)


def test_the_mark_of_a_rollout_names_the_step_that_it_came_to(prometheus: Prometheus) -> None:
    expr = QUERIES["models: mark Rollouts"].replace("$context", ".*")
    now_s = time.time()
    found = prometheus.ask("/api/v1/query_range", query=expr, start=str(now_s - 30), end=str(now_s), step="0.5")["result"]
    assert {"context": "urban", "state": "canary"} in [series["metric"] for series in found]


@pytest.mark.parametrize("name", QUERIES)
def test_every_query_returns_data_once_a_run_has_been_scraped(name: str, prometheus: Prometheus) -> None:
    expr = QUERIES[name].replace("$__rate_interval", "4s").replace("$camera", ".*").replace("$context", ".*")
    assert "$" not in expr
    now_s = time.time()
    found = prometheus.ask("/api/v1/query_range", query=expr, start=str(now_s - 30), end=str(now_s), step="0.5")["result"]
    numbers = [float(value) for series in found for _, value in series["values"]]
    assert any(not isnan(number) for number in numbers), f"{expr} returns no number"


def test_the_choices_of_camera_and_context_are_filled(prometheus: Prometheus) -> None:
    for variable in (each for board in BOARDS.values() for each in board["templating"]["list"]):
        if variable["type"] == "query":
            matched = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"])
            assert matched
            selector = matched[1].replace("$context", ".*")
            assert prometheus.ask(f"/api/v1/label/{matched[2]}/values", **{"match[]": selector})


def test_the_mark_of_a_switch_names_the_context_that_switched_and_no_other(prometheus: Prometheus) -> None:
    now_s = time.time()
    expr = SWITCHED.replace("$context", ".*")
    found = prometheus.ask("/api/v1/query_range", query=expr, start=str(now_s - 30), end=str(now_s), step="0.5")["result"]
    assert {series["metric"]["context"] for series in found} == {"urban"}
    assert {"context": "urban", "mode": "safe", "digest": "b" * 12} in [series["metric"] for series in found]


def latest(prometheus: Prometheus, title: str, legend: str) -> list[float]:
    """The newest number of each series that a panel of the models' dashboard calls so."""
    (panel,) = [one for one in PANELS.values() if one["title"] == title and one["type"] == "timeseries" and one in MODELS]
    (expr,) = [target["expr"] for target in panel["targets"] if target["legendFormat"].endswith(legend)]
    asked = expr.replace("$__rate_interval", "20s").replace("$camera", ".*").replace("$context", "urban")
    now_s = time.time()
    found = prometheus.ask("/api/v1/query_range", query=asked, start=str(now_s - 15), end=str(now_s), step="0.5")["result"]
    return [next(number for number in reversed([float(n) for _, n in one["values"]]) if not isnan(number)) for one in found]


def test_a_candidate_is_drawn_between_the_limits_that_it_is_held_to(prometheus: Prometheus) -> None:
    def about(*numbers: float) -> object:
        return pytest.approx(list(numbers), rel=0.15)  # a scrape may fall between two counts of one frame

    assert latest(prometheus, "People per frame", "{{model}}") == about(3.0, 2.0)
    assert latest(prometheus, "People per frame", "most allowed") == about(2.0 * Limits().people)
    assert latest(prometheus, "People per frame", "least allowed") == about(2.0 / Limits().people)
    assert latest(prometheus, "Time per frame", "{{model}}") == about(0.05, 0.04)
    assert latest(prometheus, "Time per frame", "most allowed") == about(0.04 * Limits().latency)
    assert latest(prometheus, "Agreement", "least allowed") == pytest.approx([Limits().agreement])
    assert latest(prometheus, "Second looks", "{{context}}") == pytest.approx([1.0], abs=0.3)  # a mode's first frame is its base


# Push


@dataclass
class Grafana:
    """What of Grafana's API a push meets: checks the token, keeps dashboards by uid, counts their versions."""

    token: str = field(default_factory=lambda: token_hex(8))
    fails_with: int = 0
    boards: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    port: int = 0

    def answer(self, path: str, token: str | None, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if self.fails_with:
            return self.fails_with, {"message": "it failed"}
        if token != f"Bearer {self.token}":
            return 401, {"message": "Invalid API key"}
        if path != "/api/dashboards/db":
            return 404, {"message": "Not found"}
        board = asked["dashboard"]
        if board["uid"] in self.boards and not asked.get("overwrite"):
            return 412, {"message": "The dashboard has been changed by someone else", "status": "version-mismatch"}
        self.boards[board["uid"]] = board
        self.versions[board["uid"]] = self.versions.get(board["uid"], 0) + 1
        return 200, {
            "uid": board["uid"],
            "url": f"/d/{board['uid']}/x",
            "status": "success",
            "version": self.versions[board["uid"]],
        }


@pytest.fixture
def grafana() -> Iterator[Grafana]:
    double = Grafana()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            code, answer = double.answer(self.path, self.headers["Authorization"], asked)
            body = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    double.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield double
    server.shutdown()
    server.server_close()
    thread.join()


def settings(grafana: Grafana) -> Settings:
    return address(f"http://127.0.0.1:{grafana.port}", grafana.token)


def address(url: str | None, token: str | None) -> Settings:
    return Settings(grafana_url=url, grafana_token=None if token is None else Secret(token))


def test_a_push_puts_the_golden_dashboards_there_and_a_second_one_replaces_them(grafana: Grafana) -> None:
    (first, other), (second, _) = push(settings(grafana)), push(settings(grafana))
    assert grafana.boards == {board["uid"]: board for board in BOARDS.values()}
    assert other.title == "kerbwatch - models"
    assert (first.title, first.version, second.version) == ("kerbwatch - watch", 1, 2)
    assert first.url == f"http://127.0.0.1:{grafana.port}/d/kerbwatch-watch/x"


def test_a_refused_token_says_so_and_shows_nothing_of_it(grafana: Grafana) -> None:
    with pytest.raises(BadInput, match="KERBWATCH_GRAFANA_TOKEN") as caught:
        push(address(f"http://127.0.0.1:{grafana.port}", "wrong-token"))
    assert "wrong-token" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "error"), [(403, BadInput), (412, BadInput), (400, BadInput), (500, Unavailable), (503, Unavailable)]
)
def test_grafana_s_refusals_and_failures_are_told_apart(grafana: Grafana, code: int, error: type[Exception]) -> None:
    grafana.fails_with = code
    with pytest.raises(error):
        push(settings(grafana))


@pytest.mark.parametrize(
    ("url", "match"),
    [
        (None, "KERBWATCH_GRAFANA_URL"),
        ("localhost:3000", "no web address"),
        ("http://localhost:abc", "no web address"),
        ("http://admin:pw@localhost:3000", "bare address"),
        ("https://grafana.example.org?verify=false", "bare address"),
        ("http://grafana.example.org", "in the clear"),
    ],
)
def test_an_unsafe_or_missing_address_is_refused_before_anything_is_sent(url: str | None, match: str) -> None:
    with pytest.raises(BadInput, match=match):
        push(address(url, "t"))


def test_a_missing_token_is_asked_for(grafana: Grafana) -> None:
    with pytest.raises(BadInput, match="KERBWATCH_GRAFANA_TOKEN"):
        push(address(f"http://127.0.0.1:{grafana.port}", None))


def test_no_grafana_at_the_address_is_unavailable(free_ports: Callable[[int], tuple[int, ...]]) -> None:
    (port,) = free_ports(1)
    with pytest.raises(Unavailable, match="cannot be reached"):
        push(address(f"http://127.0.0.1:{port}", "t"))


def test_something_else_at_the_address_is_no_success(grafana: Grafana, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grafana, "answer", lambda *_: (200, {"hello": "there"}))
    with pytest.raises(Unavailable, match="not Grafana's API"):
        push(settings(grafana))


def test_the_command_pushes_what_the_environment_names(grafana: Grafana, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERBWATCH_GRAFANA_URL", f"http://127.0.0.1:{grafana.port}")
    monkeypatch.setenv("KERBWATCH_GRAFANA_TOKEN", grafana.token)
    done = CliRunner().invoke(app, ["push", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)[0]["version"] == 1
    assert grafana.token not in done.output


def test_check_finds_a_stale_file_and_build_mends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert CliRunner().invoke(app, ["check"]).exit_code == 0
    assert build.stale(tmp_path) == ("models.json", "watch.json")
    assert build.write(tmp_path) == ("models.json", "watch.json")
    (tmp_path / "left-over.json").write_text("{}", encoding="utf-8")
    (tmp_path / "watch.json").write_text("{}", encoding="utf-8")
    assert build.write(tmp_path) == ("left-over.json", "watch.json")
    assert build.stale(tmp_path) == ()
    monkeypatch.setattr("dashboards.build.stale", lambda: ("watch.json",))
    told = CliRunner().invoke(app, ["check"])
    assert told.exit_code == 1
    assert build.REFRESH in told.output


def test_what_else_speaks_http_still_works_beside_grafana_client_s_replacement_of_urllib3(grafana: Grafana) -> None:
    answer = requests.post(f"http://127.0.0.1:{grafana.port}/api/dashboards/db", json={"dashboard": {}}, timeout=5)
    assert answer.status_code == 401
