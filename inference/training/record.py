"""What is recorded of a finished training run: the manifest of its data, the lineage of its weights, and their card.

It decides nothing: it puts together what the run's folder and the code say. The three lie beside the weights, so that the folder
can be staged as it is (`kerbwatch models stage`); the registry takes card and lineage in and signs them (`inference.provenance`).
The card is a draft: it carries no figures, which are measured later (`inference.lifecycle.publish`). No topic.

Source: paper 4.6 (model integrity and provenance requirements), in-toto Attestation Framework v1.
"""

from datetime import datetime
from pathlib import Path

import msgspec

from inference.networks.pretrained import NOTICE
from inference.provenance.lineage import Lineage, read_lineage, this_code, this_machine, write_lineage
from inference.provenance.manifest import Manifest, manifest_of, write_manifest
from inference.provenance.registry import Card, digest_of, write_card
from inference.training.curves import summary, whole
from inference.training.pools import Pools, described, sources_of
from inference.training.train import CURVES, TrainSettings
from streams.events import Context, Mode

CARD, LINEAGE, MANIFEST = "card.json", "lineage.json", "manifest.json"
SERVED = {"csp-nano": (Mode.NORMAL, 0.4), "csp-nano-safe": (Mode.SAFE, 0.3)}
"""Mode and serving threshold by preset; adversarial training makes a model less sure of everything, so its is lower."""


def started_at(folder: Path, now: datetime) -> datetime:
    """When the run in a folder began in its first life (UTC): `now`, which is then kept, if nobody has said so before."""
    path = folder / "started"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        whole(path, lambda part: part.write_text(now.isoformat(), encoding="ascii"))
    return datetime.fromisoformat(path.read_text(encoding="ascii"))


def record_run(
    weights: Path,
    settings: TrainSettings,
    pools: Pools,
    parent: bytes | None,
    *,
    started_at: datetime,
    finished_at: datetime,
    device: str,
    command: str,
) -> None:
    """Write manifest, lineage and draft card beside the weights.

    Args:
        weights: the finished run's.
        settings: of the run; `model` is one of `SERVED`.
        pools: trained on; the validation pictures are in the manifest too.
        parent: the weights it started from; None for the pretrained backbone.
        started_at: UTC, of the run's first life (`started_at`).
        finished_at: UTC.
        device: what computed.
        command: that was given.
    """
    samples = {(one.origin, one.name): one for group in (*pools.groups, pools.validation) for one in group}
    manifest = manifest_of(settings.model, samples.values(), sources_of([*samples.values()]))
    parent_digest = None if parent is None else digest_of(parent)
    lineage = record_lineage(
        weights, settings, manifest, parent_digest, started_at=started_at, finished_at=finished_at, device=device
    )
    mode, threshold = SERVED[settings.model]
    card = Card(
        name=settings.model,
        digest=lineage.digest,
        mode=mode,
        contexts=tuple(Context),
        architecture="csp-nano: centre-and-scale head on MobileNetV2 at strides 4, 8, 16, 32 (inference/networks/csp_nano.py)",
        parent=parent_digest,
        threshold=threshold,
        data=described(pools, settings.shares),
        settings=msgspec.Raw(msgspec.json.encode(settings)),
        commands=(command,),
        figures=(),
        notes="",
        licence=NOTICE,
    )
    _put(weights.with_name(CARD), write_card(card))


def record_lineage(
    weights: Path,
    settings: msgspec.Struct,
    manifest: Manifest,
    parent_digest: str | None,
    *,
    started_at: datetime,
    finished_at: datetime,
    device: str,
) -> Lineage:
    """Write the data's manifest and the lineage beside the weights, whatever network they are of; arguments as `record_run`'s.

    What is there of these very weights stays: the code that runs later did not make them.
    """
    digest, path = digest_of(weights.read_bytes()), weights.with_name(LINEAGE)
    if path.exists() and (known := read_lineage(path.read_bytes())).digest == digest:
        return known
    lineage = Lineage(
        digest=digest,
        started_at=started_at,
        finished_at=finished_at,
        materials=(manifest.material(),),
        settings=msgspec.json.decode(msgspec.json.encode(settings)),
        code=this_code(),
        machine=this_machine(device),
        parent=parent_digest,
        figures=summary(weights.with_name(CURVES)),
    )
    _put(weights.with_name(MANIFEST), write_manifest(manifest))
    _put(path, write_lineage(lineage))
    return lineage


def _put(path: Path, content: bytes) -> None:
    whole(path, lambda part: part.write_bytes(content))
