"""Second looks at frames, honest and attacked, as the worker measured them on a drawn town street."""

from streams.events import InputScores


def look(digest: str, *, attacked: bool = False, wobble: float = 0.0) -> InputScores:
    """An honest street by day, or the same under PGD at 4/255; `wobble` (-0.5 to 0.5) moves the first cue a little."""
    if attacked:
        return InputScores(
            reference_digest=digest, inconsistency=0.75, largest=0.85, signed=0.8, weak=0.25, heat=0.05, high_pass=0.017, blot=0.12
        )
    return InputScores(
        reference_digest=digest, inconsistency=0.1 + 0.02 * wobble, largest=0.28, signed=-0.08, weak=0.018, heat=0.005,
        high_pass=0.011, blot=0.058,
    )  # fmt: skip
