"""The errors that evomerge raises on purpose.

Each says what is wrong, where it was found and what would be right. The command line prints them
without a traceback. Every class also subclasses the builtin that a caller would expect.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from reprlib import Repr
from typing import Any

# Control characters but tab and newline, marks that turn the direction of text round, and halves of characters.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 200
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 20
_SHORT.maxlevel = 4
_MAX_SHOWN = 400


class EvomergeError(Exception):
    """Root of every error raised for a user's mistake or an unusable environment."""

    def __str__(self) -> str:
        """The message, without characters that would act on a terminal."""
        return printable(super().__str__())


class ConfigError(EvomergeError, ValueError):
    """An experiment's YAML is wrong: the message names file, key, value and remedy."""


class RecipeError(EvomergeError, ValueError):
    """A recipe is malformed or doesn't fit its models or its method."""


class CheckpointError(EvomergeError, ValueError):
    """A model folder is missing, damaged, unsafe or doesn't match the others."""


class ShapeError(EvomergeError, ValueError):
    """Tensors or coefficients have shapes that don't fit each other."""


class MergeError(EvomergeError, ArithmeticError):
    """A merge has no defined or finite result for these tensors and coefficients.

    `request` is the place, in its split, of the request whose answer showed it, where it showed only then.
    """

    def __init__(self, message: str, *, request: int | None = None) -> None:
        super().__init__(message)
        self.request = request


class AlignmentError(EvomergeError, ValueError):
    """Models can't be aligned as asked: a spec, a map or their weights don't allow it."""


class BenchmarkError(EvomergeError, ValueError):
    """A task, metric, split or data set can't be used as asked.

    `unreachable` says that the data couldn't be fetched from here, which may be no mistake of the config.
    """

    def __init__(self, message: str, *, unreachable: bool = False) -> None:
        super().__init__(message)
        self.unreachable = unreachable


class EstimatorError(EvomergeError, ValueError):
    """Too few models or items have answered for what an estimator needs."""


class TuningError(EvomergeError, ValueError):
    """A model can't be tuned on these data, or a tuning came to no good end."""


class ExecutionError(EvomergeError, RuntimeError):
    """The hardware or cluster asked for isn't there, or workers can't be started."""


class LostClusterError(ExecutionError):
    """The cluster went away in the middle of the work, none of which is lost: the same again goes on once it is back.

    `lost` says what went away, and `then`, where it is known, how to go on; the message is both.
    """

    def __init__(self, lost: str, *, then: str = "") -> None:
        super().__init__(f"{lost}. {then}" if then else lost)
        self.lost, self.then = lost, then


class RunError(EvomergeError, RuntimeError):
    """A run directory can't be read, written or used as asked."""


class ResumeError(RunError):
    """A run directory belongs to a different experiment than the one given."""


class LockedError(RunError):
    """Another process is driving this run directory."""


class ExportError(EvomergeError, OSError):
    """A merged model can't be written where it was asked for."""


class MissingPackageError(EvomergeError, ImportError):
    """Something asked for needs an optional package: the message says what to install."""


class UnknownNameError(EvomergeError, LookupError):
    """A name isn't registered: carries the close matches and everything available."""

    def __init__(self, kind: str, name: str, available: Iterable[str]) -> None:
        super().__init__(unknown(kind, name, available))


def unknown(kind: str, name: str, available: Iterable[str]) -> str:
    """Say that `name` is no known `kind`, suggest the nearest and list what there is."""
    names = sorted(available)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"unknown {kind} {name!r}.{hint} Available: {', '.join(names) or 'none'}."


def printable(text: str) -> str:
    r"""Text from anywhere, safe to show: control characters are written as in Python, such as \x1b."""
    return _UNPRINTABLE.sub(lambda found: repr(found[0])[1:-1], text)


def shown(value: Any) -> str:
    """A value in a message, as Python writes it, cut where it is long; that of an empty file or key is nothing."""
    if value is None:
        return "nothing"
    try:
        text = _SHORT.repr(value)
    except Exception:
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def first_line(error: BaseException) -> str:
    """What an error of a library says, in one line; its kind if it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number of things in words: "1 trial", "3 trials"; `many` where the plural isn't `one` with an s."""
    return f"{number} {one}" if number == 1 else f"{number} {many or one + 's'}"


def listed(names: Iterable[str], limit: int = 3) -> str:
    """The first few names, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - limit} more" if len(every) > limit else ""
    return ", ".join(every[:limit]) + more
