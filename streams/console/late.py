"""Commands whose modules take long to load: their module is read when they are called, and so are their options, `--help` included.

It decides nothing. No topic feeds it.
"""

from collections.abc import Callable

import typer

LATE = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
"""Context settings of such a command."""


def call(command: Callable[..., None], context: typer.Context) -> None:
    """Be `command`, with the options that the late one was called with."""
    late = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    late.command()(command)
    late(context.args, prog_name=context.command_path)
