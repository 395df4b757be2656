"""How far something is that takes long, said once a minute."""

from __future__ import annotations

import time
from collections.abc import Callable

_MINUTE_S = 60.0


class EachMinute:
    """Passes a sentence on if a minute has passed since the last one, or since it was made."""

    def __init__(self, told: Callable[[str], None]) -> None:
        self._told = told
        self._said = time.monotonic()

    def __call__(self, text: str) -> None:
        """Say it, if it is time."""
        if time.monotonic() - self._said >= _MINUTE_S:
            self._said = time.monotonic()
            self._told(text)
