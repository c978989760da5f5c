"""Only verdicts by the policy's own rules open promotion; weaker ones do in a home that a demonstration signed for alone."""

import shutil
from pathlib import Path

import pytest
from a_model import a_registry, a_verdict, add
from msgspec.structs import replace

from inference.lifecycle.rules import DEMONSTRATION, FULL, NAMED, QUICK, GateRules, name_of, weaker
from inference.provenance.registry import Registry
from inference.provenance.verdicts import put_verdict
from infra.settings import Secret, Settings
from streams.errors import BadInput, Tampered
from streams.events import Context
from streams.policy import DEMO_MARK, accepted, demonstrate, require_passed


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


@pytest.fixture
def registry(settings: Settings) -> Registry:
    return a_registry(settings.home)


@pytest.fixture
def digest(registry: Registry, tmp_path: Path) -> str:
    return add(registry, tmp_path, 1)


def a_demo(settings: Settings) -> None:
    (settings.home / DEMO_MARK).touch()
    demonstrate(settings)


def test_every_rule_that_asks_less_is_named_and_none_that_asks_more() -> None:
    assert weaker(FULL, FULL) == ()
    stricter = GateRules(
        fgsm_eps=(0.01, 0.02, 0.03, 0.04), deepfool_xi=(0.02, 0.03), kept=0.9, clean_margin=0.01, safe_margin=0.1, fairness=0.2,
        group_people=5, latency=1.1, places=9, real=60, deepfool_every=1, deepfool_radius=0.6, deepfool_steps=20,
    )  # fmt: skip
    assert weaker(stricter, FULL) == ()
    assert {one.split()[0] for one in weaker(FULL, stricter)} == set(GateRules.__struct_fields__) - {"combined"}
    assert weaker(replace(FULL, combined=False), FULL) == ("combined no (not yes)",)


def test_only_the_policys_rules_open_promotion(registry: Registry, digest: str, settings: Settings) -> None:
    put_verdict(registry, a_verdict(digest, rules=QUICK))
    with pytest.raises(BadInput, match=r"by quick rules, weaker in combined no \(not yes\), places 2 \(not 5\)"):
        require_passed(registry, digest, Context.URBAN, settings)
    put_verdict(registry, a_verdict(digest, minutes=1, rules=DEMONSTRATION))
    with pytest.raises(
        BadInput, match=r"by demonstration rules, weaker in .*kept 0.2 \(not 0.8\), .*clean_margin 0.3 \(not 0.05\)"
    ):
        require_passed(registry, digest, Context.URBAN, settings)
    put_verdict(registry, a_verdict(digest, minutes=2, rules=GateRules(kept=0.79)))
    with pytest.raises(BadInput, match="rules that this version does not know"):
        require_passed(registry, digest, Context.URBAN, settings)
    put_verdict(registry, a_verdict(digest, rules=FULL))
    assert require_passed(registry, digest, Context.URBAN, settings).settings_digest == FULL.digest


def test_a_demonstrations_home_takes_its_own_weaker_rules(registry: Registry, digest: str, settings: Settings) -> None:
    a_demo(settings)
    assert accepted(settings) == (FULL, DEMONSTRATION)
    put_verdict(registry, a_verdict(digest, rules=QUICK))
    with pytest.raises(BadInput, match="quick rules"):
        require_passed(registry, digest, Context.URBAN, settings)
    put_verdict(registry, a_verdict(digest, minutes=1, rules=DEMONSTRATION))
    assert name_of(require_passed(registry, digest, Context.URBAN, settings).settings_digest) == "demonstration"
    (settings.home / DEMO_MARK).unlink()  # what `kerbwatch setup` and `up` do
    with pytest.raises(BadInput, match="demonstration rules, weaker in"):
        require_passed(registry, digest, Context.URBAN, settings)


def test_no_home_becomes_a_demonstration_by_accident(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    demo, real = Settings(home=tmp_path / "demo"), Settings(home=tmp_path / "real")
    for one in (demo, real):
        a_registry(one.home)
    a_demo(demo)
    (real.home / DEMO_MARK).touch()
    monkeypatch.setenv("KERBWATCH_DEMO", "1")
    assert accepted(real) == (FULL,)
    shutil.copytree(demo.home / "demonstration", real.home / "demonstration")
    with pytest.raises(Tampered, match="not trusted"):
        accepted(real)
    assert accepted(replace(demo, database_url=Secret("postgresql://elsewhere/kerbwatch"))) == (FULL,)


def test_a_demonstrations_file_that_was_changed_is_refused(registry: Registry, settings: Settings) -> None:
    assert registry.keys is not None
    a_demo(settings)
    path = settings.home / "demonstration" / "rules.json"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b'"kept":0.2', b'"kept":0.0'))
    with pytest.raises(Tampered, match=r"rules\.json was changed"):
        accepted(settings)
    demonstrate(settings)
    assert accepted(settings) == (FULL, DEMONSTRATION)


@pytest.mark.parametrize("rules", [FULL, DEMONSTRATION], ids=["policy", "demonstration"])
def test_a_model_that_failed_once_is_not_saved_by_passing_on_other_pictures(
    registry: Registry, digest: str, settings: Settings, rules: GateRules
) -> None:
    a_demo(settings)
    put_verdict(registry, a_verdict(digest, passed=False, rules=rules))
    put_verdict(registry, a_verdict(digest, minutes=1, rules=rules))
    with pytest.raises(BadInput, match=r"refused model .* fgsm 0.03 0.5 .*nobody can promote it"):
        require_passed(registry, digest, Context.URBAN, settings)


def test_rules_are_told_by_name() -> None:
    assert [name_of(rules.digest) for rules in NAMED.values()] == list(NAMED)
    assert name_of("0" * 64) == "unknown"
