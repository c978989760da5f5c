"""Dashboards into a running Grafana, over its HTTP API.

It decides nothing about their content: what is sent is what `build.render` gives. It refuses to send its token in the clear to
another machine, to switch off certificate checks, and to report success that Grafana did not confirm.

Source: Grafana HTTP API, "Dashboard API" (POST /api/dashboards/db).
"""

import json
from dataclasses import dataclass
from urllib.parse import urlsplit

from grafana_client.api import GrafanaApi
from grafana_client.client import GrafanaException

from dashboards.build import render
from infra.settings import Settings
from streams.errors import BadInput, Unavailable

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Pushed:
    """A dashboard as Grafana confirmed it: its title, address and version there."""

    title: str
    url: str
    version: int


def push(settings: Settings) -> tuple[Pushed, ...]:
    """Create or replace every dashboard in the Grafana that the settings name.

    Raises:
        BadInput: address or token is missing or unsafe, or Grafana refused the token or a dashboard.
        Unavailable: Grafana cannot be reached or failed.
    """
    address, token = _address(settings), _token(settings)
    parts = urlsplit(address)
    grafana = GrafanaApi.from_url(address if parts.path in ("", "/") else f"{address.rstrip('/')}/", token, timeout=_TIMEOUT_S)
    pushed = []
    for text in render().values():
        board = json.loads(text)
        try:
            answer = grafana.dashboard.update_dashboard(
                {"dashboard": board, "overwrite": True, "message": "kerbwatch dashboards push"}
            )
            pushed.append(Pushed(board["title"], f"{parts.scheme}://{parts.netloc}{answer['url']}", answer["version"]))
        except GrafanaException as error:
            raise _refusal(error, board["title"], address) from error
        except (KeyError, TypeError, ValueError) as error:
            raise Unavailable(f"what answers at {address} is not Grafana's API; check KERBWATCH_GRAFANA_URL") from error
        except OSError as error:  # whatever the HTTP library raises derives from it
            raise Unavailable(f"Grafana at {address} cannot be reached; start it, or check KERBWATCH_GRAFANA_URL") from error
    return tuple(pushed)


def _address(settings: Settings) -> str:
    address = settings.grafana_url
    if not address:
        raise BadInput("no Grafana to push to: set KERBWATCH_GRAFANA_URL, e.g. to http://localhost:3000")
    parts = urlsplit(address)
    try:
        holds = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # the port is no number
        holds = False
    if not holds:
        raise BadInput("KERBWATCH_GRAFANA_URL is no web address: it should look like https://grafana.example.org")
    if parts.username or parts.query:
        raise BadInput(
            "KERBWATCH_GRAFANA_URL holds a user or options: give the bare address, and the token in KERBWATCH_GRAFANA_TOKEN"
        )
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise BadInput(f"the token would travel in the clear to {parts.hostname}: give KERBWATCH_GRAFANA_URL with https")
    return address


def _token(settings: Settings) -> str:
    if settings.grafana_token is None:
        raise BadInput("no token for Grafana: make one under Administration > Service accounts and set KERBWATCH_GRAFANA_TOKEN")
    return settings.grafana_token.reveal()


def _refusal(error: GrafanaException, title: str, address: str) -> BadInput | Unavailable:
    if error.status_code in (401, 403):
        return BadInput(
            f"Grafana at {address} refused the token: it must be valid and may edit dashboards (KERBWATCH_GRAFANA_TOKEN)"
        )
    if 400 <= error.status_code < 500:  # noqa: PLR2004 - HTTP's own classes of answers
        return BadInput(f"Grafana at {address} refused the dashboard {title!r}: {error.message}")
    return Unavailable(f"Grafana at {address} failed ({error.message or 'no answer in time'}); try again, see its log")
