"""The commands that run the stack: `kafka`, `keys`, and `down`, `status`.

They decide nothing: each reads the settings, calls one function and shows its answer, as a table or with `--json`. `keys rotate`,
which not everybody may, and `doctor`, which knows of the notifiers too, stand in `responders.console`.
Exit codes: 0 done, 1 found something wrong; 2 bad usage and 3 unavailable are raised as `streams.errors` for the entry point.
"""

import dataclasses
import json
from contextlib import closing
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from infra import certificates, clients, kafka, keys, provision, supervise
from infra.certificates import utc_now
from infra.settings import Settings, read_settings

kafka_app = typer.Typer(no_args_is_help=True, add_completion=False, help="The local broker: real Apache Kafka, from packages.")
keys_app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Certificates per role, cameras' and models' signing keys, the quarantine's key.",
)

AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]


def mount(app: typer.Typer) -> None:
    """Adds this module's commands to the one app; `up` needs weights as well and stands in `streams.stack`."""
    app.add_typer(kafka_app, name="kafka")
    app.add_typer(keys_app, name="keys")
    for command in (down, status):
        app.command()(command)


def _print(answer: object) -> None:
    typer.echo(json.dumps(answer, default=str, indent=2))


def _rows(rows: list[dict[str, Any]], columns: dict[str, str]) -> None:
    table = Table(*columns.values(), box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(
            *(Text("" if row[name] is None else str(row[name])) for name in columns)
        )  # no markup: a path may hold brackets
    Console().print(table)


def _say(text: str) -> None:
    """Progress goes to stderr, so that `--json` stays clean."""
    typer.echo(text, err=True)


@kafka_app.command("up")
def kafka_up(as_json: AsJson = False) -> None:
    """Start the broker, wait until it answers, make topics and permissions. Example: `kerbwatch kafka up`."""
    _show_broker(read_settings(), kafka.up(read_settings()), as_json=as_json)


@kafka_app.command("down")
def kafka_down(as_json: AsJson = False) -> None:
    """Stop the broker; its data stays. Example: `kerbwatch kafka down`."""
    stopped = kafka.down(read_settings())
    if as_json:
        _print({"stopped": stopped})
    else:
        typer.echo("stopped" if stopped else "no broker was running")


@kafka_app.command("status")
def kafka_status(as_json: AsJson = False) -> None:
    """Show whether the broker runs and answers; exit code 1 if it does not. Example: `kerbwatch kafka status --json`."""
    found = kafka.status(read_settings())
    _show_broker(read_settings(), None, as_json=as_json)
    if not found.ready:
        raise typer.Exit(1)


@kafka_app.command("provision")
def kafka_provision(as_json: AsJson = False) -> None:
    """Make topics and permissions on the broker that the settings name, wherever it runs. Example: `kerbwatch kafka provision`."""
    with closing(clients.admin(read_settings())) as admin:
        changes = provision.provision(admin)
    _show_changes(changes, as_json=as_json)


def _show_broker(settings: Settings, changes: provision.Changes | None, *, as_json: bool) -> None:
    found = kafka.status(settings)
    if as_json:
        _print(dataclasses.asdict(found) | ({"changes": dataclasses.asdict(changes)} if changes else {}))
        return
    state = "ready" if found.ready else "running, not answering" if found.running else "not running: `kerbwatch kafka up` starts it"
    typer.echo(f"Apache Kafka {found.version} at {found.bootstrap}: {state}")
    if found.pid:
        typer.echo(f"process {found.pid}, {found.resident_mb} MB, {len(found.topics)} topics, log {found.log}")
    if changes:
        _show_changes(changes, as_json=False)


def _show_changes(changes: provision.Changes, *, as_json: bool) -> None:
    if as_json:
        _print(dataclasses.asdict(changes))
    elif changes == provision.Changes((), (), (), ()):
        typer.echo("topics and permissions were in place")
    else:
        typer.echo(
            f"topics made: {', '.join(changes.topics_made) or 'none'}; changed: {', '.join(changes.topics_changed) or 'none'}; "
            f"permissions given: {len(changes.grants_made)}, taken: {len(changes.grants_removed)}"
        )


@keys_app.command("init")
def keys_init(
    camera: Annotated[list[str] | None, typer.Option(help="Also make this camera's signing key; repeatable.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make the keys that are missing or about to expire; touches no other. Example: `kerbwatch keys init --camera gate-1`."""
    settings = read_settings()
    made = certificates.make_certificates(settings, utc_now())
    keys.quarantine_key(settings)
    keys.model_key(settings)
    for camera_id in camera or ():
        keys.camera_key(settings, camera_id)
    show_made(settings, made, camera or [], as_json=as_json)


def show_made(settings: Settings, made: tuple[str, ...], cameras: list[str], *, as_json: bool) -> None:
    """Print which certificates are new, and where keys lie."""
    if as_json:
        _print({"folder": str(settings.home.resolve() / "keys"), "certificates": made, "cameras": cameras})
    else:
        typer.echo(f"certificates made: {', '.join(made) or 'none, all hold'}; in {settings.home.resolve() / 'keys'}")


def down(as_json: AsJson = False) -> None:
    """Stop everything that `up` started; data stays. Example: `kerbwatch down`."""
    settings = read_settings()
    processes_ran = supervise.down(settings)
    broker_ran = kafka.down(settings)
    if as_json:
        _print({"processes_stopped": processes_ran, "broker_stopped": broker_ran})
    else:
        typer.echo("stopped" if processes_ran or broker_ran else "nothing was running")


def status(as_json: AsJson = False) -> None:
    """Show broker and processes; exit code 1 if any is not up. Example: `kerbwatch status --json`."""
    if not show_all(read_settings(), as_json=as_json):
        raise typer.Exit(1)


def show_all(settings: Settings, *, as_json: bool) -> bool:
    """Print broker and processes; whether all are up."""
    broker, working = kafka.status(settings), supervise.status(settings)
    fine = broker.ready and all(process.up for process in working)
    if as_json:
        _print(
            {"ok": fine, "broker": dataclasses.asdict(broker), "processes": [dataclasses.asdict(process) for process in working]}
        )
        return fine
    typer.echo(f"broker {'ready' if broker.ready else 'down'} at {broker.bootstrap}")
    rows = [dataclasses.asdict(process) | {"up": f"{process.up_s:.0f} s"} for process in working]
    _rows(rows, {"role": "process", "state": "state", "pid": "id", "up": "up", "log": "log"})
    return fine
