"""Keeps models by the SHA-256 of their weights: written once, signed, verified before every use, each with card and lineage.

It decides nothing about who serves what (`model-state` says that) and never changes or replaces an entry; a model that differs by
one bit is another model. What cannot be verified is not handed out, and what is no safetensors file (a pickle, say) never comes in.
The shipped models (inference/weights) are put into a registry like any other, and signed there by the deployment's own key. Feeds
nothing itself: the worker reads it when the topic `model-state` names a digest.

    root/<digest>/weights.safetensors
    root/<digest>/card.json
    root/<digest>/lineage.json          where it was recorded (`lineage.py`)
    root/<digest>/model.sig             over the three (`signing.py`)
    root/verdicts/<digest>/...          what the gate said (`verdicts.py`)

Source: paper 4.5.3 and SC-6 (model integrity), model cards (Mitchell et al. 2019).
"""

import hashlib
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from safetensors import SafetensorError, deserialize

from inference.provenance import signing
from inference.provenance.lineage import Lineage, read_lineage
from infra.keys import model_keys
from infra.settings import Settings
from streams.errors import BadInput, Tampered, Unavailable
from streams.events import Context, Digest, Mode, Share

if TYPE_CHECKING:
    from inference.networks.csp_nano import CspNano

_WEIGHTS, _CARD, _LINEAGE = "weights.safetensors", "card.json", "lineage.json"
_LARGEST = {_WEIGHTS: 1 << 30, _CARD: 1 << 20, _LINEAGE: 1 << 24}
"""Bytes; more is refused before it is read."""
_NAME_LENGTH = 64
INT8 = "int8"
"""How a card's architecture begins where the weights are a quantised ONNX graph: a safetensors file with one tensor of bytes."""


SHIPPED = Path(str(files("inference").joinpath("weights")))
"""The models that come with kerbwatch."""

_SHIPPED_BEFORE = frozenset({
    "dc530399dbf56b564153d52d839b434d18542385d8c9c67aea4331afbbc980bd",  # csp-nano 954b54c0: card, then lineage
    "18ced1544ca8437e07e4fca09e72f2a75c92dd88a2b2596e9f32621c7e36f951",
    "c5890b45a6938dae74625b9a71861bb4194761ad0969766ba6b275957eb841bb",  # csp-nano-safe 3744e5ed
    "efc3f5d3fd10ed72a0210aa2179839935100c2e6bb0208f711b24767291653de",
})  # fmt: skip
"""SHA-256 of cards and lineages that earlier versions shipped with these same weights: a home that holds them keeps them."""


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
        return msgspec.json.decode(_read(path, _CARD), type=Card)
    except msgspec.DecodeError as error:
        raise BadInput(f"{path} is no model card: {error}") from error


