"""What a user sees when a command can't go on: a message and an exit code, no traceback.

Exit codes: 1 for an error, 2 for a wrong command line, 75 if the cluster was lost, 130 after Ctrl-C, 143 after SIGTERM.
"""

from __future__ import annotations

import codecs
import errno
import os
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from evomerge.errors import EvomergeError, LostClusterError, printable
from evomerge.files.obstacles import obstacle

_ONCE_MORE = "What was measured isn't kept, and nothing else is lost; start again with: "


class Terminated(KeyboardInterrupt):
    """SIGTERM, treated like Ctrl-C."""


class Commands(TyperGroup):
    """The command group that turns errors into messages."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except LostClusterError as lost:
            # Whatever keeps something on its way says itself how to go on.
            error = lost if lost.then else LostClusterError(lost.lost, then=_ONCE_MORE + typed())
            _say_error(str(error), debug=ctx.params["debug"])
            sys.stdout.flush()
            # Where Ray couldn't be left, its own end would wait for the head, and give another status.
            os._exit(os.EX_TEMPFAIL)
        except EvomergeError as error:
            _fail(str(error), debug=ctx.params["debug"])
        except OSError as error:
            # A closed pipe (`evomerge trials RUN | head`) is typer's to handle.
            if error.errno is None or error.errno == errno.EPIPE:
                raise
            _fail(_explain(error), debug=ctx.params["debug"])
        except KeyboardInterrupt as stop:
            complain("stopped")
            raise typer.Exit(_code(stop)) from None


@contextmanager
def stoppable(*records: Path, again: str | None = None) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end a command cleanly, and say how to go on.

    Args:
        records: files of which one is there as soon as something has been recorded.
        again: the command that goes on with it; None: the same once more.
    """

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except LostClusterError as lost:
        kept = f"Nothing recorded is lost; continue with: {again or typed()}"
        then = kept if _any_is_there(records) else f"Start again with: {typed()}"
        raise LostClusterError(lost.lost, then=then) from lost
    except KeyboardInterrupt as stop:
        if _any_is_there(records):
            complain(f"stopped; continue with: {again or typed()}")
        else:
            complain(f"stopped before anything was recorded; start again with: {typed()}")
        raise typer.Exit(_code(stop)) from None
    finally:
        signal.signal(signal.SIGTERM, previous)


def typed() -> str:
    """The command line that is running, for a shell."""
    return shlex.join(["evomerge", *sys.argv[1:]])


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print a line, with control characters shown as Python writes them."""
    typer.echo(printable(text), err=err, nl=nl)


def quiet_libraries(arguments: Sequence[str]) -> None:
    """Keep progress bars and remarks of other libraries out of the output, here and in processes started from here.

    Before any of them is imported. What has a value in the environment keeps it; with --debug all is left as it is.

    Args:
        arguments: of the command line; a download that somebody watches keeps its bars.
    """
    if "--debug" in arguments or os.environ.get("EVOMERGE_DEBUG"):
        return
    values = {
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "DATASETS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if "prefetch" not in arguments or not sys.stderr.isatty():
        values |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
    for name, value in values.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def print_any_text() -> None:
    """Have no locale end a command over a character that it lacks, or write data that can't be read again.

    Files and pipes get UTF-8, in which evomerge reads files, unless PYTHONIOENCODING asks for another encoding. On a
    terminal what its encoding lacks is shown as Python writes it.
    """
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, TextIOWrapper):
            continue
        if stream.isatty():
            stream.reconfigure(errors="backslashreplace")
        elif codecs.lookup(stream.encoding).name != "utf-8" and not os.environ.get("PYTHONIOENCODING"):
            stream.reconfigure(encoding="utf-8")


def complain(text: str) -> None:
    """Print a line on stderr, with control characters shown as Python writes them."""
    print(printable(text), file=sys.stderr, flush=True)


def _fail(message: str, *, debug: bool) -> NoReturn:
    _say_error(message, debug=debug)
    raise typer.Exit(1) from None


def _say_error(message: str, *, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    if sys.stderr.isatty():
        from rich.text import Text

        from evomerge.cli.console import say, stderr

        say(stderr(), Text.assemble(("Error: ", "bold red"), message), wrapped=False)
    else:
        complain(f"Error: {message}")


def _explain(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return where + obstacle(error)


def _any_is_there(files: Sequence[Path]) -> bool:
    return any(file.exists() for file in files)


def _code(stop: KeyboardInterrupt) -> int:
    return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)
