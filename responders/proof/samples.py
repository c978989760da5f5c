"""A training sample that vetting held back, as a bundle's `samples.jsonl` and a report tell it.

It says what the sample is called, what spoke against it and what people decided. It decides nothing and opens nothing:
`inference.lifecycle.held` keeps the sealed samples, `streams.console.held_evidence` brings them here. It holds no picture, only
digests. No topic feeds it.

Source: paper 4.5.2 (data poisoning), 4.7 (evidence preservation).
"""

from datetime import datetime

from msgspec import Struct


class SampleFinding(Struct, frozen=True):
    """What one stage of vetting said. `score` is 0..1, larger is worse; `label` the place of the label it is about, if one is."""

    stage: str
    score: float
    reason: str
    label: int | None


class SampleFact(Struct, frozen=True, kw_only=True):
    """One sample; `id` is a digest of its names, picture and labels, and names its sealed file.

    `picture_sha256` and `labels_sha256` are those of the data set's manifest, "" for samples held before they were kept;
    `sealed_sha256` is that of the sealed file as it is now: people's decision is written into it.
    """

    id: str
    pool: str
    name: str
    picture_sha256: str
    labels_sha256: str
    sealed_sha256: str
    held_at: datetime
    standing: str
    reviewed_at: datetime | None
    reviewed_by: str
    findings: tuple[SampleFinding, ...]

    @property
    def worst(self) -> SampleFinding:
        """What speaks against it most."""
        return max(self.findings, key=lambda one: one.score)