def write_card(card: Card) -> bytes:
    """A card as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n"


class Registry:
    """Models in a folder, which is made on first use. Safe to share between processes: entries appear whole or not at all.

    `keys` is the folder of the signing key and the trusted public keys; every entry is signed when it is put and its signature is
    verified at every read. None is for a scratch registry of one measurement: entries are verified by their digests alone.
    """

    def __init__(self, root: Path, keys: Path | None = None) -> None:
        self.root = root
        self._keys = keys

    @property
    def keys(self) -> Path:
        """Folder of the keys. Raises Unavailable where this registry has none."""
        if self._keys is None:
            raise Unavailable(f"registry {self.root} was opened without keys, so nothing in it can be signed or proven")
        return self._keys

    def put(self, weights_file: Path, card: Card, lineage: bytes | None = None) -> str:
        """Add a model, sign it, and return its digest; adding the same again changes nothing but a signature that does not hold.

        Raises:
            Tampered: if the file is not the one that the card or the lineage names, or an entry of that name is damaged.
            BadInput: if the file holds no safetensors weights, or the model is there with another card or lineage.
            Unavailable: if there is no signing key.
        """
        data = _read(weights_file, _WEIGHTS)
        digest = digest_of(data)
        if digest != card.digest:
            raise Tampered(
                f"{weights_file} has digest {digest}, its card says {card.digest}: one of the two was changed; fetch both again"
            )
        if lineage is not None and (about := read_lineage(lineage)).digest != digest:
            raise Tampered(f"the lineage beside {weights_file} is of {about.digest[:12]}, not {digest[:12]}: fetch both again")
        _checked(data, card, weights_file)
        contents = {_WEIGHTS: data, _CARD: write_card(card)} | ({} if lineage is None else {_LINEAGE: lineage})
        target = self.root / digest
        if not signing.write_signed(target, contents, self._keys):
            self._compare(target, contents)
        self.read(digest)
        return digest

    def _compare(self, target: Path, contents: dict[str, bytes]) -> None:
        """An entry that is there must be the same; then a signature that is missing or by a retired key is made anew.

        A shipped model's card and lineage may be those of an earlier version.
        """
        known = {path.name for path in target.iterdir()} - {signing.SIGNATURE}
        for name, content in contents.items():
            if name in known and ((old := (target / name).read_bytes()) == content or digest_of(old) in _SHIPPED_BEFORE):
                continue
            if name == _WEIGHTS:
                raise Tampered(f"{target / name} is damaged: do not serve it; restore the file from a trusted copy")
            raise BadInput(
                f"model {target.name[:12]} is already in {self.root} with another {name}, and entries are written once; keep it"
            )
        if known - set(contents):
            raise BadInput(
                f"model {target.name[:12]} is already in {self.root} with more files ({', '.join(sorted(known - set(contents)))}), "
                "and entries are written once; keep the old"
            )
        if self._keys is not None:
            try:
                signing.verify(target, self._keys)
            except (Tampered, Unavailable):
                signing.sign(target, self._keys)

    def verify(self, digest: str) -> None:
        """Returns if an entry is what its name, its card, its lineage and its signature say.

        Raises Unavailable if there is no such model or it is not signed, Tampered naming the file that is wrong, BadInput for no
        digest.
        """
        self._folder(digest)
        self.card(digest)
        self.lineage(digest)
        self.read(digest)

    def read(self, digest: str) -> bytes:
        """The verified bytes of a model's weights. Raises as `verify`."""
        path = self._folder(digest) / _WEIGHTS
        data = _read(path, _WEIGHTS)
        found = digest_of(data)
        if found != digest:
            raise Tampered(
                f"{path} has digest {found[:12]}, not {digest[:12]}: do not serve it; restore the file from a trusted copy"
            )
        return data

    def weights(self, digest: str) -> Path:
        """The path of a model's weights, verified just now. Whoever loads them should rather use `read`. Raises as `verify`."""
        self.read(digest)
        return self.root / digest / _WEIGHTS

    def network(self, digest: str) -> "CspNano":
        """The model as a torch network in evaluation mode, from verified bytes.

        Raises as `verify`, and BadInput for a quantised model: it has no gradient, its parent has.
        """
        card = self.card(digest)
        if card.architecture.startswith(INT8):
            raise BadInput(
                f"model {digest[:12]} is quantised and has no gradient: use its parent, {(card.parent or 'not named')[:12]}"
            )
        return _opened(self.read(digest))

    def card(self, digest: str) -> Card:
        """A model's card. Raises as `verify`."""
        path = self._folder(digest) / _CARD
        card = read_card(path)
        if card.digest != digest:
            raise Tampered(f"{path} is the card of {card.digest[:12]}: restore it from a trusted copy")
        return card

    def signed_by(self, digest: str) -> str:
        """The id of the trusted key that signed an entry. Raises as `verify`, Unavailable without keys."""
        return signing.verify(self._folder(digest), self.keys)

    def lineage(self, digest: str) -> Lineage | None:
        """Where a model came from; None where nobody recorded it. Raises as `verify`."""
        path = self._folder(digest) / _LINEAGE
        if not path.exists():
            return None
        lineage = read_lineage(_read(path, _LINEAGE))
        if lineage.digest != digest:
            raise Tampered(f"{path} is the lineage of {lineage.digest[:12]}: restore it from a trusted copy")
        return lineage

    def _folder(self, digest: str) -> Path:
        """An entry, proven by its signature where this registry has keys."""
        if len(digest) != _NAME_LENGTH or set(digest) - set("0123456789abcdef"):
            raise BadInput(f"{digest[:80]!r} is no model digest (64 hexadecimal characters)")
        folder = self.root / digest
        if not folder.is_dir():
            raise Unavailable(f"no model {digest[:12]} in {self.root}: `kerbwatch setup` puts the shipped models there")
        if self._keys is not None:
            signing.verify(folder, self._keys)
        return folder

    def digests(self) -> tuple[str, ...]:
        """The names of all entries, whether they hold or not, in order."""
        return tuple(sorted(entry.name for entry in self.root.glob("[0-9a-f]*") if len(entry.name) == _NAME_LENGTH))

    def cards(self) -> dict[str, Card]:
        """All cards by digest, in the order of their names and digests."""
        found = [self.card(digest) for digest in self.digests()]
        return {card.digest: card for card in sorted(found, key=lambda card: (card.name, card.digest))}


def registry_of(settings: Settings) -> Registry:
    """The registry of a home, with its keys."""
    return Registry(settings.home / "registry", model_keys(settings))


def shipped(registry: Registry) -> dict[Mode, str]:
    """Put the models that come with kerbwatch into a registry; their digests by mode. Both serve both contexts.

    One that is there and verifies stays as it is. Raises Tampered if a shipped file is not what its card says, or an entry is
    damaged.
    """
    folder = SHIPPED
    digests = {}
    for path in sorted(folder.glob("*.json")):
        if path.name.endswith(f".{_LINEAGE}"):
            continue
        card, lineage = read_card(path), path.with_suffix(f".{_LINEAGE}")
        try:
            registry.verify(card.digest)
        except (Tampered, Unavailable):  # not there, not signed yet, or damaged: only the last is refused
            registry.put(path.with_suffix(".safetensors"), card, _read(lineage, _LINEAGE) if lineage.is_file() else None)
        digests[card.mode] = card.digest
    if set(digests) != set(Mode):
        raise Unavailable(f"{folder} holds models for {sorted(digests)}, both modes are needed: install kerbwatch again")
    return digests


def _read(path: Path, kind: str) -> bytes:
    """A file of an entry, unless it is larger than any such file may be."""
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST[kind] + 1)
    except FileNotFoundError as error:
        raise Unavailable(f"{path} is missing: restore it from a trusted copy") from error
    if len(data) > _LARGEST[kind]:
        raise BadInput(f"{path} has more than {_LARGEST[kind]} bytes: no {kind} is so large; nothing of it was taken")
    return data


def _checked(data: bytes, card: Card, path: Path) -> None:
    """Refuse what is no safetensors file, and a CSP-nano card over other tensors."""
    try:
        deserialize(data)
    except SafetensorError as error:
        raise BadInput(f"{path} holds no safetensors weights ({error}): pickles and other formats are never taken") from error
    if card.architecture.startswith("csp-nano"):
        _opened(data)


def _opened(data: bytes) -> "CspNano":
    from inference.networks.csp_nano import from_bytes  # noqa: PLC0415 - torch takes seconds; most who use the registry need none of it

    return from_bytes(data)
