"""The roles of secure ML operations, by the paper's numbers.

It decides nothing and knows nobody; `people.py` knows who has which role. Source: paper table 1.
"""

from collections.abc import Sequence
from enum import StrEnum


class Role(StrEnum):
    """R1 to R8; the member's name says what the role is called."""

    BUSINESS_STAKEHOLDER = "R1"
    SOLUTION_ARCHITECT = "R2"
    DATA_SCIENTIST = "R3"
    DATA_ENGINEER = "R4"
    SOFTWARE_ENGINEER = "R5"
    DEVOPS_ENGINEER = "R6"
    MLOPS_ENGINEER = "R7"
    SECMLOPS_ENGINEER = "R8"


_WORDS = {
    Role.DEVOPS_ENGINEER: "DevOps engineer",
    Role.MLOPS_ENGINEER: "MLOps engineer",
    Role.SECMLOPS_ENGINEER: "SecMLOps engineer",
}


def named(roles: Sequence[Role], between: str = " and ") -> str:
    """The roles in words, e.g. "R3 (data scientist) and R8 (SecMLOps engineer)"."""
    return between.join(f"{role} ({_WORDS.get(role, role.name.replace('_', ' ').lower())})" for role in roles)
