"""The golden set: large enough, reviewed by two people, sealed, signed, and the same as they saw it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest

from inference.lifecycle.golden import Golden, Review, Reviewer, choose, current, describe, open_golden, put_golden
from inference.lifecycle.traits import drifted, reference
from inference.provenance.manifest import PoolSource, manifest_of
from inference.provenance.signing import sign
from inference.training.samples import Sample, shaped
from infra.keys import model_keys
from infra.settings import Settings
from streams.errors import BadInput, Tampered, Unavailable

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
REVIEWS = (
    Review(role=Reviewer.R4, reviewer="data-1", comment="all looked at", time=NOW),
    Review(role=Reviewer.R8, reviewer="security-1", comment="so did I", time=NOW),
)


def training(number: int = 120, light: int = 0, seed: int = 0) -> list[Sample]:
    rng = np.random.default_rng(seed)
    pictures = [np.clip(rng.normal(100 + light, 30, (32, 48, 3)), 0, 255).astype(np.uint8) for _ in range(number)]
    return [
        Sample(f"pool-{at % 2}", f"street {seed}/{at}", picture, (shaped((10.0 + at % 7, 1.0, 8.0, 22.0 + at % 5)),))
        for at, picture in enumerate(pictures)
    ]


def golden_of(samples: list[Sample], all_of_it: list[Sample], parent: Golden | None = None, drift: str = "") -> Golden:
    sources = [PoolSource(pool=f"pool-{at}", source="noise", licence="Apache-2.0") for at in range(2)]
    later = NOW if parent is None else parent.made_at + timedelta(days=1)
    return describe(
        manifest_of("golden", samples, sources), manifest_of("training", all_of_it, sources), samples,
        reviews=REVIEWS, parent=parent, drift=drift, made_at=later,
    )  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


def kept(home: Settings) -> tuple[list[Sample], Path]:
    everything = training()
    chosen = choose(everything, 0.1, 1)
    digest = put_golden(home, golden_of(chosen, everything), chosen)
    return chosen, home.home / "golden" / digest


def test_a_tenth_of_every_pool_is_sealed_and_comes_back_bit_by_bit(home: Settings) -> None:
    chosen, folder = kept(home)
    assert {one.origin for one in chosen} == {"pool-0", "pool-1"}
    assert len(chosen) == 12
    opened = open_golden(home)
    assert opened.golden.reviews == REVIEWS
    for one, again in zip(sorted(chosen, key=lambda one: (one.origin, one.name)), opened.samples, strict=True):
        assert one.name == again.name
        assert one.people == again.people
        assert np.array_equal(one.picture, again.picture)
    raw = b"".join(path.read_bytes() for path in folder.glob("*.sealed"))
    assert b"PNG" not in raw
    put_golden(home, golden_of(chosen, training()), chosen)  # the same again changes nothing


def test_a_touched_sample_is_refused_by_its_name(home: Settings) -> None:
    _, folder = kept(home)
    path = sorted(folder.glob("*.sealed"))[3]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    with pytest.raises(Tampered, match="sealed was changed"):
        open_golden(home)


def test_a_sample_put_in_anothers_place_is_refused_even_when_signed_again(home: Settings) -> None:
    _, folder = kept(home)
    one, two = sorted(folder.glob("*.sealed"))[:2]
    one.chmod(0o644)
    one.write_bytes(two.read_bytes())
    sign(folder, model_keys(home))
    with pytest.raises(Tampered, match="do not open"):
        open_golden(home)


def test_statistics_that_are_not_todays_are_refused_even_when_signed(home: Settings) -> None:
    _, folder = kept(home)
    path = folder / "golden.json"
    golden = msgspec.json.decode(path.read_bytes(), type=Golden)
    other = reference(choose(training(light=60), 0.1, 1))
    path.chmod(0o644)
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(golden, statistics=other)))
    sign(folder, model_keys(home))
    with pytest.raises(Tampered, match="brightness of pool pool-0 is not what was stored"):
        open_golden(home)


def test_a_successor_that_looks_otherwise_needs_a_reason(home: Settings) -> None:
    kept(home)
    everything = training(light=70, seed=5)
    chosen = choose(everything, 0.1, 1)
    before = current(home)
    with pytest.raises(BadInput, match="brightness: median"):
        put_golden(home, golden_of(chosen, everything, before), chosen)
    digest = put_golden(home, golden_of(chosen, everything, before, "new cameras"), chosen)
    now = current(home)
    assert now is not None
    assert now.digest == digest
    assert before is not None
    assert now.parent == before.digest
    assert len(open_golden(home, before.digest).samples) == 12


def test_sets_of_the_same_source_have_not_drifted() -> None:
    assert drifted(reference(training(seed=1)), reference(training(seed=2))) == ()


def test_what_is_too_small_or_not_reviewed_by_two_people_is_no_golden_set(home: Settings) -> None:
    everything = training(40)
    chosen = choose(everything, 0.1, 1)
    with pytest.raises(BadInput, match="a tenth at least"):
        choose(everything, 0.05, 1)
    with pytest.raises(BadInput, match="less than 10%"):
        put_golden(home, golden_of(chosen[:2], everything), chosen[:2])
    golden = golden_of(chosen, everything)
    alone = tuple(msgspec.structs.replace(one, reviewer="data-1") for one in REVIEWS)
    for reviews in (REVIEWS[:1], alone, (REVIEWS[0], REVIEWS[0])):
        with pytest.raises(BadInput, match="two different people"):
            put_golden(home, msgspec.structs.replace(golden, reviews=reviews), chosen)
    swapped = [replace(chosen[0], people=()), *chosen[1:]]
    with pytest.raises(BadInput, match="labels changed"):
        put_golden(home, golden, swapped)
    with pytest.raises(Unavailable, match="kerbwatch data golden"):
        open_golden(home)
