"""Metrics: named well and once, driven by events, offered on loopback."""

import re
import socket
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest
from a_run import CANDIDATE, NOON, NORMAL, SAFE, judged, rollout, second, serving, status
from msgspec.structs import replace
from prometheus_client import Counter, Histogram

from infra import metrics as named
from infra.metrics import Metrics, Outcome, Service, port, serve_metrics
from infra.settings import Settings
from responders.rollouts import metrics as rollout_metrics
from responders.rollouts.comparison import Limits
from responders.rollouts.metrics import Newest
from responders.rollouts.rollout import State
from streams.errors import BrokenContract, Refusal, Unavailable
from streams.events import Context, Health, Kind, Mode, Phase


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(Service.INFER)


def test_every_definition_of_the_module_is_listed_once() -> None:
    defined = {id(each) for each in vars(named).values() if isinstance(each, named.Definition)}
    assert defined == {id(each) for each in named.ALL}
    assert len(named.BY_NAME) == len(named.ALL)


@pytest.mark.parametrize("metric", named.ALL, ids=lambda metric: metric.name)
def test_names_follow_the_prometheus_conventions(metric: named.Definition) -> None:
    assert re.fullmatch(r"kerbwatch_[a-z]+(_[a-z]+)*", metric.name)
    assert metric.name.endswith("_total") == (metric.kind is Counter)
    assert bool(metric.buckets) == (metric.kind is Histogram)
    assert not metric.name.endswith(("_ms", "_bucket", "_sum", "_count", "_created"))
    assert metric.meaning.endswith(".")
    assert not set(metric.labels) & {"le", "quantile", "job", "instance"}


def test_a_metric_that_is_not_listed_is_refused(metrics: Metrics) -> None:
    with pytest.raises(BrokenContract, match="kerbwatch_other"):
        metrics[named.Definition(Counter, "kerbwatch_other_total", "Other.")]


def test_a_judged_frame_is_counted_timed_and_its_people_added(metrics: Metrics) -> None:
    metrics.judged(judged(people=3))
    metrics.judged(judged(people=1))
    assert value(metrics, "kerbwatch_frames_judged_total", camera="cam-1", context="urban", mode="normal") == 2
    assert value(metrics, "kerbwatch_people_total", camera="cam-1", context="urban", mode="normal") == 4
    assert value(metrics, "kerbwatch_frame_latency_seconds_sum", camera="cam-1", context="urban") == pytest.approx(0.24)
    assert value(metrics, "kerbwatch_stage_seconds_sum", stage="infer") == pytest.approx(0.08)


def test_a_camera_clock_ahead_of_ours_does_not_make_latency_negative(metrics: Metrics) -> None:
    metrics.judged(judged(took_s=-3.0))
    metrics.watched(judged(), NOON - timedelta(seconds=1))
    assert value(metrics, "kerbwatch_frame_latency_seconds_sum", camera="cam-1", context="urban") == 0.0
    assert value(metrics, "kerbwatch_watch_latency_seconds_sum", camera="cam-1", context="urban") == 0.0


@pytest.mark.parametrize(("answered", "beside"), [(NORMAL, CANDIDATE), (CANDIDATE, NORMAL)])
def test_candidate_and_serving_model_are_told_apart_whoever_of_them_answered(metrics: Metrics, answered: str, beside: str) -> None:
    metrics.judged(judged(people=2, digest=answered, compared=second(beside, people=3)), candidate=CANDIDATE)
    people = {"candidate": 2, "serving": 3} if answered == CANDIDATE else {"candidate": 3, "serving": 2}
    for model, count in people.items():
        whose = {"context": "urban", "model": model}
        assert value(metrics, "kerbwatch_compared_people_total", **whose) == count
        took_s = 0.04 if count == 2 else 0.05
        assert value(metrics, "kerbwatch_compared_infer_seconds_sum", **whose) == pytest.approx(took_s)
        assert value(metrics, "kerbwatch_compared_score_ratio_sum", **whose) == pytest.approx(0.9 if count == 2 else 0.7)
    assert value(metrics, "kerbwatch_compared_agreement_ratio_sum", context="urban") == pytest.approx(0.8)


def test_a_frame_without_people_has_no_score_to_compare(metrics: Metrics) -> None:
    metrics.judged(judged(people=0, compared=second(CANDIDATE, people=0)), candidate=CANDIDATE)
    assert value(metrics, "kerbwatch_compared_score_ratio_count", context="urban", model="candidate") is None
    assert value(metrics, "kerbwatch_compared_infer_seconds_count", context="urban", model="candidate") == 1


def test_second_looks_and_cleaned_frames_are_counted_beside_all_that_were_judged(metrics: Metrics) -> None:
    plain = judged()
    metrics.judged(replace(plain, scores=replace(plain.scores, inconsistency=None)))
    assert value(metrics, "kerbwatch_frames_scored_total", camera="cam-1", context="urban") == 0
    metrics.judged(plain, cleaned=True)
    for name in ("scored", "cleaned"):
        assert value(metrics, f"kerbwatch_frames_{name}_total", camera="cam-1", context="urban") == 1


