"""Signed folders: one changed byte, one file more or less, a key that is not ours - each is refused and named."""

import base64
import json
import shutil
from pathlib import Path

import pytest
from a_model import a_registry, a_verdict, add, weights
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.provenance import signing
from inference.provenance.registry import Registry
from inference.provenance.verdicts import put_verdict, verdicts
from infra.keys import model_key, model_keys
from infra.settings import Settings
from streams.errors import BadInput, Tampered, Unavailable
from streams.events import Mode


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return a_registry(tmp_path)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Registry, str]:
    """A registry with one model and a verdict on it."""
    home = tmp_path_factory.mktemp("judged")
    made = a_registry(home)
    digest = add(made, home, 1)
    put_verdict(made, a_verdict(digest))
    return made, digest


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_one_changed_byte_in_any_file_is_refused_and_the_file_is_named(judged: tuple[Registry, str], data: st.DataObject) -> None:
    registry, digest = judged
    path = data.draw(st.sampled_from(sorted(path for path in registry.root.rglob("*") if path.is_file())), "file")
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1), "byte")
    changed = bytearray(whole)
    changed[place] ^= data.draw(st.integers(1, 255), "by")
    path.chmod(0o644)
    path.write_bytes(changed)
    try:
        with pytest.raises(Tampered) as refused:
            (registry.verify(digest), verdicts(registry, digest))
        assert path.name in str(refused.value)
    finally:
        path.write_bytes(whole)
    registry.verify(digest)


def test_a_file_more_and_a_file_less_are_named(registry: Registry, tmp_path: Path) -> None:
    digest = add(registry, tmp_path, 1)
    (registry.root / digest / ".gitignore").write_text("hidden from tools that leave such files out")
    with pytest.raises(Tampered, match=r"\.gitignore was added"):
        registry.read(digest)
    (registry.root / digest / ".gitignore").unlink()
    (registry.root / digest / "lineage.json").unlink()
    with pytest.raises(Tampered, match=r"lineage\.json is missing"):
        registry.read(digest)


def test_an_entry_with_everything_exchanged_but_the_key_is_refused(registry: Registry, tmp_path: Path) -> None:
    digest = add(registry, tmp_path, 1)
    forger = a_registry(tmp_path / "elsewhere")
    add(forger, tmp_path, 1)
    shutil.rmtree(registry.root / digest)
    shutil.copytree(forger.root / digest, registry.root / digest)
    with pytest.raises(Tampered, match="not trusted"):
        registry.read(digest)


def test_a_model_that_nobody_signed_is_not_handed_out(registry: Registry, tmp_path: Path) -> None:
    digest = add(registry, tmp_path, 1)
    (registry.root / digest / signing.SIGNATURE).unlink()
    with pytest.raises(Unavailable, match="not signed"):
        registry.read(digest)


def test_after_rotation_old_signatures_hold_until_the_old_key_is_taken_away(registry: Registry, tmp_path: Path) -> None:
    here = Settings(home=tmp_path)
    old = model_key(here)
    digest = add(registry, tmp_path, 1)
    new = model_key(here, rotate=True)
    assert new != old
    assert registry.signed_by(digest) == old
    assert registry.signed_by(add(registry, tmp_path, 2)) == new
    (model_keys(here) / f"{old}.pub").unlink()
    with pytest.raises(Tampered, match="not trusted"):
        registry.read(digest)
    assert model_key(here) == new
    assert add(registry, tmp_path, 1) == digest  # the same files, staged again, are signed by the new key
    assert registry.signed_by(digest) == new


def test_staging_again_never_signs_what_was_changed(registry: Registry, tmp_path: Path) -> None:
    digest = add(registry, tmp_path, 1)
    card = registry.root / digest / "card.json"
    card.chmod(0o644)
    card.write_bytes(card.read_bytes().replace(b"0.4", b"0.9"))
    with pytest.raises(BadInput, match="written once"):
        add(registry, tmp_path, 1)
    with pytest.raises(Tampered, match=r"card\.json was changed"):
        registry.card(digest)


def test_a_signature_of_another_model_does_not_fit(registry: Registry, tmp_path: Path) -> None:
    one, other = add(registry, tmp_path, 1), add(registry, tmp_path, 2)
    path = registry.root / one / signing.SIGNATURE
    path.unlink()
    shutil.copy(registry.root / other / signing.SIGNATURE, path)
    with pytest.raises(Tampered, match=r"weights\.safetensors was changed"):
        registry.read(one)


def test_an_entry_under_another_name_is_refused(registry: Registry, tmp_path: Path) -> None:
    digest = add(registry, tmp_path, 1)
    wrong = "0" * 64
    (registry.root / digest).rename(registry.root / wrong)
    for use in (registry.read, registry.card, registry.lineage):
        with pytest.raises(Tampered):
            use(wrong)


def test_the_signature_is_a_bundle_of_the_open_format_over_every_file(registry: Registry, tmp_path: Path) -> None:
    digest = add(registry, tmp_path, 1)
    bundle = json.loads((registry.root / digest / signing.SIGNATURE).read_text())
    assert bundle["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    assert statement["predicateType"] == "https://model_signing/signature/v1.0"
    assert statement["subject"][0]["name"] == digest
    signed = {resource["name"]: resource["digest"] for resource in statement["predicate"]["resources"]}
    assert set(signed) == {"weights.safetensors", "card.json", "lineage.json"}
    assert signed["weights.safetensors"] == digest


def test_without_a_key_nothing_is_staged(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry", tmp_path / "keys")
    with pytest.raises(Unavailable, match="keys init"):
        add(registry, tmp_path, 1, Mode.SAFE)
    assert registry.digests() == ()
    assert not list(registry.root.glob(".*"))
    assert weights(1) != weights(2)
