"""Finding a function of the user's by `module:name`, in a folder of theirs or wherever Python finds modules."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from evomerge.errors import BenchmarkError


def load_function(call: str, folder: str) -> Callable[..., Any]:
    """Import a function. This runs its module's code.

    Args:
        call: `module:name`.
        folder: looked in first.

    Raises: BenchmarkError if there is no such module or function, or importing it fails.
    """
    name = call.partition(":")[2]
    function = getattr(load_module(call, folder), name, None)
    if not callable(function):
        raise BenchmarkError(f"{call}: the module has no function {name!r}")
    found: Callable[..., Any] = function
    return found


def load_module(call: str, folder: str) -> ModuleType:
    """Import the module of `module:name`. Raises: BenchmarkError, as `load_function`."""
    name = call.partition(":")[0]
    own = files_of(call, folder)
    known = sys.modules.get(name)
    if own and known is not None and Path(known.__file__ or "").resolve() != own[0].resolve():
        # Another folder's module of this name, from an earlier run in this process.
        del sys.modules[name]
    with on_path(folder):
        importlib.invalidate_caches()
        try:
            return importlib.import_module(name)
        except Exception as error:
            raise BenchmarkError(
                f"{call}: module {name!r} can't be imported from {folder} or Python's path on this machine "
                f"({type(error).__name__}: {error})"
            ) from error


def files_of(call: str, folder: str) -> list[Path]:
    """The file of the module of `module:name`, found without running it; empty if it isn't one of the folder's."""
    path = Path(folder) / Path(*call.partition(":")[0].split("."))
    return [file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()][:1]


@contextmanager
def on_path(folder: str) -> Iterator[None]:
    """Let Python look for modules in a folder first."""
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
