"""Every setting, typed, read once (by the command line) from `KERBWATCH_*` variables and passed down.

Secrets are `SecretStr`, so that no log or error shows them. Where no default would be safe there is none.
"""

from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from streams.errors import BadInput

Port = Annotated[int, Field(ge=1, le=65535)]

_LOOPBACK = "127.0.0.1"


class Settings(BaseSettings):
    """What a deployment may differ in. Durations in seconds."""

    model_config = SettingsConfigDict(env_prefix="KERBWATCH_", frozen=True, extra="ignore")

    home: Path = Path("var")
    """Keys, broker data, database, registry, quarantine and logs; made on first use."""
    cache: Path = Path("~/.cache/kerbwatch").expanduser()
    """Downloads that outlive a home: the broker's jars."""
    shared_data: Path = Path("../shared/data")
    """Real data for tests and experiments, read where present."""

    kafka_host: str = "localhost"
    kafka_port: Port = 19092
    kafka_controller_port: Port = 19093
    kafka_heap_mb: PositiveInt = 384

    database_url: SecretStr | None = None
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
    grafana_token: SecretStr | None = None
    """Token of a Grafana service account that may edit dashboards."""

    webhook_url: SecretStr | None = None
    """Where notices go as signed JSON (`responders.notify.webhook`); many such addresses are secrets by themselves."""
    webhook_secret: SecretStr | None = None
    """whsec_ and 24 to 64 random bytes in base64; the receiver checks signatures with it."""
    alertmanager_url: str | None = None
    """An Alertmanager that notices go to, e.g. http://localhost:9093."""
    smtp_host: str | None = None
    """The server that notices are mailed through; it must offer STARTTLS."""
    smtp_port: Port = 587
    smtp_user: str | None = None
    smtp_password: SecretStr | None = None
    mail_from: str = ""
    mail_to: str = ""
    """Who is written to: addresses, or ROLE=ADDRESS for the pages of one role, with commas between."""

    worker_id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")] = "worker-1"
    """Tells workers apart; of two that run under one name, the older is put out."""
    responder_id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")] = "responder-1"
    """What a responder is called in the tables; two that run under one name hold their work apart (`responders.engine.runner`)."""
    worker_batch: PositiveInt = 8
    """Most frames read and judged at once, under backlog; one at a time where they come slowly."""
    backlog_s: PositiveFloat = 60.0
    """A frame that waited longer is left out and counted, unless it may be evidence."""
    newest_first: bool = False
    """Too far behind, go on with fresh frames rather than with the next oldest."""
    worker_threads: PositiveInt = 2
    device: str = "cpu"
    """cpu or cuda."""
    precision: Literal["float32", "float16", "bfloat16"] = "float32"
    """What networks calculate in. float16 is for CUDA; bfloat16 on a CPU is allowed, and slower than float32 there."""
    score_every: PositiveInt = 32
    """One frame in so many of a calm camera is scored for adversarial input; more of a new one, all while one looks suspicious."""
    compare_every: PositiveInt = 4
    """One frame in so many is judged by a candidate too, while one is on its way into service."""
    sanitise_normal: str = ""
    """How pictures are cleaned before the normal model sees them (`inference.service.sanitise.chain`); not at all by default."""
    sanitise_safe: str = "jpeg-75"
    """The same before the safe model."""
    clock_allowance_s: PositiveFloat = 5.0
    """How far a camera's clock may run ahead of ours."""
    status_every_s: PositiveFloat = 1.0
    """Between two heartbeats of a worker."""
    worker_lost_s: PositiveFloat = 6.0
    """A worker not heard of for so long is not alive, and nothing is asked of it."""
    quarantine_days: PositiveInt = 180
    """A frame in quarantine is destroyed when it is so old, unless an open incident of its camera may need it."""
    records_days: PositiveInt = 400
    """A judged frame's record goes when it is so old, unless an open incident of its camera may need it."""
    deadlines: Path | None = None
    """TOML file of whom an incident may have to be reported to, and within how many hours (`responders/report/deadlines.toml`)."""

    playbooks: Path | None = None
    """Folder of playbooks of your own, one TOML file a kind; the packaged one serves each kind that has none there."""

    def on_its_own(self, home: Path) -> "Settings":
        """The same in another home, sharing nothing with a deployment: no database or broker elsewhere, and nobody is told."""
        nobody = dict.fromkeys(("database_url", "key_file", "webhook_url", "alertmanager_url", "smtp_host", "grafana_url"))
        here = {"home": home, "kafka_host": _LOOPBACK, "metrics_host": _LOOPBACK, "playbooks": None}
        return self.model_copy(update={**nobody, **here})

    @property
    def bootstrap(self) -> str:
        """The broker's address as clients want it."""
        return f"{self.kafka_host}:{self.kafka_port}"

    @cached_property
    def database(self) -> str:
        """The database's address; holds a password where PostgreSQL is used, so never log it."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.home.resolve() / 'kerbwatch.db'}"


def read_settings() -> Settings:
    """Settings from the environment. Raises BadInput naming each variable that does not hold."""
    try:
        return Settings()
    except ValidationError as error:
        faults = "; ".join(f"KERBWATCH_{'_'.join(map(str, fault['loc'])).upper()}: {fault['msg']}" for fault in error.errors())
        raise BadInput(f"settings do not hold: {faults}") from error
