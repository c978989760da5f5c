"""docker-compose.yml says what the code says: services, ports, settings, broker, alerts, files."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec.structs import replace

from infra import certificates, kafka
from infra.certificates import make_certificates, utc_now
from infra.jars import KAFKA_VERSION
from infra.metrics import ALL, BY_NAME, Service, port
from infra.settings import Settings, read_settings

ROOT = Path(__file__).parent.parent
DOCKER = ROOT / "infra" / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("kerbwatch:")}
PROMETHEUS: dict[str, Any] = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
ALERTS: list[dict[str, Any]] = yaml.safe_load((DOCKER / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))["groups"][0][
    "rules"
]
PICTURES = "${KERBWATCH_SHARED_DATA:-pictures}:/srv/shared-data:ro"
PASSWORDS = {"POSTGRES_PASSWORD": "abc123", "GRAFANA_PASSWORD": "def456"}


def as_deployed() -> Settings:
    """Settings as the containers read them."""
    found = OURS["infer"]["environment"]
    return read_settings({**found, "KERBWATCH_DATABASE_URL": re.sub(r"\$\{[^}]*\}", "abc123", found["KERBWATCH_DATABASE_URL"])})


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} here: apt-get install its package, and it checks these files")
    return found


def test_every_process_that_offers_metrics_is_a_service_with_its_own_command() -> None:
    assert {name: service["command"] for name, service in OURS.items() if service["command"][0] == "work"} == {
        str(service): ["work", str(service)] for service in Service
    }
    assert all(OURS[service]["restart"] == "unless-stopped" for service in Service)


@pytest.mark.parametrize("name", OURS)
def test_variables_of_our_services_are_settings_that_hold(name: str) -> None:
    known = {f"KERBWATCH_{field.upper()}" for field in Settings.__struct_fields__}
    assert set(OURS[name]["environment"]) <= known
    assert as_deployed().kafka_host in SERVICES


def test_the_database_s_address_names_the_service_user_and_database_that_are_made() -> None:
    made = SERVICES["postgres"]["environment"]
    assert as_deployed().database == f"postgresql+psycopg://{made['POSTGRES_USER']}:abc123@postgres:5432/{made['POSTGRES_DB']}"


def test_prometheus_scrapes_every_process_at_its_port() -> None:
    (job,) = PROMETHEUS["scrape_configs"]
    (group,) = job["static_configs"]
    assert group["targets"] == [f"{service}:{port(as_deployed(), service)}" for service in Service]


@pytest.mark.parametrize("service", Service)
def test_a_process_is_healthy_when_its_own_metrics_answer(service: Service) -> None:
    assert f"http://127.0.0.1:{port(as_deployed(), service)}/metrics" in SERVICES[service]["healthcheck"]["test"][-1]


def test_the_broker_is_the_version_and_has_the_configuration_of_the_local_one(tmp_path: Path) -> None:
    settings = replace(as_deployed(), home=tmp_path)
    make_certificates(settings, utc_now())
    local = _rows(kafka._properties(settings, kafka._place(settings)))
    ours = _rows((DOCKER / "kafka" / "server.properties").read_text(encoding="utf-8"))
    assert {name for name in local | ours if local.get(name) != ours.get(name)} == {
        "listeners",
        "log.dirs",
        "ssl.keystore.location",
        "ssl.truststore.location",
    }
    assert ours["advertised.listeners"] == f"SSL://{settings.bootstrap}"
    assert ours["listeners"] == f"SSL://0.0.0.0:{settings.kafka_port},CONTROLLER://127.0.0.1:{settings.kafka_controller_port}"
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{KAFKA_VERSION}"
    assert str(settings.kafka_port) in SERVICES["kafka"]["healthcheck"]["test"][-1]
    for store in ("ssl.keystore.location", "ssl.truststore.location"):
        folder, _, name = ours[store].rpartition("/")
        assert f"broker-keys:{folder}:ro" in SERVICES["kafka"]["volumes"]
        assert f"/broker-keys/{name}" in SERVICES["keys"]["command"][0]


def _rows(properties: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in properties.splitlines() if line and not line.startswith("#"))


def test_the_broker_s_own_certificate_is_copied_and_no_other_key() -> None:
    copied = re.findall(r"install -m \d+ (\S+)", SERVICES["keys"]["command"][0])
    settings = as_deployed()
    assert copied == [str(certificates.identity_file(settings, certificates.BROKER)), str(certificates.authority_file(settings))]


def test_every_image_is_pinned_and_every_port_is_on_loopback() -> None:
    for name, service in SERVICES.items():
        assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+(\.\d+)?(-[a-z]+)?", service["image"]), name
        assert all(offered.startswith("127.0.0.1:") for offered in service.get("ports", [])), name
        assert "privileged" not in service


def test_no_secret_stands_in_the_file_and_each_one_is_asked_for_by_name() -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    for line in text.splitlines():
        if re.search(r"PASSWORD|DATABASE_URL|TOKEN|SECRET", line) and not line.lstrip().startswith("#"):
            assert re.search(r"\$\{[A-Z_]+:\?[^}]+\}", line), line
    assert set(re.findall(r"\$\{([A-Z_]+)", text)) == {*PASSWORDS, "KERBWATCH_SHARED_DATA"}


def test_everything_that_runs_on_restarts_and_says_when_it_is_healthy() -> None:
    once = {"keys", "setup", "cli"}
    for name, service in SERVICES.items():
        if name not in once:
            assert service["restart"] == "unless-stopped", name
            assert service["healthcheck"]["test"][0] == "CMD", name


def test_every_mounted_file_and_folder_is_in_the_repository() -> None:
    volumes = {volume for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert PICTURES in volumes
    mounts = [volume.split(":") for volume in volumes - {PICTURES}]
    for source, *_ in mounts:
        if source.startswith("."):
            assert (ROOT / source).is_dir(), source
            assert any((ROOT / source).iterdir()), source
        else:
            assert source in COMPOSE["volumes"]
    used = {source for source, *_ in mounts if not source.startswith(".")}
    assert used | {"pictures"} == set(COMPOSE["volumes"])


def test_who_retrains_finds_the_pictures_where_the_settings_say() -> None:
    assert PICTURES in OURS["keep"]["volumes"]
    assert f":{as_deployed().shared_data}:ro" in PICTURES


def test_grafana_finds_its_data_source_and_our_dashboard() -> None:
    (source,) = yaml.safe_load((DOCKER / "grafana" / "datasources" / "prometheus.yml").read_text(encoding="utf-8"))["datasources"]
    (provider,) = yaml.safe_load((DOCKER / "grafana" / "dashboards" / "kerbwatch.yml").read_text(encoding="utf-8"))["providers"]
    assert source["type"] == "prometheus"
    assert source["url"] == "http://prometheus:9090"
    assert source["jsonData"]["timeInterval"] == PROMETHEUS["global"]["scrape_interval"]
    assert f"./dashboards/generated:{provider['options']['path']}:ro" in SERVICES["grafana"]["volumes"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (ROOT / "dashboards" / "generated" / Path(home).name).is_file()


def test_the_image_holds_every_package_and_asks_for_the_locked_dependencies() -> None:
    dockerfile = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
    packages = {"streams", "detectors", "responders", "inference", "infra", "dashboards"}
    assert set(re.findall(r"^COPY (\w+) \1$", dockerfile, re.MULTILINE)) == packages
    allowed = set(re.findall(r"^!(\S+)$", (DOCKER / "Dockerfile.dockerignore").read_text(encoding="utf-8"), re.MULTILINE))
    assert packages | {"requirements.lock", "pyproject.toml", "README.md", "LICENSE"} == allowed
    assert all((ROOT / name).exists() for name in allowed)
    assert "USER kerbwatch" in dockerfile
    assert f"KERBWATCH_HOME={as_deployed().home}" in dockerfile


def test_a_read_only_container_writes_to_its_volumes_and_the_drill_s_broker_finds_its_jars_in_the_image(tmp_path: Path) -> None:
    dockerfile = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
    home, cache = (re.findall(rf"KERBWATCH_{name}=(\S+)", dockerfile) for name in ("HOME", "CACHE"))
    assert f"--home-dir {home[0]} " in dockerfile  # what a library keeps below ~ is on the volume
    for name, service in OURS.items():
        assert service["read_only"], name
        assert f"home:{home[0]}" in service["volumes"], name
        assert "KERBWATCH_CACHE" not in service["environment"], name  # the image's holds
    # The very line that puts jars into the image, tried where they are to be had; as root there, before the user changes.
    (line,) = re.findall(r'^RUN python -c "(.*)"$', dockerfile, re.MULTILINE)
    assert dockerfile.index(f"KERBWATCH_CACHE={cache[0]}") < dockerfile.index(line) < dockerfile.index("USER kerbwatch")
    (tmp_path / "cache").symlink_to(read_settings().cache)

    def tried(folder: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "KERBWATCH_CACHE": folder}
        return subprocess.run([sys.executable, "-c", line], env=environment, cwd=ROOT, capture_output=True, text=True, check=False)

    done = tried(str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert tried("/proc/nowhere").returncode, "jars would lie elsewhere than where the broker looks"


def test_docker_compose_itself_accepts_the_file(tmp_path: Path) -> None:
    command = [program("docker-compose"), "--file", str(ROOT / "docker-compose.yml"), "--project-directory", str(ROOT), "config"]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(command, env={**environment, **PASSWORDS}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    resolved = yaml.safe_load(done.stdout)["services"]
    assert set(SERVICES) >= set(resolved) >= set(SERVICES) - {"cli"}
    assert "abc123" in resolved["infer"]["environment"]["KERBWATCH_DATABASE_URL"]


@pytest.mark.parametrize("missing", PASSWORDS)
def test_docker_compose_refuses_to_start_without_a_password(missing: str, tmp_path: Path) -> None:
    given = {name: value for name, value in PASSWORDS.items() if name != missing}
    (tmp_path / "docker-compose.yml").write_bytes((ROOT / "docker-compose.yml").read_bytes())
    command = [
        program("docker-compose"),
        "--project-directory",
        str(tmp_path),
        "--file",
        str(tmp_path / "docker-compose.yml"),
        "config",
    ]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(command, env={**environment, **given}, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "put a password" in done.stderr


# Alerts


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_asks_only_for_metrics_and_labels_that_exist_and_says_what_to_do(rule: dict[str, Any]) -> None:
    names = re.findall(r"kerbwatch_\w+", rule["expr"])
    assert all(name in BY_NAME for name in names)
    known = {label for metric in ALL if metric.name in names for label in metric.labels} | {"instance", "job"}
    assert set(re.findall(r"(\w+)=", rule["expr"])) <= known
    assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= known
    assert rule["annotations"]["next"].endswith(".")
    assert rule["labels"]["severity"] in {"low", "medium", "high", "critical"}


def test_promtool_accepts_configuration_and_rules() -> None:
    done = subprocess.run(
        [program("promtool"), "check", "config", str(DOCKER / "prometheus" / "prometheus.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout


def test_amtool_accepts_alertmanager_s_configuration() -> None:
    done = subprocess.run(
        [program("amtool"), "check-config", str(DOCKER / "alertmanager" / "alertmanager.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "alertmanager:9093" in PROMETHEUS["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"]


TROUBLE = {
    # alert: series as promtool's unit tests write them (one value a 15 s step), in trouble and in good order
    "ProcessDown": ({'up{job="kerbwatch",instance="infer:19100"}': "0x40"}, {'up{job="kerbwatch",instance="infer:19100"}': "1x40"}),
    "WorkerSilent": (
        {
            'kerbwatch_worker_reported_timestamp_seconds{worker="w"}': "0x40",
            'kerbwatch_worker_health{worker="w",health="stopping"}': "0x40",
        },
        {
            'kerbwatch_worker_reported_timestamp_seconds{worker="w"}': "0+15x40",
            'kerbwatch_worker_reported_timestamp_seconds{worker="left"}': "0x40",
            'kerbwatch_worker_health{worker="left",health="stopping"}': "1x40",
        },
    ),
    "LagGrows": (
        {'kerbwatch_consumer_lag_messages{service="infer",topic="frames"}': "100+20x40"},
        {
            'kerbwatch_consumer_lag_messages{service="infer",topic="frames"}': "2000-20x40",
            'kerbwatch_consumer_lag_messages{service="watch",topic="detections"}': "0+1x40",
        },
    ),
    "EffectsStuck": (
        {'kerbwatch_effects_pending{instance="r"}': "1x40", 'kerbwatch_effect_attempts_total{instance="r",outcome="done"}': "7x40"},
        {
            'kerbwatch_effects_pending{instance="r"}': "1x40",
            'kerbwatch_effect_attempts_total{instance="r",outcome="done"}': "0+1x40",
        },
    ),
    "IncidentUnacknowledged": (
        {'kerbwatch_incidents_unacknowledged{kind="evasion"}': "1x40"},
        {'kerbwatch_incidents_unacknowledged{kind="evasion"}': "1x10 0x30"},
    ),
    "ModelFaulty": (
        {'kerbwatch_model_faults{worker="gpu-1"}': "1x40"},
        {'kerbwatch_model_faults{worker="gpu-1"}': "1x4 0x36"},
    ),
    "PagingFails": (
        {
            'kerbwatch_notifications_total{channel="webhook",outcome="failed"}': "0x8 1x4 2x28",
            'kerbwatch_channel_faulty{channel="webhook"}': "0x40",
        },
        {
            'kerbwatch_notifications_total{channel="webhook",outcome="failed"}': "0x8 1x32",
            'kerbwatch_notifications_total{channel="webhook",outcome="done"}': "0x9 1x31",
            'kerbwatch_channel_faulty{channel="webhook"}': "0x40",
        },
    ),
    "DeadLettersRise": (
        {'kerbwatch_dead_letters_total{topic="frames",reason="undecodable"}': "0+2x40"},
        {'kerbwatch_dead_letters_total{topic="frames",reason="undecodable"}': "0+0.2x40"},
    ),
}


def test_every_alert_has_a_story_in_which_it_fires_and_one_in_which_it_stays_silent() -> None:
    assert set(TROUBLE) == {rule["alert"] for rule in ALERTS}


@pytest.mark.parametrize("name", TROUBLE)
def test_an_alert_fires_in_trouble_and_is_silent_in_good_order(name: str, tmp_path: Path) -> None:
    told = {state: _fires(name, series, tmp_path) for state, series in zip(("trouble", "order"), TROUBLE[name], strict=True)}
    assert told == {"trouble": True, "order": False}


def _fires(name: str, series: dict[str, str], folder: Path) -> bool:
    """Whether the alert fires nine minutes on; promtool passes a test that expects no alert only if none fires."""
    story = {
        "rule_files": [str(DOCKER / "prometheus" / "alerts.yml")],
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "15s",
                "input_series": [{"series": each, "values": values} for each, values in series.items()],
                "alert_rule_test": [{"eval_time": "9m", "alertname": name, "exp_alerts": []}],
            }
        ],
    }
    (folder / "story.yml").write_text(yaml.safe_dump(story), encoding="utf-8")
    done = subprocess.run(
        [program("promtool"), "test", "rules", str(folder / "story.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 or f"alertname: {name}" in done.stderr + done.stdout, done.stderr
    return done.returncode != 0
