"""`kerbwatch incidents`: what responders say and do, with what is read out of Kafka's log, as one group.

It decides nothing. It stands apart from the other commands so that it starts at once when it matters; what needs Kafka or numpy is
loaded when it is called. No topic feeds it.
"""

import typer

from responders.console.incidents import app
from responders.console.watch import watch
from streams.console.late import LATE, call

app.command("watch")(watch)


@app.command("evidence", context_settings=LATE)
def evidence(context: typer.Context) -> None:
    """Seal all that is known of an incident into one file. Example: `kerbwatch incidents evidence 3f2a`."""
    from streams.console.evidence import evidence as command

    call(command, context)


@app.command("verify", context_settings=LATE)
def verify(context: typer.Context) -> None:
    """Check a sealed bundle. Example: `kerbwatch incidents verify evidence.tar`."""
    from streams.console.verifying import verify_bundle as command

    call(command, context)


@app.command("report", context_settings=LATE)
def report(context: typer.Context) -> None:
    """Write an incident's report as HTML and Markdown. Example: `kerbwatch incidents report 3f2a`."""
    from streams.console.report import report as command

    call(command, context)


__all__ = ["app"]