def test_a_rollout_shows_its_step_its_share_and_the_proof_of_this_step_alone(metrics: Metrics) -> None:
    rollout_metrics.show(metrics, [rollout(State.SHADOW)])
    assert value(metrics, "kerbwatch_rollout_info", context="urban", state="shadow", digest="c" * 12) == 1
    assert value(metrics, "kerbwatch_rollout_proof_frames", context="urban") == 30
    assert value(metrics, "kerbwatch_rollout_share_ratio", context="urban") == 0
    rollout_metrics.show(metrics, [rollout(State.CANARY)])
    assert value(metrics, "kerbwatch_rollout_info", context="urban", state="shadow", digest="c" * 12) is None
    assert value(metrics, "kerbwatch_rollout_proof_frames", context="urban") == 20
    assert value(metrics, "kerbwatch_rollout_wanted_frames", context="urban") == Limits().served
    assert value(metrics, "kerbwatch_rollout_limit_ratio", context="urban", figure="agreement") == Limits().agreement
    rollout_metrics.show(metrics, [rollout(State.FULL)])
    assert value(metrics, "kerbwatch_rollout_share_ratio", context="urban") == 1


def test_no_frame_is_proof_before_the_workers_obey(metrics: Metrics) -> None:
    one = rollout(State.SHADOW)
    rollout_metrics.show(metrics, [Newest(replace(one.rollout, reported=False), one.tally)])
    assert value(metrics, "kerbwatch_rollout_proof_frames", context="urban") == 0


def test_a_rollout_that_is_over_keeps_its_last_state_and_no_numbers(metrics: Metrics) -> None:
    rollout_metrics.show(metrics, [rollout(State.CANARY)])
    rollout_metrics.show(metrics, [rollout(State.RETURNED)])
    assert value(metrics, "kerbwatch_rollout_info", context="urban", state="returned", digest="c" * 12) == 1
    for name in ("share_ratio", "proof_frames", "wanted_frames"):
        assert value(metrics, f"kerbwatch_rollout_{name}", context="urban") is None


def test_rare_events_stand_at_zero_from_the_start_so_that_the_first_one_shows_as_an_increase(metrics: Metrics) -> None:
    assert all(value(metrics, "kerbwatch_refused_total", reason=reason) == 0 for reason in Refusal)
    assert all(value(metrics, "kerbwatch_signals_total", kind=kind, phase=phase) == 0 for kind in Kind for phase in Phase)
    assert all(value(metrics, "kerbwatch_effect_attempts_total", outcome=outcome) == 0 for outcome in Outcome)


def test_a_switch_of_weights_leaves_only_the_new_digest(metrics: Metrics) -> None:
    metrics.serving([serving(NORMAL, Mode.NORMAL), serving(NORMAL, Mode.NORMAL, Context.HIGHWAY)])
    metrics.serving([serving(SAFE, Mode.SAFE), serving(NORMAL, Mode.NORMAL, Context.HIGHWAY)])
    assert value(metrics, "kerbwatch_serving_info", context="urban", mode="safe", digest="b" * 12) == 1
    assert value(metrics, "kerbwatch_serving_info", context="urban", mode="normal", digest="a" * 12) is None
    assert value(metrics, "kerbwatch_serving_info", context="highway", mode="normal", digest="a" * 12) == 1


def test_a_workers_last_word_on_its_health_is_the_only_one_at_1(metrics: Metrics) -> None:
    for health in (Health.SERVING, Health.FAILING):
        metrics.reported(status(health), NOON)
    assert value(metrics, "kerbwatch_worker_health", worker="worker-1", health="failing") == 1
    assert value(metrics, "kerbwatch_worker_health", worker="worker-1", health="serving") == 0
    assert value(metrics, "kerbwatch_worker_reported_timestamp_seconds", worker="worker-1") == NOON.timestamp()


def test_a_state_that_no_open_incident_is_in_any_more_falls_to_zero(metrics: Metrics) -> None:
    metrics.incidents({(Kind.EVASION, "open"): 2}, {Kind.EVASION: 1})
    metrics.incidents({(Kind.EVASION, "contained"): 1}, {})
    assert value(metrics, "kerbwatch_incidents_open", kind="evasion", state="open") == 0
    assert value(metrics, "kerbwatch_incidents_open", kind="evasion", state="contained") == 1
    assert value(metrics, "kerbwatch_incidents_unacknowledged", kind="evasion") == 0


def test_each_service_has_a_port_of_its_own_upwards_from_the_setting() -> None:
    settings = Settings(metrics_port=20000)
    assert [port(settings, service) for service in Service] == [20000, 20001, 20002, 20003]


def test_metrics_are_offered_on_loopback_while_the_block_runs_and_the_port_is_free_afterwards(
    metrics: Metrics, free_ports: Callable[[int], tuple[int, ...]]
) -> None:
    settings = Settings(metrics_port=free_ports(1)[0])
    assert settings.metrics_host == "127.0.0.1"
    for _ in range(2):
        with (
            serve_metrics(settings, metrics) as address,
            closing(HTTPConnection(urlsplit(address).netloc, timeout=5)) as caller,
        ):
            caller.request("GET", urlsplit(address).path)
            assert b'kerbwatch_process_info{service="infer"' in caller.getresponse().read()


def test_a_taken_port_says_what_to_do(metrics: Metrics) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = Settings(metrics_port=taken.getsockname()[1])
        with pytest.raises(Unavailable, match="KERBWATCH_METRICS_PORT"), serve_metrics(settings, metrics):
            pass


def test_each_process_reports_its_own_lag_on_a_topic_that_several_read() -> None:
    metrics = Metrics(Service.KEEP)
    metrics.waiting("detections", 7)
    assert value(metrics, "kerbwatch_consumer_lag_messages", service="keep", topic="detections") == 7
