"""The seam of pruners: scores of items in, a decision out.

A pruner is asked after each block of items but the last. It knows scores only: no recipes, trials or files. It is
deterministic and remembers nothing, so that a search which was interrupted decides as one that wasn't.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import ConfigError, unknown

Scores = NDArray[np.float64]


class Pruner(Protocol):
    """Decides which candidates answer their next block of items, and what the search algorithm is told of the others.

    Built with its options by name. Raises: ConfigError for options that it doesn't have, or can't use.
    """

    def __init__(self, options: Mapping[str, Any]) -> None: ...

    def goes_on(self, candidate: Scores, rivals: Scores) -> bool:
        """Whether a candidate is worth its next block.

        Args:
            candidate: its scores so far, (items,), finite, higher being better. Their mean is its score.
            rivals: scores of earlier candidates on the same items, (rivals, items), in any order; perhaps none.
        """

    def told(self, pruned: Sequence[Scores], complete: Scores) -> Scores:
        """What the search algorithm is told as fitness of a generation's pruned candidates.

        Args:
            pruned: each one's scores so far, (items,); some may have answered more items than others.
            complete: fitness of those that this generation evaluated to the end, (complete,); at least one.

        Returns: finite, (pruned,), in the order of `pruned`.
        """


def below_complete(pruned: Sequence[Scores], complete: Scores) -> Scores:
    """Fitness of pruned candidates below every complete one, for algorithms that go by rank.

    Who was pruned later ranks higher; among those that answered as many items, who had the higher mean. Equals
    are told the same.

    Args:
        pruned: each one's scores so far, (items,).
        complete: fitness of the complete ones, (complete,); at least one.

    Returns: (pruned,), in the order of `pruned`.
    """
    keys = [(scores.size, float(scores.mean())) for scores in pruned]
    places = {key: place for place, key in enumerate(sorted(set(keys), reverse=True), start=1)}
    worst = float(complete.min())
    # Apart by more than rounding, also where a missed requirement puts the worst far below zero.
    step = 1e-3 * max(1.0, abs(worst))
    return np.array([worst - step * places[key] for key in keys], dtype=np.float64)


def with_defaults(options: Mapping[str, Any], defaults: Mapping[str, int]) -> dict[str, int]:
    """A pruner's whole-numbered options, those not given at their defaults.

    Raises: ConfigError for a name that isn't among the defaults, or a value that isn't a whole number of 1 or more.
    """
    for name, value in options.items():
        if name not in defaults:
            raise ConfigError(f"search.pruner_options.{name}: {unknown('option', name, defaults)}")
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"search.pruner_options.{name}: a whole number of 1 or more (found {value!r})")
    return {**defaults, **options}
