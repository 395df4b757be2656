"""Options of parts that are chosen by name, held against the defaults that a part declares.

Knows names and numbers only: not whose options they are, nor what they do there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from evomerge.errors import ConfigError, unknown


class Range(NamedTuple):
    """Numbers that an option may be, in words and by a test."""

    words: str
    holds: Callable[[float], bool]


WHOLE = Range("a whole number of 1 or more", lambda value: value >= 1)
ABOVE_ZERO = Range("a number above 0", lambda value: value > 0)
SHARE = Range("a number from 0 to 1", lambda value: 0 <= value <= 1)


def with_defaults(
    where: str, options: Mapping[str, Any], defaults: Mapping[str, float | None], *, others: Range
) -> dict[str, Any]:
    """Options, those not given at their defaults.

    Args:
        where: place of the options, for messages.
        options: as given.
        defaults: by name; where the default is a whole number, so is the option, and 1 or more.
        others: what options with another default may be.

    Raises: ConfigError for a name that isn't among the defaults, or a value that isn't such a number.
    """
    for name, value in options.items():
        if name not in defaults:
            raise ConfigError(f"{where}.{name}: {unknown('option', name, defaults)}")
        whole = isinstance(defaults[name], int)
        wanted = WHOLE if whole else others
        known = not isinstance(value, bool) and isinstance(value, int if whole else int | float)
        if not known or not math.isfinite(value) or not wanted.holds(value):
            raise ConfigError(f"{where}.{name}: {wanted.words} (found {value!r})")
    return {**defaults, **options}
