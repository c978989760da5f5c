"""Keys: certificates per role, cameras' signatures, sealed bytes, and logs that show none of them."""

import hashlib
import io
import json
import logging
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
import structlog
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from infra import certificates, keys
from infra.log import set_up_logs
from infra.settings import Settings
from streams.errors import BadInput, Refusal, Tampered, Unavailable
from streams.events import Context, Frame, event_id
from streams.topics import Role

NOW = datetime(2026, 11, 21, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


def a_frame(camera_id: str = "gate-1") -> Frame:
    return Frame(
        id=event_id("frame", camera_id, 1, 2),
        source=f"camera/{camera_id}",
        time=NOW,
        subject=camera_id,
        camera_id=camera_id,
        context=Context.URBAN,
        epoch=1,
        sequence=2,
        width_px=640,
        height_px=320,
        content_type="image/jpeg",
        digest=hashlib.sha256(b"picture").hexdigest(),
        signature="",
    )


def test_every_role_gets_one_certificate_once(settings: Settings) -> None:
    made = certificates.make_certificates(settings, NOW)
    assert made == ("ca", *certificates.IDENTITIES)
    assert certificates.make_certificates(settings, NOW) == ()
    common_names = set()
    for identity in certificates.IDENTITIES:
        certificate = x509.load_pem_x509_certificate(certificates.identity_file(settings, identity).read_bytes())
        common_names.add(certificate.subject.rfc4514_string())
        assert certificate.not_valid_after_utc - NOW <= timedelta(days=365)
    assert common_names == {f"CN={identity}" for identity in certificates.IDENTITIES}


def test_certificates_are_renewed_before_they_expire_and_when_the_host_changes(settings: Settings) -> None:
    certificates.make_certificates(settings, NOW)
    assert certificates.make_certificates(settings, NOW + timedelta(days=340)) == certificates.IDENTITIES
    elsewhere = replace(settings, kafka_host="kafka.example")
    assert certificates.make_certificates(elsewhere, NOW + timedelta(days=340)) == ("broker",)


def test_rotation_makes_everything_anew_and_old_certificates_are_not_trusted(settings: Settings) -> None:
    certificates.make_certificates(settings, NOW)
    old = certificates.identity_file(settings, Role.CAMERA).read_bytes()
    assert certificates.make_certificates(settings, NOW, rotate=True) == ("ca", *certificates.IDENTITIES)
    authority = x509.load_pem_x509_certificate(certificates.authority_file(settings).read_bytes())
    with pytest.raises(ValueError, match=r"[Ii]ssuer"):
        x509.load_pem_x509_certificate(old).verify_directly_issued_by(authority)
    certificates.ssl_context(settings, Role.CAMERA)


def test_private_files_are_for_their_owner_only(settings: Settings) -> None:
    certificates.make_certificates(settings, NOW)
    keys.camera_key(settings, "gate-1")
    keys.quarantine_key(settings)
    readable = {path.name for path in settings.home.rglob("*") if path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o077}
    assert {name for name in readable if not name.endswith(".lock")} == {"ca.pem", "gate-1.pub"}


def test_a_missing_certificate_names_the_next_step(settings: Settings) -> None:
    with pytest.raises(Unavailable, match="kerbwatch keys init"):
        certificates.ssl_context(settings, Role.WATCHER)


def test_a_signed_frame_is_accepted_from_the_public_key_alone(settings: Settings) -> None:
    key = keys.camera_key(settings, "gate-1")
    assert keys.camera_key(settings, "gate-1").private_bytes_raw() == key.private_bytes_raw()
    signed = keys.sign_frame(key, a_frame())
    (settings.home / "keys" / "cameras" / "gate-1.key").unlink()
    keys.verify_frame(settings, signed)


@pytest.mark.parametrize(
    "change",
    [{"sequence": 3}, {"epoch": 2}, {"context": Context.HIGHWAY}, {"digest": "0" * 64}, {"signature": "AA=="}, {"signature": "é"}],
)
def test_any_changed_field_breaks_the_signature(settings: Settings, change: dict[str, object]) -> None:
    signed = keys.sign_frame(keys.camera_key(settings, "gate-1"), a_frame())
    with pytest.raises(BadInput, match="not signed by camera gate-1") as refused:
        keys.verify_frame(settings, msgspec.structs.replace(signed, **change))
    assert refused.value.reason is Refusal.BAD_SIGNATURE


def test_another_cameras_key_is_refused_and_so_is_a_camera_nobody_knows(settings: Settings) -> None:
    keys.camera_key(settings, "gate-1")
    other = keys.sign_frame(keys.camera_key(settings, "gate-2"), a_frame("gate-1"))
    with pytest.raises(BadInput) as refused:
        keys.verify_frame(settings, other)
    assert refused.value.reason is Refusal.BAD_SIGNATURE
    with pytest.raises(BadInput) as refused:
        keys.verify_frame(settings, a_frame("gate-3"))
    assert refused.value.reason is Refusal.UNKNOWN_CAMERA


def test_a_rotated_camera_key_counts_at_once(settings: Settings) -> None:
    old = keys.sign_frame(keys.camera_key(settings, "gate-1"), a_frame())
    keys.verify_frame(settings, old)
    keys.verify_frame(settings, keys.sign_frame(keys.camera_key(settings, "gate-1", rotate=True), a_frame()))
    with pytest.raises(BadInput):
        keys.verify_frame(settings, old)


@pytest.mark.parametrize("name", ["../gate", "", "Gate", "a/b", "a" * 65])
def test_a_camera_id_that_is_no_name_never_becomes_a_file(settings: Settings, name: str) -> None:
    with pytest.raises(BadInput, match="camera id"):
        keys.camera_key(settings, name)


@given(data=st.binary(max_size=200), about=st.binary(max_size=40), flip=st.integers(0, 10_000))
def test_sealed_bytes_open_unchanged_and_no_bit_may_change(data: bytes, about: bytes, flip: int) -> None:
    key = bytes(range(32))
    sealed = keys.seal(key, data, about)
    assert keys.open_sealed(key, sealed, about) == data
    assert sealed != keys.seal(key, data, about), "a nonce is used once"
    bent = bytearray(sealed)
    bent[flip // 8 % len(bent)] ^= 1 << flip % 8
    for wrong_key, wrong_bytes, wrong_about in ((key, bytes(bent), about), (key, sealed, about + b"!"), (bytes(32), sealed, about)):
        with pytest.raises(Tampered):
            keys.open_sealed(wrong_key, wrong_bytes, wrong_about)
    with pytest.raises(Tampered):
        keys.open_sealed(key, sealed[:10], about)


def test_logs_are_json_lines_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = io.StringIO()
    monkeypatch.setattr("sys.stderr", lines)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        set_up_logs("infer", as_json=True)
        structlog.get_logger("kerbwatch").info("opened", database="postgresql://kw:hunter2@db/kw", password="hunter2", n=3)  # noqa: S106 - the bait
        logging.getLogger("library").warning("cannot reach %s", "postgresql://kw:hunter2@db/kw")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
    first, second = map(json.loads, lines.getvalue().splitlines())
    assert first["event"] == "opened"
    assert first["n"] == 3
    assert first["service"] == second["service"] == "infer"
    assert second["event"] == "cannot reach postgresql://kw:***@db/kw"
    assert "hunter2" not in lines.getvalue()
