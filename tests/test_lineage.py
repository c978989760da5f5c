"""Lineage: an in-toto statement about one model, read back as it was written, or refused."""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from a_model import NOON, a_card, a_lineage, a_registry, run_folder
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from inference.provenance.lineage import PREDICATE_TYPE, Approval, read_lineage, this_code, this_machine, write_lineage
from streams.errors import BadInput, Tampered

DIGEST = "a" * 64


def test_a_statement_names_its_subject_and_type_as_in_toto_wants() -> None:
    statement = json.loads(write_lineage(a_lineage(DIGEST)))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == PREDICATE_TYPE
    assert statement["subject"] == [{"name": "weights.safetensors", "digest": {"sha256": DIGEST}}]
    assert statement["predicate"]["materials"][0]["samples"] == 90


numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@given(settings=st.dictionaries(st.text(min_size=1), values, max_size=4), figures=st.dictionaries(st.text(min_size=1), numbers))
def test_what_was_written_is_read_back(settings: dict[str, Any], figures: dict[str, float]) -> None:
    approval = Approval(actor="data-1", role="R4", what="data", comment="reviewed", time=NOON)
    lineage = replace(a_lineage(DIGEST), settings=settings, figures=figures, parent="b" * 64, incident="i", approvals=(approval,))
    try:
        written = write_lineage(lineage)
    except BadInput:  # text that is no Unicode
        assert any("\ud800" <= c <= "\udfff" for c in repr(lineage).encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
        return
    assert read_lineage(written) == lineage


def predicate(field: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda statement: statement["predicate"].update({field: value})


@pytest.mark.parametrize(
    "change",
    [
        lambda statement: statement.update(predicateType="https://slsa.dev/provenance/v1"),
        lambda statement: statement.update(_type="https://in-toto.io/Statement/v0.1"),
        lambda statement: statement.update(subject=[]),
        lambda statement: statement.pop("predicate"),
        predicate("surprise", 1),
        predicate("parent", "../../etc"),
        predicate("started_at", "2026-11-21T12:00:00"),
        predicate("materials", [{"name": "x", "manifest_digest": "1" * 64, "samples": -1}]),
        predicate("figures", {"validation": "good"}),
    ],
)
def test_what_does_not_hold_is_refused(change: Callable[[dict[str, Any]], object]) -> None:
    statement = json.loads(write_lineage(a_lineage(DIGEST)))
    change(statement)
    with pytest.raises(BadInput, match="lineage"):
        read_lineage(json.dumps(statement).encode())


@pytest.mark.parametrize("data", [b"", b"no json", b"[]", b"\x80\x04K\x01.", b"{" * 5000])
def test_what_is_no_statement_is_refused(data: bytes) -> None:
    with pytest.raises(BadInput, match="lineage"):
        read_lineage(data)


def test_a_statement_about_two_files_is_refused() -> None:
    statement = json.loads(write_lineage(a_lineage(DIGEST)))
    statement["subject"] *= 2
    with pytest.raises(Tampered, match="one file"):
        read_lineage(json.dumps(statement).encode())


def test_a_number_that_json_cannot_carry_is_refused() -> None:
    with pytest.raises(BadInput, match="does not survive"):
        write_lineage(replace(a_lineage(DIGEST), settings={"seed": 2**60 + 1}))
    with pytest.raises(BadInput, match="does not hold"):
        write_lineage(replace(a_lineage(DIGEST), figures={"loss": float("nan")}))
    with pytest.raises(BadInput, match="does not hold"):
        write_lineage(replace(a_lineage(DIGEST), started_at=datetime(2026, 1, 1)))  # noqa: DTZ001 - the point


def test_the_lineage_of_another_model_is_not_staged(tmp_path: Path) -> None:
    registry = a_registry(tmp_path)
    digest = run_folder(tmp_path / "run", 1)
    with pytest.raises(Tampered, match="lineage"):
        registry.put(tmp_path / "run" / "weights.safetensors", a_card(digest), write_lineage(a_lineage(DIGEST)))
    assert registry.digests() == ()


def test_code_is_told_apart_by_every_source_file(tmp_path: Path) -> None:
    source = tmp_path / "inference" / "some.py"
    source.parent.mkdir()
    source.write_text("1")
    before = this_code(tmp_path)
    source.write_text("2")
    assert this_code(tmp_path).source_digest != before.source_digest
    assert before.commit == ""
    assert this_code().version


def test_the_machine_names_what_the_numbers_depend_on() -> None:
    machine = this_machine("cpu")
    assert {"torch", "numpy", "onnxruntime"} <= set(machine.packages)
    assert machine.cores >= 1
