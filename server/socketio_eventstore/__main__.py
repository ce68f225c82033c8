"""The program: ``socketio-eventstore``, or ``python -m socketio_eventstore``."""

from __future__ import annotations

import sys

INTERRUPTED = 130
"""The exit code of a program ended by Ctrl-C: 128 + SIGINT, as in a shell."""


def main() -> None:
    """Run the command line and exit with the command's code. Ctrl-C causes no traceback."""
    try:
        code = _run()
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code)


def _run() -> int:
    # Imported here: Ctrl-C during the imports must cause no traceback either.
    import click

    from socketio_eventstore.program.cli import commands
    from socketio_eventstore.program.command_error import PROGRAM

    try:
        # Commands return None. An option such as --help ends early, and main() returns an exit code.
        return commands.main(prog_name=PROGRAM, standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return INTERRUPTED


if __name__ == "__main__":
    main()
