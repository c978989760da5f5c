"""The command `kerbwatch`: turns our errors into plain words and exit codes.

Exit codes: 0 done, 1 found something wrong, 2 bad usage or input, 3 unavailable.
"""

import gc
import sys

import typer

from streams.errors import KerbwatchError


def main() -> None:
    """Entry point of the command."""
    try:
        gc.disable()  # of what is loaded nothing becomes garbage: a tenth of the start
        if sys.argv[1:2] == ["incidents"]:  # at an incident nobody waits for what other commands need
            from streams.console.incidents import app as incidents  # noqa: PLC0415 - see above

            command, words, name = incidents, sys.argv[2:], "kerbwatch incidents"
        else:
            from streams.command_line import app  # noqa: PLC0415 - a second, which `incidents` does not take

            command, words, name = app, sys.argv[1:], None
        gc.freeze()  # nor is it looked for at the end: a quarter of a short command
        gc.enable()
        command(words, prog_name=name)
    except KerbwatchError as error:
        typer.secho(f"kerbwatch: {error}", err=True, fg=typer.colors.RED)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
