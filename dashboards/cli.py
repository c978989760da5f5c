"""`kerbwatch dashboards build|check|push`: a thin shell around `build` and `push`."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from infra.settings import read_settings

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Grafana dashboards, made from the metric definitions.")
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@app.command()
def build(as_json: JsonOption = False) -> None:
    """Write the dashboards' JSON into the repository. Example: `kerbwatch dashboards build`."""
    from dashboards.build import GENERATED, write  # noqa: PLC0415 - Grafana's libraries are loaded only by these commands

    changed = write()
    if as_json:
        typer.echo(json.dumps({"changed": changed}))
        return
    typer.echo(f"changed in {GENERATED}: {', '.join(changed)}" if changed else f"{GENERATED} was up to date")


@app.command()
def check(as_json: JsonOption = False) -> None:
    """Exit with 1 if the committed JSON is stale. Example: `kerbwatch dashboards check --json`."""
    from dashboards.build import REFRESH, stale  # noqa: PLC0415 - same

    names = stale()
    if as_json:
        typer.echo(json.dumps({"stale": names}))
    else:
        typer.echo(f"stale: {', '.join(names)}; refresh with `{REFRESH}`" if names else "dashboards are up to date")
    if names:
        raise typer.Exit(1)


@app.command()
def push(as_json: JsonOption = False) -> None:
    """Put the dashboards into the Grafana at KERBWATCH_GRAFANA_URL, with KERBWATCH_GRAFANA_TOKEN.

    Example: `KERBWATCH_GRAFANA_URL=http://localhost:3000 kerbwatch dashboards push`.
    """
    from dashboards.push import push as push_all  # noqa: PLC0415 - same

    pushed = push_all(read_settings())
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in pushed]))
        return
    for each in pushed:
        typer.echo(f"{each.title}: version {each.version} at {each.url}")
