"""The command ``hwq``.

Exit status: 0 good, 1 a check failed, 2 bad input or usage, 130 interrupted. What went wrong is one line on standard
error, never a traceback; HWQ_TRACEBACK=1 shows one.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from hwq.commands import (
    arch,
    build,
    check,
    compile,
    demo,
    estimate,
    evaluate,
    flash,
    profile,
    qat,
    quantize,
    rtl,
    run,
    search,
    verify,
)
from hwq.errors import HwqError

app = typer.Typer(
    name="hwq",
    help="Quantized ONNX networks on a generated systolic array, equal on every rung from ONNX Runtime to the pin.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_INTERRUPTED = 130

_UsageError: Any = typer.BadParameter.__mro__[1]
"""Typer brings its own Click or uses an installed one: named through what Typer exports."""


def _print_version(wanted: bool) -> None:
    if wanted:
        import hwq

        print(f"hwq {hwq.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


app.command()(demo.demo)
app.command()(check.check)
app.command()(quantize.quantize)
app.command()(qat.qat)
app.command()(quantize.sensitivity)
app.command()(search.search)
app.command()(evaluate.evaluate)
app.command("compile")(compile.compile_)
app.command()(run.run)
app.command()(verify.verify)
app.command()(estimate.estimate)
app.command()(profile.profile)
app.add_typer(arch.app, name="arch")
app.command()(rtl.rtl)
app.command()(build.build)
app.command()(flash.flash)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit the process with its status."""
    signal.signal(signal.SIGTERM, _terminated)
    sys.exit(run_command(arguments))


def _terminated(number: int, _frame: object) -> None:
    """Leave as at an interrupt, so that half-made files and running tools go."""
    sys.exit(128 + number)


def run_command(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments`, the process's own by default, and return the exit status."""
    command = typer.main.get_command(app)
    try:
        status = command.main(None if arguments is None else list(arguments), prog_name="hwq", standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        status = _INTERRUPTED
    except BrokenPipeError:  # the reader of our output has left, which is its right
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get("HWQ_TRACEBACK"):
            raise
        return _fail(_sentence(error), 2)
    if status == _INTERRUPTED:  # newer Typers return it, older ones raise
        return _fail("interrupted", _INTERRUPTED)
    return status if isinstance(status, int) else 0


def _sentence(error: Exception) -> str:
    """Return what to tell the user, one line; nothing where a command without arguments has printed its help."""
    if isinstance(error, _UsageError):
        message = error.format_message().rstrip(".")
        context = getattr(error, "ctx", None)
        return f"{message} (see {context.command_path} --help)" if message and context is not None else message
    if isinstance(error, HwqError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        return "not enough memory for this many samples, or for this model"
    return f"internal error: {type(error).__name__}: {error}; HWQ_TRACEBACK=1 shows where"


def _fail(message: str, status: int) -> int:
    if message:
        print(f"hwq: {' '.join(message.split())}", file=sys.stderr)
    return status
