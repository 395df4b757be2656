"""Python's garbage collector, and how seldom it looks while a command loads what it needs."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_NEW_OBJECTS = 50_000


@contextmanager
def seldom_while_loading() -> Iterator[None]:
    """Have garbage collected after every 50,000 new objects until no module came in from one time to the next.

    Python looks after some hundreds or thousands. Loading torch, transformers and lm-eval leaves half a million
    objects, and looking at them again and again takes a fifth of that time. What comes after runs as it always does.
    """
    usual, modules = gc.get_threshold(), len(sys.modules)

    def look(phase: str, info: Mapping[str, Any]) -> None:
        nonlocal modules
        if phase == "stop":
            if len(sys.modules) == modules:
                restore()
            modules = len(sys.modules)

    def restore() -> None:
        if look in gc.callbacks:
            gc.callbacks.remove(look)
            gc.set_threshold(*usual)

    gc.callbacks.append(look)
    if 0 < usual[0] < _NEW_OBJECTS:
        gc.set_threshold(_NEW_OBJECTS, *usual[1:])
    try:
        yield
    finally:
        restore()
