"""Errors that a law expects, without a test framework."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec

P = ParamSpec("P")


def refused(error: type[Exception], words: str, call: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
    """Call, and find that it raises this kind of error with these words in its message."""
    found: Exception | None = None
    try:
        call(*args, **kwargs)
    except error as raised:
        found = raised
    assert found is not None, f"expected {error.__name__} with {words!r}, and nothing was raised"
    assert words in str(found), f"expected {words!r} in: {found}"
