"""The command `mlc`: exit code 0 for success or agreement, 1 when results differ, 2 for bad use or bad input."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

import click

from .. import __version__
from ..errors import MlcError

COMMANDS = {  # and what `mlc --help` says of them
    "compile": "Write MODEL as a .mlc file.",
    "run": "Run MODEL, an ONNX file or a .mlc file.",
    "check": "Compare every output of MODEL with onnxruntime.",
    "bench": "Time MODEL, alone or against other engines.",
    "inspect": "Show inputs, kernels, memory and costs of MODEL.",
    "export": "Write MODEL as a C library or header.",
    "pareto": "Measure MODEL at every sensible precision.",
    "blame": "Name the pass after which MODEL is wrong.",
    "cache": "Show, trim or clear the cache of kernels.",
}
INTERNAL = 70  # EX_SOFTWARE: a bug in mlc, told apart from what the user can mend


class _SystemError(Exception):
    """An OSError, which click would end a command for with 1: "differs"."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause)
        self.cause = cause


@contextmanager
def _all_written() -> Iterator[None]:
    """What the block prints has left the process behind it. Raises _SystemError."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as e:
        raise _SystemError(e) from e


class _Commands(click.Group):
    """Imports a command's module only when it is called for: `mlc --help` needs neither onnx nor LLVM."""

    def make_context(self, *args: Any, **more: Any) -> click.Context:
        with _all_written():  # --help prints here
            return super().make_context(*args, **more)

    def invoke(self, ctx: click.Context) -> Any:
        with _all_written():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = import_module(f".commands.{name}", __package__).command
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error. May stand anywhere.")
@click.version_option(__version__, prog_name="mlc")
def cli(debug: bool) -> None:
    """Compile ONNX models to native code, and check them against onnxruntime.

    MODEL is a path, - for standard input, sample:NAME (carried by the onnx package), real:NAME, suite:NAME and others
    (see: python -m mlc.models list).
    """


def main(args: list[str] | None = None) -> None:
    """Entry point; always leaves by SystemExit."""
    given = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in given
    given = [a for a in given if a != "--debug"]
    warnings.showwarning = _warn
    try:
        code: Any = cli.main(args=given, prog_name="mlc", standalone_mode=False)
    except MlcError as e:
        _fail(e, str(e), debug, 2)
    except click.exceptions.NoArgsIsHelpError as e:
        e.show()
        sys.exit(2)
    except click.ClickException as e:
        message = e.format_message().replace("\n", " ")
        if isinstance(e, click.UsageError) and e.ctx:
            message += f"{'' if message.endswith(('.', '?')) else '.'} See {e.ctx.command_path} --help."
        _fail(e, message, debug, 2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except _SystemError as e:
        with suppress(OSError, ValueError):  # keep the interpreter from complaining when it flushes at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(e.cause, BrokenPipeError):  # the reader went away
            sys.exit(141)
        if e.cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            _fail(e, f"cannot write: {e.cause.strerror}", debug, 2)
        _fail(e, _internal(e.cause), debug, INTERNAL)
    except Exception as e:
        _fail(e, _internal(e), debug, INTERNAL)
    sys.exit(code if isinstance(code, int) else 0)


def _internal(error: Exception) -> str:
    return f"internal error: {type(error).__name__}: {error}\nThis is a bug in mlc; --debug shows where."


def _warn(message: Warning | str, *where: Any, **more: Any) -> None:
    """Warnings as users of a command want them: without the line of source."""
    click.secho("warning: ", fg="yellow", bold=True, nl=False, err=True)
    click.echo(_shown(str(message)), err=True)


def _shown(text: str) -> str:
    from .commands.console import shown  # only where something is wrong: it imports rich

    return shown(text)


def _fail(error: BaseException, message: str, debug: bool, code: int) -> None:
    if debug:
        import traceback

        traceback.print_exception(error)
    else:
        click.secho("error: ", fg="red", bold=True, nl=False, err=True)
        click.echo(_shown(message), err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
