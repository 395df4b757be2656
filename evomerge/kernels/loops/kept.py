"""Where compiled loops are kept on disk: by what they were made from, for all of a user's installations.

numba keeps them beside their source, where each new checkout or environment compiles everything again, and looks only
at a loop's own file to see whether what it kept is stale, while a loop holds code of the others in this folder too.
"""

from __future__ import annotations

import hashlib
import secrets
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core import caching, config

from evomerge.files.user_cache import user_cache

_PARTS = b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py"))) + numba.__version__.encode()


def _folder() -> Path:
    """Where numba was told to keep what it compiles, otherwise in the user's cache."""
    told: str = getattr(config, "CACHE_DIR", "")
    return Path(told) if told else user_cache()


@cache
def _stamp(file: str) -> str:
    """What tells a file, and all that its loops may have taken in, from any other."""
    return hashlib.sha256(Path(file).read_bytes() + _PARTS).hexdigest()


class _ByContent(caching._CacheLocator):
    """A folder named after a loop's file and all that it may have taken in."""

    def __init__(self, function: Any, file: str) -> None:
        self._py_file = file
        self._line = function.__code__.co_firstlineno
        self._stamp = _stamp(file)

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> _ByContent | None:
        """Raises nothing where it can't be: what is compiled then isn't kept."""
        try:
            made = cls(py_func, py_file)
            made.ensure_cache_path()  # type: ignore[no-untyped-call]
        except (OSError, RuntimeError):  # no such file, nowhere to write, no home
            return None
        return made

    def get_cache_path(self) -> str:
        """The folder."""
        return str(_folder() / "loops" / self._stamp[:16])

    def get_source_stamp(self) -> str:
        """What tells whether a kept loop is stale."""
        return self._stamp

    def get_disambiguator(self) -> str:
        """What tells loops of one name in a file apart."""
        return str(self._line)


class _Implementation(caching.CompileResultCacheImpl):
    _locator_classes = (_ByContent,)  # type: ignore[assignment]


class _Kept(caching.FunctionCache):
    _impl_class = _Implementation

    def __init__(self, function: Any) -> None:
        super().__init__(function)  # type: ignore[no-untyped-call]
        # numba counts a loop's versions, so that two processes could each write another one to the same file.
        index: Any = self._cache_file
        index._data_name = lambda number: f"{function.__name__}.{secrets.token_hex(8)}.nbc"


def keep(loop: Any) -> None:
    """Have numba keep what it compiles of a loop.

    Raises: RuntimeError if there is nowhere to write.
    """
    loop._cache = _Kept(loop.py_func)
