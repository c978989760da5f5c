"""How every process of ours speaks of itself: JSON lines for services, readable text for a terminal, never a secret.

It decides form, level and what is hidden; it refuses to print a value whose name says that it is secret, or a password inside an
address. Log lines of libraries (Kafka clients, Faust, SQLAlchemy) take the same way. No topic feeds it.
"""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from infra.settings import Secret

_SECRET_NAME = re.compile(r"passw|secret|token|private|credential|authorization", re.IGNORECASE)
_PASSWORD_IN_ADDRESS = re.compile(r"(://[^:/@\s]*:)[^@\s]*@")
_CHATTY = ("kafka", "aiokafka", "faust", "mode", "alembic", "urllib3", "asyncio")
_HIDDEN = "***"
_TRACEBACKS = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))
"""Without local variables: they hold pictures and keys."""


def set_up_logs(service: str, *, as_json: bool | None = None) -> None:
    """Sends all logging of this process to stderr, each line naming `service`.

    `as_json` is for services under a supervisor; None chooses text where stderr is a terminal. Call it once, at the rim.
    """
    if as_json is None:
        as_json = not sys.stderr.isatty()
    before: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _Service(service),
        hide_secrets,
    ]
    last: list[structlog.typing.Processor] = (
        [_TRACEBACKS, hide_secrets, structlog.processors.JSONRenderer()]
        if as_json
        else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    )
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *before, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


class _Service:
    """Names the process on every line."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, _logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["service"] = self._name
        return event


def hide_secrets(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: blanks what must not be read, at any depth."""
    for name in event:
        event[name] = _HIDDEN if _SECRET_NAME.search(name) else _hidden(event[name])
    return event


def _hidden(value: object) -> object:
    if isinstance(value, Secret | bytes):
        return _HIDDEN
    if isinstance(value, str):
        return _PASSWORD_IN_ADDRESS.sub(rf"\1{_HIDDEN}@", value)
    if isinstance(value, dict):
        return {name: _HIDDEN if _SECRET_NAME.search(str(name)) else _hidden(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_hidden(inner) for inner in value]
    return value
