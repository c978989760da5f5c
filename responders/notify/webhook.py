"""Notices to a web service of one's own: signed JSON by POST.

It decides how a message is signed, so that the receiver knows who sent it, that nobody changed it, and when.
It refuses to send unsigned. Fed by `deliveries.py`.

Source: Standard Webhooks (webhook-id, webhook-timestamp, webhook-signature; HMAC-SHA256 over "id.timestamp.body"), RFC 2104.
"""

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from infra.settings import Settings
from responders.notify import http
from responders.notify.channels import ChannelName
from responders.notify.notices import Notice, as_json, bundle_id
from streams.errors import BadInput

_PREFIX = "whsec_"
_SECRET_BYTES = range(24, 65)


@dataclass(frozen=True)
class Webhook:
    """A receiver; it should answer within 10 s and look after repeats by `webhook-id`, or by each notice's `key`."""

    url: str = field(repr=False)
    secret: bytes = field(repr=False)
    clock: Callable[[], float] = time.time
    name: ChannelName = ChannelName.WEBHOOK

    def send(self, notices: Sequence[Notice]) -> None:
        """As `Channel.send`."""
        body, id_, stamp = as_json(notices), bundle_id(notices), int(self.clock())
        headers = {
            "webhook-id": id_,
            "webhook-timestamp": str(stamp),
            "webhook-signature": signature(self.secret, id_, stamp, body),
        }
        http.post_json(self.url, body, headers)


def signature(secret: bytes, message_id: str, stamp_s: int, body: bytes) -> str:
    """The value of `webhook-signature`; `stamp_s` counts seconds since 1970."""
    signed = f"{message_id}.{stamp_s}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()


def webhook_of(settings: Settings) -> Webhook | None:
    """The webhook of the settings, None without an address. Raises BadInput if the address or the secret does not hold."""
    if settings.webhook_url is None:
        return None
    url = http.checked(settings.webhook_url.reveal(), "KERBWATCH_WEBHOOK_URL")
    given = "" if settings.webhook_secret is None else settings.webhook_secret.reveal()
    try:
        secret = base64.b64decode(given.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if not given.startswith(_PREFIX) or len(secret) not in _SECRET_BYTES:
        raise BadInput(
            "KERBWATCH_WEBHOOK_SECRET does not hold: whsec_ and 24 to 64 random bytes in base64; "
            'make one with `echo "whsec_$(openssl rand -base64 32)"`'
        )
    return Webhook(url, secret)
