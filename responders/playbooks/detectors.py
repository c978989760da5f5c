"""The names under which detectors speak, as playbooks may ask for them.

It decides which names are known: one that nobody speaks under would make a step's condition hold never, or always, unseen, so that
`playbooks.py` refuses it. It imports no detector, since they take a second to load; a test holds the list to them. No topic feeds
it.
"""

from difflib import get_close_matches

DETECTORS = frozenset(
    {
        "evasion", "drift-brightness", "drift-contrast", "drift-sharpness", "drift-heat", "drift-embedding",
        "rate", "holes", "lag", "senders", "frozen", "replayed", "claim", "answers", "newcomer", "chaff",
        "model-check", "standby-check", "log-check", "golden-check", "vetting", "intake", "backlog",
    }
)  # fmt: skip
"""Of cameras, of what comes from them, of checks, of training data, and of workers."""


def stranger(name: str) -> str:
    """What is wrong with a detector's name, with the nearest one where there is one; "" for one that speaks.

    What `intake` says of messages without a camera it says as `intake/WORKER`.
    """
    if name in DETECTORS or name.startswith("intake/"):
        return ""
    near = get_close_matches(name, sorted(DETECTORS), n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(DETECTORS))}"
    return f"no detector is called {name!r}; {hint}"
