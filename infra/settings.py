"""Every setting, typed, read once (by the command line) from `KERBWATCH_*` variables and passed down.

Secrets are `Secret`, so that no log or error shows them. Where no default would be safe there is none.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, ValidationError, convert
from msgspec.structs import fields, replace

from streams.errors import BadInput
from streams.events import Name

Port = Annotated[int, Meta(ge=1, le=65535)]
_Some = Annotated[int, Meta(ge=1)]
_Seconds = Annotated[float, Meta(gt=0, le=365 * 86400)]

_PREFIX = "KERBWATCH_"
_LOOPBACK = "127.0.0.1"


class Secret:
    """Text that nothing prints, logs or encodes; only `reveal` gives it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself, for whom it is meant."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


class Settings(Struct, frozen=True, kw_only=True):
    """What a deployment may differ in. Durations in seconds."""

    home: Path = Path("var")
    """Keys, broker data, database, registry, quarantine and logs; made on first use."""
    cache: Path = Path("~/.cache/kerbwatch").expanduser()
    """Downloads that outlive a home: the broker's jars."""
    shared_data: Path = Path("../shared/data")
    """Real data for tests and experiments, read where present."""

    kafka_host: str = "localhost"
    kafka_port: Port = 19092
    kafka_controller_port: Port = 19093
    kafka_heap_mb: _Some = 384

    database_url: Secret | None = None
    """SQLAlchemy address; SQLite in `home` if not given."""

    person: str = ""
    """Who acts at the command line, where `--actor` does not say; the operating system's user if empty."""
    key_file: Path | None = None
    """That person's private key; `keys/people/NAME.key` in `home` if not given."""

    metrics_port: Port = 19100
    """The first process's metrics; the others follow upwards (`infra.metrics.port`)."""
    metrics_host: str = _LOOPBACK
    """Where processes offer their metrics. Nothing guards them, so beyond loopback only inside a network of your own."""

    grafana_url: str | None = None
    """Where `kerbwatch dashboards push` puts the dashboards, e.g. http://localhost:3000."""
    grafana_token: Secret | None = None
    """Token of a Grafana service account that may edit dashboards."""

    webhook_url: Secret | None = None
    """Where notices go as signed JSON (`responders.notify.webhook`); many such addresses are secrets by themselves."""
    webhook_secret: Secret | None = None
    """whsec_ and 24 to 64 random bytes in base64; the receiver checks signatures with it."""
    alertmanager_url: str | None = None
    """An Alertmanager that notices go to, e.g. http://localhost:9093."""
    smtp_host: str | None = None
    """The server that notices are mailed through; it must offer STARTTLS."""
    smtp_port: Port = 587
    smtp_user: str | None = None
    smtp_password: Secret | None = None
    mail_from: str = ""
    mail_to: str = ""
    """Who is written to: addresses, or ROLE=ADDRESS for the pages of one role, with commas between."""

    worker_id: Name = "worker-1"
    """Tells workers apart; of two that run under one name, the older is put out."""
    responder_id: Name = "responder-1"
    """What a responder is called in the tables; two that run under one name hold their work apart (`responders.engine.runner`)."""
    worker_batch: _Some = 8
    """Most frames read and judged at once, under backlog; one at a time where they come slowly."""
    backlog_s: _Seconds = 60.0
    """A frame that waited longer is left out and counted, unless it may be evidence."""
    newest_first: bool = False
    """Too far behind, go on with fresh frames rather than with the next oldest."""
    worker_threads: _Some = 2
    device: str = "cpu"
    """cpu or cuda."""
    precision: Literal["float32", "float16", "bfloat16"] = "float32"
    """What networks calculate in. float16 is for CUDA; bfloat16 on a CPU is allowed, and slower than float32 there."""
    score_every: _Some = 32
    """One frame in so many of a calm camera is scored for adversarial input; more of a new one, all while one looks suspicious."""
    compare_every: _Some = 4
    """One frame in so many is judged by a candidate too, while one is on its way into service."""
    sanitise_normal: str = ""
    """How pictures are cleaned before the normal model sees them (`inference.service.sanitise.chain`); not at all by default."""
    sanitise_safe: str = "jpeg-75"
    """The same before the safe model."""
    clock_allowance_s: _Seconds = 5.0
    """How far a camera's clock may run ahead of ours."""
    status_every_s: _Seconds = 1.0
    """Between two heartbeats of a worker."""
    worker_lost_s: _Seconds = 6.0
    """A worker not heard of for so long is not alive, and nothing is asked of it."""
    quarantine_days: _Some = 180
    """A frame in quarantine is destroyed when it is so old, unless an open incident of its camera may need it."""
    records_days: _Some = 400
    """A judged frame's record goes when it is so old, unless an open incident of its camera may need it."""
    deadlines: Path | None = None
    """TOML file of whom an incident may have to be reported to, and within how many hours (`responders/report/deadlines.toml`)."""

    playbooks: Path | None = None
    """Folder of playbooks of your own, one TOML file a kind; the packaged one serves each kind that has none there."""

    def on_its_own(self, home: Path) -> "Settings":
        """The same in another home, sharing nothing with a deployment: no database or broker elsewhere, and nobody is told."""
        nobody = dict.fromkeys(("database_url", "key_file", "webhook_url", "alertmanager_url", "smtp_host", "grafana_url"))
        here = {"home": home, "kafka_host": _LOOPBACK, "metrics_host": _LOOPBACK, "playbooks": None}
        return replace(self, **nobody, **here)

    @property
    def bootstrap(self) -> str:
        """The broker's address as clients want it."""
        return f"{self.kafka_host}:{self.kafka_port}"

    @property
    def database(self) -> str:
        """The database's address; holds a password where PostgreSQL is used, so never log it."""
        if self.database_url is not None:
            return self.database_url.reveal()
        return f"sqlite:///{self.home.resolve() / 'kerbwatch.db'}"


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Settings from the environment. Raises BadInput naming each variable that does not hold."""
    given, faults = {}, []
    for field in fields(Settings):
        variable = _variable(field.name)
        if variable in environment:
            try:
                given[field.name] = convert(environment[variable], field.type, strict=False, dec_hook=_made)
            except ValidationError as error:  # no secret has bounds, so what is quoted here is none
                faults.append(f"{variable} is {environment[variable]!r}: {_in_words(error)}")
    if faults:
        raise BadInput(f"settings do not hold: {'; '.join(faults)}")
    return Settings(**given)


def variables(settings: Settings) -> dict[str, str]:
    """What reads as these settings, secrets included, for a process that is to run under them; it may stand elsewhere."""
    said = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, Secret):
            value = value.reveal()
        if isinstance(value, Path):
            value = value.resolve()
        if value is not None:
            said[_variable(field.name)] = str(value)
    return said


def _variable(name: str) -> str:
    return f"{_PREFIX}{name.upper()}"


def _in_words(error: ValidationError) -> str:
    """What is expected, without the names of Python's types."""
    words = str(error).removesuffix(", got `str`")
    for name, meant in (("`int`", "a whole number"), ("`float`", "a number"), ("`bool`", "true or false"), ("`str`", "text")):
        words = words.replace(name, meant)
    return words


def _made(kind: type, text: Any) -> Any:
    """A path or a secret: what JSON's types do not know."""
    return kind(text)
