"""What the gate said: kept once, proven at every reading, and in the way of whoever wants to promote a model that failed."""

import shutil
from pathlib import Path

import pytest
from a_model import a_registry, a_verdict, add
from msgspec.structs import replace

from inference.provenance.registry import Registry
from inference.provenance.verdicts import Check, put_verdict, require_passed, verdict, verdicts
from streams.errors import BadInput, Tampered, Unavailable
from streams.events import Context


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return a_registry(tmp_path)


@pytest.fixture
def digest(registry: Registry, tmp_path: Path) -> str:
    return add(registry, tmp_path, 1)


def test_a_verdict_is_kept_and_counts_in_its_own_context_only(registry: Registry, digest: str) -> None:
    put_verdict(registry, a_verdict(digest))
    put_verdict(registry, a_verdict(digest))
    assert verdicts(registry, digest) == (a_verdict(digest),)
    assert require_passed(registry, digest, Context.URBAN) == a_verdict(digest)
    assert verdict(registry, digest, Context.HIGHWAY) is None
    with pytest.raises(BadInput, match="no verdict of the gate for highway"):
        require_passed(registry, digest, Context.HIGHWAY)


def test_nobody_judges_twice_by_the_same_rules_on_the_same_data(registry: Registry, digest: str) -> None:
    put_verdict(registry, a_verdict(digest, passed=False))
    with pytest.raises(BadInput, match="judged for urban before"):
        put_verdict(registry, a_verdict(digest, passed=True))
    with pytest.raises(BadInput, match=r"refused model .* fgsm 0.03 0.5 \(limit 0.8\); nobody can promote it"):
        require_passed(registry, digest, Context.URBAN)


def test_the_newest_verdict_counts_also_when_it_takes_back_an_earlier_one(registry: Registry, digest: str) -> None:
    put_verdict(registry, a_verdict(digest, minutes=2, passed=False))
    put_verdict(registry, a_verdict(digest, minutes=1))
    with pytest.raises(BadInput, match="refused"):
        require_passed(registry, digest, Context.URBAN)


def test_a_verdict_by_other_rules_does_not_count(registry: Registry, digest: str) -> None:
    put_verdict(registry, a_verdict(digest))
    assert require_passed(registry, digest, Context.URBAN, a_verdict(digest).settings_digest)
    with pytest.raises(BadInput, match="no verdict"):
        require_passed(registry, digest, Context.URBAN, "6" * 64)


@pytest.mark.parametrize(
    "checks",
    [
        (),
        (Check(name="recall", value=0.5, limit=0.8, passed=False),),
        (Check(name="recall", value=None, limit=0.8, passed=True),),
    ],
)
def test_a_verdict_that_contradicts_its_checks_is_not_kept(registry: Registry, digest: str, checks: tuple[Check, ...]) -> None:
    with pytest.raises(BadInput, match="is not kept"):
        put_verdict(registry, replace(a_verdict(digest), checks=checks))


def test_a_verdict_on_an_unknown_model_is_not_kept(registry: Registry) -> None:
    with pytest.raises(Unavailable, match="no model"):
        put_verdict(registry, a_verdict("0" * 64))


def test_a_verdict_moved_to_another_model_or_context_is_refused(registry: Registry, digest: str, tmp_path: Path) -> None:
    put_verdict(registry, a_verdict(digest))
    [folder] = (registry.root / "verdicts" / digest).iterdir()
    other = add(registry, tmp_path, 2)
    shutil.copytree(folder, registry.root / "verdicts" / other / folder.name)
    with pytest.raises(Tampered, match="moved here"):
        require_passed(registry, other, Context.URBAN)
    folder.rename(folder.parent / folder.name.replace("urban", "highway"))
    with pytest.raises(Tampered, match="moved here"):
        require_passed(registry, digest, Context.HIGHWAY)


def test_a_forged_verdict_is_refused(registry: Registry, digest: str, tmp_path: Path) -> None:
    forger = a_registry(tmp_path / "elsewhere")
    add(forger, tmp_path, 1)
    put_verdict(forger, a_verdict(digest))
    shutil.copytree(forger.root / "verdicts", registry.root / "verdicts")
    with pytest.raises(Tampered, match="not trusted"):
        require_passed(registry, digest, Context.URBAN)


def test_a_registry_without_keys_keeps_no_verdict(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    digest = add(registry, tmp_path, 1)
    with pytest.raises(Unavailable, match="without keys"):
        put_verdict(registry, a_verdict(digest))
