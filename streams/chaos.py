"""The chaos producer: a camera that misbehaves on purpose, in every way that the watch must notice or survive.

It decides which attack runs when, by name, and keeps the truth in a ledger; what an attack does is in `streams.attacks`. It refuses
to touch the served model: white-box attacks get a copy made from verified weights. Writes `frames`, as a camera.

Source: paper 5.1 (attacks), 4.7 (threats in operation); MITRE ATLAS v5.6.1 for the technique ids.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console
from rich.table import Table

from infra.settings import Settings, read_settings
from streams.attacks import (
    Attack,
    Chaff,
    CorruptBytes,
    Corruption,
    Drift,
    Flood,
    Harm,
    NewerVersion,
    ReplayedFrames,
    SecondSender,
    Stretch,
    TakenOut,
    WhiteBox,
    WrongContext,
    WrongSignature,
    WrongTime,
)
from streams.camera import CameraOption, ContextOption, FpsOption, JsonOption, LedgerOption, replay, show
from streams.errors import BadInput
from streams.events import Context, Mode
from streams.sources.base import Person, Picture
from streams.sources.open import open_source

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Attack on purpose: list attacks, play a source under one, send only bad messages.",
)


@dataclass(frozen=True)
class Means:
    """What attacks are made with; `weights` is the digest of the model to attack, None for the shipped normal one."""

    settings: Settings
    eps: float = 0.03
    full_after_s: float = 60.0
    weights: str | None = None


@dataclass(frozen=True)
class Kind:
    """An attack by name: what it does, its ATLAS technique (empty where it is no attack), and how it is made."""

    what: str
    technique: str
    make: Callable[[Means], Attack]


_STEPS = 5  # of PGD: more change little at this strength, and a camera has to keep its pace


def _white_box(name: str) -> Callable[[Means], Attack]:
    """How an attack on a copy of a registered model is made, by its name in `ATTACKS`.

    Making it raises Unavailable if there is no such model, Tampered if its weights were changed.
    """

    def make(means: Means) -> Attack:
        import torch  # noqa: PLC0415 torch takes seconds, and only these attacks need it

        from inference.attacks import deepfool, gradient, patch  # noqa: PLC0415 same
        from inference.attacks.objectives import Objective  # noqa: PLC0415 same
        from inference.provenance.registry import registry_of, shipped  # noqa: PLC0415 same
        from inference.service.serving import white_box  # noqa: PLC0415 same

        # Beside a worker on the same cores one thread is four times faster than two that wait for each other (170 ms against 670).
        torch.set_num_threads(1)
        registry = registry_of(means.settings)
        network = white_box(registry, means.weights or shipped(registry)[Mode.NORMAL])
        stuck: list[patch.Patched] = []

        def sticker(picture: Picture, people: Sequence[Person] | None) -> Picture:
            """One patch, made for the first picture, that stays where it is: somebody has glued it there."""
            if not stuck:
                stuck.append(patch.patch(network, picture, people, patch.Place.BACKGROUND, np.random.default_rng(0)))
            left, top, wide, tall = stuck[0].rectangle_px
            there = picture.copy()
            there[top : top + tall, left : left + wide] = stuck[0].picture[top : top + tall, left : left + wide]
            return there

        def pgd(objective: Objective) -> Callable[[Picture, Sequence[Person] | None], Picture]:
            def change(picture: Picture, people: Sequence[Person] | None) -> Picture:
                known = None if people is None else [people]
                return gradient.pgd(network, [picture], known, means.eps, _STEPS, objective=objective)[0]

            return change

        changes: dict[str, Callable[[Picture, Sequence[Person] | None], Picture]] = {
            "fgsm": lambda picture, people: gradient.fgsm(network, picture, people, means.eps),
            "pgd": pgd(Objective.UNTARGETED),
            "hide": pgd(Objective.HIDE),
            "appear": pgd(Objective.APPEAR),
            "deepfool": lambda picture, people: deepfool.deepfool(
                network, [picture], means.eps, None if people is None else [people]
            )[0],
            "patch": sticker,
        }
        return WhiteBox(name, changes[name], lossless=name == "deepfool")

    return make


def _drift(corruption: Corruption) -> Callable[[Means], Attack]:
    return lambda means: Drift(corruption, means.full_after_s)


ATTACKS: Mapping[str, Kind] = {
    "fgsm": Kind("pixels moved up the served network's loss (white box, on a copy)", "AML.T0043.000", _white_box("fgsm")),
    "pgd": Kind("the same in five bounded steps", "AML.T0043.000", _white_box("pgd")),
    "deepfool": Kind("pixels moved just past the network's boundary", "AML.T0043.000", _white_box("deepfool")),
    "hide": Kind("five bounded steps that make people vanish", "AML.T0043.000", _white_box("hide")),
    "appear": Kind("five bounded steps that make people appear", "AML.T0043.000", _white_box("appear")),
    "patch": Kind("a patch glued to the scene, in which somebody is seen", "AML.T0041", _white_box("patch")),
    "drift-fog": Kind("fog that thickens", "", _drift(Corruption.FOG)),
    "drift-blur": Kind("a lens that loses focus", "", _drift(Corruption.BLUR)),
    "drift-noise": Kind("a sensor that grows noisy", "", _drift(Corruption.NOISE)),
    "drift-dark": Kind("light that fades", "", _drift(Corruption.DARK)),
    "flood": Kind("every message twenty times", "AML.T0029", lambda _: Flood()),
    "flood-fresh": Kind("twenty newly signed frames for each", "AML.T0046", lambda _: Flood(fresh=True)),
    "replay-old": Kind("old frames again, beside the live ones", "AML.T0046", lambda _: ReplayedFrames()),
    "replay-fresh": Kind("old pictures newly signed, in place of the live ones", "AML.T0015", lambda _: ReplayedFrames(fresh=True)),
    "replay-recoded": Kind(
        "the same, encoded again at another quality", "AML.T0015", lambda _: ReplayedFrames(fresh=True, quality=60)
    ),
    "frozen": Kind("one picture over and over, newly signed", "AML.T0015", lambda _: ReplayedFrames(fresh=True, back=1)),
    "second-sender": Kind("another sender with the camera's key, started earlier", "AML.T0015", lambda _: SecondSender()),
    "second-numbers": Kind("another sender with the camera's key and start", "AML.T0015", lambda _: SecondSender(same_start=True)),
    "holes": Kind("one frame in three taken out on the way", "AML.T0029", lambda _: TakenOut()),
    "wrong-context": Kind("the camera claims the other context", "AML.T0015", lambda _: WrongContext()),
    "chaff": Kind("alarms set off over and over: dark for 40 s of each 200 s", "AML.T0046", lambda _: Chaff()),
    "truncated": Kind("half a picture", "AML.T0029", lambda _: CorruptBytes(Harm.TRUNCATED)),
    "flipped": Kind("a byte changed on the way", "AML.T0029", lambda _: CorruptBytes(Harm.FLIPPED)),
    "huge": Kind("a small JPEG that claims 65,500 x 65,500 pixels", "AML.T0029", lambda _: CorruptBytes(Harm.HUGE)),
    "bomb": Kind("a small PNG that unpacks to 16,000 x 16,000 pixels", "AML.T0029", lambda _: CorruptBytes(Harm.BOMB)),
    "wrong-key": Kind("signed by somebody else", "AML.T0015", lambda _: WrongSignature(Ed25519PrivateKey.generate())),
    "unsigned": Kind("not signed at all", "AML.T0015", lambda _: WrongSignature(None)),
    "future-time": Kind("dated an hour ahead", "", lambda _: WrongTime(3600)),
    "stale-time": Kind("dated an hour back", "", lambda _: WrongTime(-3600)),
    "newer-version": Kind("a layout of the future", "", lambda _: NewerVersion()),
}
"""Every attack by the name under which the command line and drills know it."""
WHITE_BOX = frozenset({"fgsm", "pgd", "deepfool", "hide", "appear", "patch"})
"""Those that are made with a copy of the model in the registry."""


def attack(name: str, means: Means) -> Attack:
    """The attack of that name. Raises BadInput with all names for an unknown one, and what making it raises."""
    if name not in ATTACKS:
        raise BadInput(f"no attack {name!r}; there are {', '.join(ATTACKS)}")
    return ATTACKS[name].make(means)


NameArgument = Annotated[str, typer.Argument(help="Which attack; see `kerbwatch chaos list`.")]
EpsOption = Annotated[float, typer.Option("--eps", min=0, max=1, help="Strength as a share of 255; DeepFool's overshoot.")]
FullOption = Annotated[float, typer.Option("--full-after", min=0.1, help="Seconds until a drift is at its full strength.")]
WeightsOption = Annotated[str | None, typer.Option("--weights", help="Digest of the model to attack; else the shipped one.")]


@app.command("list")
def list_attacks(as_json: JsonOption = False) -> None:
    """What can go wrong on purpose. Example: `kerbwatch chaos list --json`."""
    if as_json:
        typer.echo(json.dumps([{"name": name, "what": kind.what, "technique": kind.technique} for name, kind in ATTACKS.items()]))
        return
    table = Table("name", "what it does", "ATLAS", title="attacks and mishaps")
    for name, kind in ATTACKS.items():
        table.add_row(name, kind.what, kind.technique)
    Console().print(table)


@app.command()
def run(  # noqa: PLR0917 typer's way to declare options
    name: NameArgument,
    source: Annotated[str, typer.Option("--source", help="What the camera sees, as for `kerbwatch replay`.")] = "street:urban",
    camera_id: CameraOption = "cam-1",
    context: ContextOption = Context.URBAN,
    from_frame: Annotated[int, typer.Option("--from-frame", min=0, help="First picture under attack.")] = 100,
    frames: Annotated[int, typer.Option("--frames", min=1, help="How many pictures are attacked.")] = 50,
    after: Annotated[int, typer.Option("--after", min=0, help="Clean pictures after the attack.")] = 100,
    fps: FpsOption = None,
    eps: EpsOption = 0.03,
    full_after_s: FullOption = 60.0,
    weights: WeightsOption = None,
    ledger: LedgerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Play a source, part of it attacked. Example: `kerbwatch chaos run fgsm --camera gate-2 --from-frame 100 --frames 50`."""
    settings = read_settings()
    stretch = Stretch(attack(name, Means(settings, eps, full_after_s, weights)), from_frame, frames)
    _play(
        settings, source, camera_id, context, stretch, pictures=from_frame + frames + after, fps=fps, ledger=ledger, as_json=as_json
    )


