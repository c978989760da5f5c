"""The one tree of errors: bad input, broken contract, unavailable, tampered.

    KerbwatchError
    |-- BadInput         somebody sent or typed something wrong; carries a `Refusal` that is counted
    |-- BrokenContract   our own code broke a promise; a bug to report
    |-- Unavailable      a broker, database or file that should be there is not
    `-- Tampered         bytes are not what their digest or signature says

Every message names what is wrong, where, and the operator's next step.
"""

from enum import StrEnum


class Refusal(StrEnum):
    """Why a message was refused; the label under which it is counted (`kerbwatch_refused_total`)."""

    TOO_LARGE = "too_large"  # more bytes or pixels than the limit
    UNDECODABLE = "undecodable"  # not the encoding it claims to be
    UNKNOWN_VERSION = "unknown_version"  # from a newer kerbwatch
    BAD_VALUE = "bad_value"  # missing, NaN, out of range
    BAD_SIGNATURE = "bad_signature"  # not signed by the camera that it names
    UNKNOWN_CAMERA = "unknown_camera"  # no public key on file
    FUTURE_TIME = "future_time"  # camera time ahead of ours by more than the allowance
    STALE_TIME = "stale_time"  # camera time not later than that of the frame before it
    REPEATED = "repeated"  # a frame that this camera has sent before
    OVERLOAD = "overload"  # nothing wrong with it: the worker was too far behind, or it fits into no memory
    AGENT_FAULT = "agent_fault"  # our own agent failed on it; kept for replay


class KerbwatchError(Exception):
    """Root of all errors that kerbwatch raises on purpose; `exit_code` is what the command returns.

    `on_record`: it refuses what a person wanted, and the audit trail says so already.
    """

    exit_code = 1
    on_record = False


class BadInput(KerbwatchError):
    """Input that is refused, with a reason that can be counted."""

    exit_code = 2

    def __init__(self, message: str, reason: Refusal = Refusal.BAD_VALUE, *, on_record: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.on_record = on_record


class BrokenContract(KerbwatchError):
    """A promise between our own parts does not hold: a bug."""


class Unavailable(KerbwatchError):
    """Something needed (broker, database, package, file) cannot be reached."""

    exit_code = 3


class Tampered(KerbwatchError):
    """Bytes differ from what their digest, signature or seal says."""
