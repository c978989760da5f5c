"""In-toto statements about one model's weights: written so that they can be read back, read so that nothing slips through.

It decides the shape (Statement v1, one subject: weights.safetensors by its SHA-256) and refuses another type, another subject, and
what JSON cannot carry. What a statement says is for `lineage.py` and `approvals.py`. No topic feeds it.

Source: in-toto Attestation Framework v1, https://in-toto.io/Statement/v1.
"""

import json
from typing import Any, TypeVar

import msgspec
from google.protobuf import json_format
from google.protobuf.message import Error as ProtobufError
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.v1.statement import Statement

from streams.errors import BadInput, Tampered

_SUBJECT = "weights.safetensors"
T = TypeVar("T", bound=msgspec.Struct)


def write_statement(said: msgspec.Struct, predicate_type: str) -> bytes:
    """The statement as JSON; the struct's field `digest` becomes its subject. Raises BadInput if a field does not hold."""
    body: dict[str, Any] = msgspec.to_builtins(said)
    digest = str(body.pop("digest"))
    try:
        subject = ResourceDescriptor(name=_SUBJECT, digest={"sha256": digest}).pb
        statement = Statement([subject], predicate_type, body)
        statement.validate()
        data: bytes = json_format.MessageToJson(statement.pb, sort_keys=True).encode() + b"\n"
    except (json_format.Error, ValueError, TypeError) as error:
        raise BadInput(f"statement {predicate_type} about {digest[:12]} does not hold: {error}") from error
    if msgspec.to_builtins(read_statement(data, predicate_type, type(said))) != msgspec.to_builtins(said):
        raise BadInput(
            f"statement {predicate_type} about {digest[:12]} does not survive JSON: a number is too large, or a key is no text"
        )
    return data


def read_statement(data: bytes, predicate_type: str, kind: type[T]) -> T:
    """What a statement says, every field checked, its subject as `digest`.

    Raises BadInput if it is no in-toto statement of that type, Tampered if it is about more than one file or about another.
    """
    try:
        statement = Statement([], "", {})
        json_format.Parse(data, statement.pb)
        statement.validate()
        body = json.loads(data)["predicate"]
    except (json_format.Error, ProtobufError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"no in-toto statement of type {predicate_type}: {error}") from error
    if statement.pb.predicate_type != predicate_type:
        raise BadInput(f"an in-toto statement of type {statement.pb.predicate_type!r}, not {predicate_type}")
    subjects = statement.pb.subject
    if len(subjects) != 1 or subjects[0].name != _SUBJECT or set(subjects[0].digest) != {"sha256"}:
        raise Tampered(f"a statement must be about one file, {_SUBJECT}, by its SHA-256: take it from a trusted copy")
    try:
        # Numbers come back from protobuf's JSON as floats ("32.0" for 32), so a whole one may stand for a count.
        return msgspec.convert(body | {"digest": subjects[0].digest["sha256"]}, kind, strict=False)
    except (msgspec.ValidationError, TypeError) as error:
        raise BadInput(f"statement {predicate_type} does not hold: {error}") from error
