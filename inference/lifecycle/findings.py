"""What vetting says of a training sample: plain data, which lists and reviews read without loading any network.

It decides nothing and knows no sample: `vetting` makes findings, `held` keeps them, `vetting_alarm` weighs them. No topic feeds it.

Source: paper 4.6 (multi-stage validation).
"""

from enum import StrEnum

import msgspec


class Stage(StrEnum):
    """Where a finding was made."""

    STATISTICS = "statistics"
    AGREEMENT = "agreement"
    CROSS_VALIDATION = "cross_validation"
    ADVERSARIAL = "adversarial"
    DUPLICATE = "duplicate"
    TRIGGER = "trigger"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Why a sample is not trained on. `score` is 0..1, larger is worse; `label` the place of the label it is about, if one is."""

    pool: str
    name: str
    stage: Stage
    reason: str
    score: float
    label: int | None = None
