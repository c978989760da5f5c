"""A second factor from a person's phone: time-based one-time codes.

It decides whether six digits are right for a secret at a moment, and that each code counts once. It refuses a code of a step that
was used, or older. Secrets are 160 random bits, as the algorithm's hash wants; whoever keeps one seals it. No topic feeds it.

Source: RFC 6238 (TOTP: 30 s steps, one step of drift either way, section 5.2), RFC 4226 (HOTP, 5.3), Google's key URI format, which
all authenticator apps read.
"""

import base64
import hmac
import os
from datetime import datetime
from urllib.parse import quote, urlencode

STEP_S = 30
_DIGITS = 6
_DRIFT_STEPS = 1
_SECRET_BYTES = 20


def new_secret() -> bytes:
    """160 random bits (RFC 4226, section 4, R6)."""
    return os.urandom(_SECRET_BYTES)


def step_of(moment: datetime) -> int:
    """The number of the 30 s step that a moment lies in."""
    return int(moment.timestamp()) // STEP_S


def code_at(secret: bytes, step: int) -> str:
    """The six digits of one step (RFC 4226, section 5.3)."""
    digest = hmac.digest(secret, step.to_bytes(8, "big"), "sha1")
    start = digest[-1] & 0x0F
    number = int.from_bytes(digest[start : start + 4], "big") & 0x7FFFFFFF
    return f"{number % 10**_DIGITS:0{_DIGITS}d}"


def matched(secret: bytes, code: str, now: datetime, after: int) -> int | None:
    """The step whose code this is: the present one, the one before or the one to come, if later than step `after`; else None."""
    given, here = code.replace(" ", "").encode(), step_of(now)
    steps = range(here - _DRIFT_STEPS, here + _DRIFT_STEPS + 1)
    right = [step for step in steps if hmac.compare_digest(code_at(secret, step).encode(), given)]
    return next((step for step in right if step > after), None)


def uri(secret: bytes, name: str) -> str:
    """What an authenticator app scans or is given."""
    asked = {"secret": base64.b32encode(secret).decode(), "issuer": "kerbwatch", "digits": _DIGITS, "period": STEP_S}
    return f"otpauth://totp/kerbwatch:{quote(name)}?{urlencode(asked)}"
