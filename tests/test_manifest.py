"""A data set has a name that changes with every bit of it, and what changed is told."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.provenance.manifest import (
    Difference,
    Fault,
    Manifest,
    PoolSource,
    differences,
    labels_digest,
    load_manifest,
    manifest_of,
    picture_digest,
    save_manifest,
)
from inference.training.samples import Sample, shaped
from streams.errors import BadInput, Tampered, Unavailable

SOURCES = (PoolSource(pool="a", source="drawn", licence="Apache-2.0"), PoolSource(pool="b", source="drawn", licence="Apache-2.0"))


def samples() -> list[Sample]:
    rng = np.random.default_rng(3)
    return [
        Sample(pool, str(number), rng.integers(0, 256, (40, 60, 3), np.uint8), (shaped((5.0, 2.0, 12.0, 30.0 + number)),))
        for pool in ("a", "b")
        for number in range(3)
    ]


def made() -> Manifest:
    return manifest_of("some", samples(), SOURCES)


def test_a_manifest_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    save_manifest(made(), tmp_path / "m.json")
    again = load_manifest(tmp_path / "m.json")
    assert again == made()
    assert again.material().manifest_digest == made().digest
    assert differences(again, samples()) == ()


def test_the_order_of_samples_makes_no_difference() -> None:
    assert manifest_of("some", samples()[::-1], SOURCES[::-1]).digest == made().digest


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 5), st.integers(0, 40 * 60 * 3 - 1), st.integers(1, 255))
def test_any_changed_byte_of_a_picture_is_named(which: int, place: int, by: int) -> None:
    changed = samples()
    picture = changed[which].picture.copy()
    picture.reshape(-1)[place] ^= np.uint8(by)
    changed[which] = replace(changed[which], picture=picture)
    assert differences(made(), changed) == (Difference(changed[which].origin, changed[which].name, Fault.PICTURE),)


def test_changed_labels_missing_and_added_samples_are_named() -> None:
    some = samples()
    some[0] = replace(some[0], people=(replace(some[0].people[0], ignore=True),))
    some[1] = replace(some[1], name="new")
    found = {(one.pool, one.name, one.fault) for one in differences(made(), some)}
    assert found == {("a", "0", Fault.LABELS), ("a", "1", Fault.MISSING), ("a", "new", Fault.ADDED)}


def test_pictures_of_the_same_bytes_and_another_shape_are_others() -> None:
    flat = np.zeros((2, 8, 3), np.uint8)
    assert picture_digest(flat) != picture_digest(flat.reshape(4, 4, 3))
    assert labels_digest(()) != labels_digest(samples()[0].people)


def test_attributes_of_people_belong_to_their_labels() -> None:
    plain = samples()[0].people
    said = tuple(replace(one, attributes=("children",)) for one in plain)
    assert labels_digest(said) not in {labels_digest(plain), labels_digest([replace(one, attributes=("adults",)) for one in plain])}


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    save_manifest(made(), path)
    path.write_text(path.read_text().replace('"people": 1', '"people": 2', 1))
    with pytest.raises(Tampered, match="its digest does not hold"):
        load_manifest(path)
    path.write_text('{"digest": "00", "more": 1}')
    with pytest.raises(BadInput, match="no data manifest"):
        load_manifest(path)
    with pytest.raises(Unavailable, match="cannot be read"):
        load_manifest(tmp_path / "none.json")


def test_data_of_unknown_source_and_samples_of_one_name_are_refused() -> None:
    with pytest.raises(BadInput, match="nobody states where pool b"):
        manifest_of("some", samples(), SOURCES[:1])
    with pytest.raises(BadInput, match="a/0 is in it more than once"):
        manifest_of("some", [*samples(), samples()[0]], SOURCES)
