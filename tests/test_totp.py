"""One-time codes are those of the RFC, count once, and bear one step of drift."""

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra import totp

RFC_SECRET = b"12345678901234567890"
RFC_CODES = (  # RFC 6238, appendix B, the rows of SHA-1: seconds since 1970, eight digits, of which ours are the last six
    (59, "94287082"),
    (1111111109, "07081804"),
    (1111111111, "14050471"),
    (1234567890, "89005924"),
    (2000000000, "69279037"),
    (20000000000, "65353130"),
)
HOTP_CODES = ("755224", "287082", "359152", "969429", "338314", "254676", "287922", "162583", "399871", "520489")  # RFC 4226, D
NOW = datetime(2026, 11, 21, 12, 0, 10, tzinfo=UTC)
HERE = totp.step_of(NOW)


@pytest.mark.parametrize(("seconds", "digits"), RFC_CODES)
def test_codes_are_those_of_rfc_6238(seconds: int, digits: str) -> None:
    assert totp.code_at(RFC_SECRET, totp.step_of(datetime.fromtimestamp(seconds, UTC))) == digits[-6:]


@pytest.mark.parametrize("counter", range(10))
def test_codes_are_those_of_rfc_4226(counter: int) -> None:
    assert totp.code_at(RFC_SECRET, counter) == HOTP_CODES[counter]


@pytest.mark.parametrize(("steps", "counts"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)])
def test_one_step_of_drift_is_borne_either_way_and_no_more(steps: int, counts: bool) -> None:
    found = totp.matched(RFC_SECRET, totp.code_at(RFC_SECRET, HERE + steps), NOW, after=0)
    assert found == (HERE + steps if counts else None)


def test_a_code_counts_once_and_none_before_it_counts_afterwards() -> None:
    code = totp.code_at(RFC_SECRET, HERE)
    used = totp.matched(RFC_SECRET, code, NOW, after=0)
    assert used == HERE
    assert totp.matched(RFC_SECRET, code, NOW, after=used) is None
    assert totp.matched(RFC_SECRET, totp.code_at(RFC_SECRET, HERE - 1), NOW, after=used) is None
    assert totp.matched(RFC_SECRET, totp.code_at(RFC_SECRET, HERE + 1), NOW + timedelta(seconds=30), after=used) == HERE + 1


@given(st.text(max_size=12))
def test_what_is_no_code_is_never_right(text: str) -> None:
    right = {totp.code_at(RFC_SECRET, HERE + step) for step in (-1, 0, 1)}
    assert (totp.matched(RFC_SECRET, text, NOW, after=0) is not None) == (text.replace(" ", "") in right)


def test_the_uri_is_what_authenticator_apps_read() -> None:
    parts = urlparse(totp.uri(RFC_SECRET, "data-scientist"))
    assert (parts.scheme, parts.netloc, parts.path) == ("otpauth", "totp", "/kerbwatch:data-scientist")
    asked = parse_qs(parts.query)
    assert asked == {"secret": ["GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"], "issuer": ["kerbwatch"], "digits": ["6"], "period": ["30"]}
    assert len({totp.new_secret() for _ in range(8)}) == 8
