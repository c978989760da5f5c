"""Keeps models by the SHA-256 of their weights: written once, verified before every use, each with a card that says what it is.

It decides nothing about who serves what (`model-state` says that) and never changes or replaces an entry; a model that differs by
one bit is another model. What cannot be verified is not handed out. The shipped models (inference/weights) are put into a registry
like any other. Feeds nothing itself: the worker reads it when the topic `model-state` names a digest.

    root/<digest>/weights.safetensors
    root/<digest>/card.json

Source: paper 4.5.3 and SC-6 (model integrity), model cards (Mitchell et al. 2019).
"""

import hashlib
import shutil
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec

from streams.errors import BadInput, Tampered, Unavailable
from streams.events import Context, Digest, Mode, Share

if TYPE_CHECKING:
    from inference.networks.csp_nano import CspNano

_WEIGHTS, _CARD = "weights.safetensors", "card.json"
_NAME_LENGTH = 64


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One measured line: on which data, under which attack ("none", "fgsm 0.03", ...), at the card's threshold where that matters.

    Shares 0..1; `false_per_picture` counts boxes that are nobody.
    """

    data: str
    attack: str
    pictures: int
    people: int
    recall: Share | None
    precision: Share | None
    average_precision: Share | None
    miss_rate: Share | None
    false_per_picture: Annotated[float, msgspec.Meta(ge=0.0)]


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is, what it was made from and how good it is. `parent` is the digest of the model it was trained from."""

    name: str
    digest: Digest
    mode: Mode
    contexts: tuple[Context, ...]
    architecture: str
    parent: Digest | None
    threshold: Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)]
    """Cells of the centre map that say more than this are people, in serving."""
    data: str
    settings: msgspec.Raw
    """The run's settings as JSON (`inference.training.train.TrainSettings`)."""
    commands: tuple[str, ...]
    """What was run to make and to measure it."""
    figures: tuple[Figure, ...]
    notes: str
    licence: str


def digest_of(data: bytes) -> str:
    """The name of a model with these weights: SHA-256, lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def read_card(path: Path) -> Card:
    """A card file. Raises BadInput naming the file and the field that does not hold."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Card)
    except msgspec.DecodeError as error:
        raise BadInput(f"{path} is no model card: {error}") from error


def write_card(card: Card) -> bytes:
    """A card as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n"


class Registry:
    """Models in a folder, which is made on first use. Safe to share between processes: entries appear whole or not at all."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, weights_file: Path, card: Card) -> str:
        """Add a model and return its digest; adding it again changes nothing.

        Raises:
            Tampered: if the file is not the one that the card names, or an entry of that name is damaged.
            BadInput: if the file holds no CSP-nano weights, or the model is there with another card.
        """
        data = weights_file.read_bytes()
        digest = digest_of(data)
        if digest != card.digest:
            raise Tampered(
                f"{weights_file} has digest {digest}, its card says {card.digest}: one of the two was changed; fetch both again"
            )
        _opened(data)
        target = self._root / digest
        if not target.exists():
            self._root.mkdir(parents=True, exist_ok=True)
            fresh = Path(tempfile.mkdtemp(prefix=".put-", dir=self._root))
            try:
                for name, content in ((_WEIGHTS, data), (_CARD, write_card(card))):
                    (fresh / name).write_bytes(content)
                    (fresh / name).chmod(0o444)
                fresh.chmod(0o755)
                fresh.rename(target)
            except OSError:
                shutil.rmtree(fresh, ignore_errors=True)
                if not target.exists():  # else somebody else put the same model a moment before
                    raise
        self.weights(digest)
        if write_card(self.card(digest)) != write_card(card):  # as written: `settings` keeps its spacing
            raise BadInput(
                f"model {digest[:12]} is already in {self._root} with another card, and entries are written once; keep the old card"
            )
        return digest

    def read(self, digest: str) -> bytes:
        """The verified bytes of a model's weights.

        Raises Unavailable if there is no such model, Tampered if its file is not what its name says, BadInput for no digest.
        """
        if len(digest) != _NAME_LENGTH or set(digest) - set("0123456789abcdef"):
            raise BadInput(f"{digest[:80]!r} is no model digest (64 hexadecimal characters)")
        path = self._root / digest / _WEIGHTS
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise Unavailable(f"no model {digest[:12]} in {self._root}: `kerbwatch setup` puts the shipped models there") from error
        found = digest_of(data)
        if found != digest:
            raise Tampered(
                f"{path} has digest {found[:12]}, not {digest[:12]}: do not serve it; restore the file from a trusted copy"
            )
        return data

    def weights(self, digest: str) -> Path:
        """The path of a model's weights, verified just now. Whoever loads them should rather use `read`. Raises as `read`."""
        self.read(digest)
        return self._root / digest / _WEIGHTS

    def network(self, digest: str) -> "CspNano":
        """The model as a torch network in evaluation mode, from verified bytes. Raises as `read`."""
        return _opened(self.read(digest))

    def card(self, digest: str) -> Card:
        """A model's card. Raises Unavailable if there is none, Tampered if it is another model's."""
        path = self._root / digest / _CARD
        if not path.is_file():
            raise Unavailable(f"no card for model {digest[:12]} in {self._root}: `kerbwatch setup` puts the shipped models there")
        card = read_card(path)
        if card.digest != digest:
            raise Tampered(f"{path} is the card of {card.digest[:12]}: restore it from a trusted copy")
        return card

    def cards(self) -> dict[str, Card]:
        """All cards by digest, in the order of their names and digests."""
        found = [self.card(entry.name) for entry in self._root.glob("[0-9a-f]*") if len(entry.name) == _NAME_LENGTH]
        return {card.digest: card for card in sorted(found, key=lambda card: (card.name, card.digest))}


def shipped(registry: Registry) -> dict[Mode, str]:
    """Put the models that come with kerbwatch into a registry; their digests by mode. Both serve both contexts.

    Raises Tampered if a shipped file is not what its card says.
    """
    folder = Path(str(files("inference").joinpath("weights")))
    digests = {}
    for path in sorted(folder.glob("*.json")):
        card = read_card(path)
        if not (_entry(registry, card.digest)):
            registry.put(path.with_suffix(".safetensors"), card)
        registry.weights(card.digest)
        digests[card.mode] = card.digest
    if set(digests) != set(Mode):
        raise Unavailable(f"{folder} holds models for {sorted(digests)}, both modes are needed: install kerbwatch again")
    return digests


def _entry(registry: Registry, digest: str) -> bool:
    try:
        registry.card(digest)
    except Unavailable:
        return False
    return True


def _opened(data: bytes) -> "CspNano":
    from inference.networks.csp_nano import from_bytes  # noqa: PLC0415 - torch takes seconds; most who use the registry need none of it

    return from_bytes(data)
