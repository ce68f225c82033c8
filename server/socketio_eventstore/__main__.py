"""The program: ``socketio-eventstore``, or ``python -m socketio_eventstore``."""

from __future__ import annotations

import sys

INTERRUPTED = 130
"""What shells expect of a program that Ctrl-C ended."""


def main() -> None:
    """Run the command line, then exit with its code: never with a traceback because of Ctrl-C."""
    try:
        code = _run()
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code)


def _run() -> int:
    # Here, so that Ctrl-C is heard from the first moment on.
    import click

    from socketio_eventstore.program.cli import PROGRAM, commands

    try:
        # A command has nothing to return; a code comes from options such as --help, which end early.
        return commands.main(prog_name=PROGRAM, standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return INTERRUPTED


if __name__ == "__main__":
    main()
