"""The command line: `mlx-dequant COMMAND`, or `python -m mlx_dequant COMMAND`."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib import import_module

from .. import __version__, needs
from ..diagnostics.output import printable
from ..errors import FormatError

# A command is a module beside this one. Its docstring is its help, `arguments(parser)` adds its
# options, and `run(options)` works and returns the exit status. It imports what is heavy in `run`.
COMMANDS = (
    "verify",
    "doctor",
    "info",
    "formats",
    "fetch_demo_model",
    "generate",
    "chat",
    "serve",
    "convert",
    "bench",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Returns:
        The exit status: 0, 1 where a check failed, 2 where there was nothing to check: a wrong
        argument, or a file that is missing or is not what it should be; 130 after Ctrl-C, 143 after SIGTERM.
    """
    try:
        needs.mlx()
        options = _parser().parse_args(argv)
        with _terminable():
            return options.run(options)
    except (FormatError, needs.MissingError) as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    except KeyboardInterrupt as stop:
        return 143 if isinstance(stop, _Terminated) else 130
    print(f"mlx-dequant: {printable(message)}", file=sys.stderr)
    return 2


class _Terminated(KeyboardInterrupt):
    """SIGTERM: it ends a command as Ctrl-C does, and temporary files are removed."""


@contextmanager
def _terminable() -> Generator[None]:
    def stop(*_: object) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mlx-dequant", description="Quantized weights on MLX.")
    parser.add_argument("--version", action="version", version=f"mlx-dequant {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = import_module(f".{name}", __name__)
        text = str(module.__doc__)
        command = commands.add_parser(
            name.replace("_", "-"),
            help=text.partition("\n")[0],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.arguments(command)
        command.set_defaults(run=module.run)
    return parser
