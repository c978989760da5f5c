"""One POST of JSON, for the channels that speak HTTP.

It decides what an answer means (2xx: taken; anything else: not yet) and which addresses may be spoken to without TLS: this machine
and a name without a dot, which only a network of one's own resolves. It refuses to follow redirects, and shows of an
address no more than its host, because the rest may be a secret. No topic feeds it.

Source: RFC 9110 (15.3); paper SC-9 (secure transport).
"""

import ssl
from collections.abc import Mapping
from http.client import HTTPException
from ipaddress import ip_address
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, ProxyHandler, Request, build_opener

from responders.notify.channels import TIMEOUT_S
from streams.errors import BadInput, Unavailable

_ANSWER_BYTES = 4096


class _StayHere(HTTPRedirectHandler):
    """A redirect would carry a signed message to somebody whom the settings do not name."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def checked(url: str, setting: str) -> str:
    """The address, if it may be posted to. Raises BadInput naming the setting, not the address."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        raise BadInput(f"{setting} is no address; give https://HOST/PATH") from None
    if parts.username is not None or parts.password is not None:
        raise BadInput(f"{setting} holds a user or password; addresses end up in logs, so give none there")
    if parts.scheme not in {"http", "https"} or not host:
        raise BadInput(f"{setting} is no address; give https://HOST/PATH")
    if parts.scheme == "http" and not _own_network(host):
        raise BadInput(f"{setting} is not encrypted and leads beyond this machine: give https://{host}")
    return url


def _own_network(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return "." not in host


def post_json(url: str, body: bytes, headers: Mapping[str, str]) -> None:
    """Send; return once it was answered with 2xx. Raises Unavailable otherwise.

    Certificates are checked, against SSL_CERT_FILE where that is given.
    """
    opener = build_opener(ProxyHandler({}), _StayHere(), HTTPSHandler(context=ssl.create_default_context()))
    request = Request(url, body, {"Content-Type": "application/json", "User-Agent": "kerbwatch", **headers}, method="POST")  # noqa: S310 - `checked` saw the scheme
    where = _host(urlsplit(url))
    try:
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            answer.read(_ANSWER_BYTES)
    except HTTPError as error:
        with error:
            raise Unavailable(f"{where} answered {error.code} {error.reason}: look into its log") from None
    except URLError as error:
        raise Unavailable(f"{where} cannot be reached: {error.reason}") from None
    except (OSError, HTTPException) as error:
        raise Unavailable(f"{where} broke off: {type(error).__name__}") from None


def _host(parts: SplitResult) -> str:
    return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
