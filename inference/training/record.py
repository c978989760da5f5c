"""What is recorded of a finished training run: the manifest of its data and the lineage of its weights.

It decides nothing: it puts together what the run's folder and the code say. Both files lie beside the weights; the registry takes
the lineage in and signs it (`inference.provenance`). No topic.

Source: paper 4.6 (model integrity and provenance requirements), in-toto Attestation Framework v1.
"""

from datetime import datetime
from pathlib import Path

import msgspec

from inference.provenance.lineage import Lineage, this_code, this_machine, write_lineage
from inference.provenance.manifest import manifest_of, write_manifest
from inference.provenance.registry import digest_of
from inference.training.curves import whole
from inference.training.pools import Pools, sources_of
from inference.training.train import TrainSettings

LINEAGE, MANIFEST = "lineage.json", "manifest.json"


def record_run(
    weights: Path,
    settings: TrainSettings,
    pools: Pools,
    parent: bytes | None,
    *,
    started_at: datetime,
    finished_at: datetime,
    device: str,
) -> Path:
    """Write manifest and lineage beside the weights; the lineage's path.

    Args:
        weights: the finished run's.
        settings: of the run.
        pools: trained on; the validation pictures are listed too.
        parent: the weights it started from; None for the pretrained backbone.
        started_at: UTC, of the run's first life as far as known.
        finished_at: UTC.
        device: what computed.
    """
    samples = {(one.origin, one.name): one for group in (*pools.groups, pools.validation) for one in group}
    manifest = manifest_of(settings.model, samples.values(), sources_of([*samples.values()]))
    lineage = Lineage(
        digest=digest_of(weights.read_bytes()),
        started_at=started_at,
        finished_at=finished_at,
        materials=(manifest.material(),),
        settings=msgspec.json.decode(msgspec.json.encode(settings)),
        code=this_code(),
        machine=this_machine(device),
        parent=None if parent is None else digest_of(parent),
        figures={},
    )
    whole(weights.with_name(MANIFEST), lambda path: path.write_bytes(write_manifest(manifest)))
    whole(weights.with_name(LINEAGE), lambda path: path.write_bytes(write_lineage(lineage)))
    return weights.with_name(LINEAGE)
