"""Settings are read from variables, each held to its bounds; secrets in them are shown to nobody."""

import re
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from infra.settings import Secret, Settings, read_settings, variables
from streams.errors import BadInput

WORD = "s3cret"


def test_what_no_variable_names_is_as_declared() -> None:
    assert read_settings({"HOME": "elsewhere", "KERBWATCH_UNHEARD_OF": "1"}) == Settings()


def test_each_variable_is_read_as_its_own_type() -> None:
    read = read_settings(
        {
            "KERBWATCH_HOME": "elsewhere",
            "KERBWATCH_KAFKA_PORT": "9092",
            "KERBWATCH_BACKLOG_S": "1.5",
            "KERBWATCH_NEWEST_FIRST": "true",
            "KERBWATCH_GRAFANA_TOKEN": WORD,
            "KERBWATCH_PLAYBOOKS": "own",
            "KERBWATCH_SMTP_HOST": "null",
        }
    )
    assert (read.home, read.kafka_port, read.backlog_s, read.newest_first) == (Path("elsewhere"), 9092, 1.5, True)
    assert (read.grafana_token, read.playbooks, read.smtp_host) == (Secret(WORD), Path("own"), "null")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("KAFKA_PORT", "0"),
        ("KAFKA_PORT", "65536"),
        ("KAFKA_PORT", "many"),
        ("KAFKA_PORT", ""),
        ("WORKER_BATCH", "1.5"),
        ("BACKLOG_S", "0"),
        ("BACKLOG_S", "nan"),
        ("BACKLOG_S", "inf"),
        ("NEWEST_FIRST", "perhaps"),
        ("PRECISION", "float8"),
        ("WORKER_ID", "Worker One"),
        ("RESPONDER_ID", "responder-1\n"),
        ("RESPONDER_ID", "../x"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_its_variable_s_name(name: str, text: str) -> None:
    with pytest.raises(BadInput, match=re.escape(f"KERBWATCH_{name} is {text!r}: ")):
        read_settings({f"KERBWATCH_{name}": text})


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(
        BadInput,
        match=r"KERBWATCH_KAFKA_PORT is 'x': Expected a whole number; KERBWATCH_WORKER_BATCH is '0': Expected a whole number >= 1",
    ):
        read_settings({"KERBWATCH_WORKER_BATCH": "0", "KERBWATCH_KAFKA_PORT": "x"})


def test_settings_are_read_back_from_the_variables_that_say_them() -> None:
    plain = Settings()
    paths = {name: getattr(plain, name).resolve() for name in ("home", "cache", "shared_data")}
    given = replace(plain, **paths, newest_first=True, backlog_s=1e-7, smtp_host="null", webhook_secret=Secret(WORD))
    assert read_settings(variables(given)) == given


def test_a_secret_is_shown_by_nothing_but_its_own_word() -> None:
    settings = read_settings({"KERBWATCH_DATABASE_URL": f"postgresql://kerb:{WORD}@db/kerb", "KERBWATCH_WEBHOOK_SECRET": WORD})
    secret = settings.webhook_secret
    assert secret is not None
    assert WORD not in "".join(
        (repr(settings), str(settings), repr(secret), str(secret), f"{secret}", f"{secret!r}", ascii(secret))
    )
    assert secret.reveal() == WORD
    for encode in (msgspec.json.encode, msgspec.to_builtins):
        with pytest.raises(TypeError, match="Secret"):
            encode(secret)


def test_secrets_are_compared_by_what_they_say() -> None:
    assert Secret(WORD) == Secret(WORD) != Secret("other")
    assert len({Secret(WORD), Secret(WORD), Secret("other")}) == 2
    assert Secret(WORD) != WORD
