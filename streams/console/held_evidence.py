"""The training samples that vetting held back, brought into an incident's evidence and report.

It decides which samples belong to an incident: those that its run held back. It refuses to fail for a sealed file that does not
open: that it does not is said in the bundle. An incident about a camera has none, so for it no file is opened. No topic feeds it.

Source: paper 4.5.2 (data poisoning), 4.7 (evidence preservation).
"""

from dataclasses import replace

from inference.lifecycle.held import files_of
from infra.settings import Settings
from responders.proof.material import MOST, Material
from responders.proof.samples import SampleFact, SampleFinding


def with_samples(settings: Settings, about: Material) -> Material:
    """The same with its training samples, by id, and word of those that do not open."""
    if about.of_camera:
        return about
    files, faults = files_of(settings, about.incident.id)
    samples = tuple(
        SampleFact(
            id=one.id,
            pool=one.pool,
            name=one.name,
            picture_sha256=one.picture_digest,
            labels_sha256=one.labels_digest,
            sealed_sha256=digest,
            held_at=one.held_at,
            standing=one.standing,
            reviewed_at=one.reviewed_at,
            reviewed_by=one.reviewed_by,
            findings=tuple(SampleFinding(said.stage, said.score, said.reason, said.label) for said in one.findings),
        )
        for one, digest in files[:MOST]
    )
    gaps = [f"{len(files) - MOST} of {len(files)} held samples: only the first {MOST} are kept"] if len(files) > MOST else []
    if faults:
        gaps.append(f"{len(faults)} held samples do not open, so nobody knows whose they are; the first: {faults[0]}")
    return replace(about, samples=samples, missing=(*about.missing, *gaps))