@app.command()
def inject(  # noqa: PLR0917 typer's way to declare options
    name: NameArgument,
    camera_id: CameraOption = "cam-1",
    context: ContextOption = Context.URBAN,
    count: Annotated[int, typer.Option("--count", min=1, help="How many pictures to send, each under attack.")] = 20,
    fps: FpsOption = 5.0,
    eps: EpsOption = 0.03,
    ledger: LedgerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send attacked pictures in a camera's name, beside the camera. Example: `kerbwatch chaos inject wrong-key --camera gate-2`.

    Signed ones carry a newer start time, as a stolen key would allow: the camera's own frames then count as repeated until it
    restarts.
    """
    settings = read_settings()
    stretch = Stretch(attack(name, Means(settings, eps)), 0)
    _play(settings, f"street:{context}", camera_id, context, stretch, pictures=count, fps=fps, ledger=ledger, as_json=as_json)


def _play(
    settings: Settings,
    source: str,
    camera_id: str,
    context: Context,
    stretch: Stretch,
    *,
    pictures: int,
    fps: float | None,
    ledger: Path | None,
    as_json: bool,
) -> None:
    show(
        lambda stop, progress: replay(
            open_source(source, settings), camera_id, context, settings, fps=fps, loop=True, pictures=pictures,
            schedule=(stretch,), ledger_path=ledger, stop=stop, progress=progress,
        ),
        f"{stretch.attack.name} on {camera_id}", pictures, as_json=as_json,
    )  # fmt: skip
