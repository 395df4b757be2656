"""The seam of pruners: scores of items in, a decision out.

A pruner is asked after each block of items but the last: either of one candidate at a time, which it compares with
earlier ones (`Pruner`), or of a whole generation, once all of it that are still in have answered as many blocks
(`GenerationPruner`). It knows scores only: no recipes, trials or files. It is deterministic and remembers nothing, so
that a search which was interrupted decides as one that wasn't.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import ConfigError
from evomerge.options import ABOVE_ZERO
from evomerge.options import with_defaults as options_or_defaults

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What is known of a generation beside the scores of those that are still in."""

    candidates: int
    """How many it began with."""
    needed: int
    """How many of its best the search needs to know well: those that the algorithm learns from, and the shortlist."""
    items: int
    """That a candidate answers if it isn't stopped."""


@runtime_checkable
class GenerationPruner(Protocol):
    """Decides after each block which candidates of a generation answer the next.

    Built with its options by name. Raises: ConfigError for options that it doesn't have, or can't use.
    """

    def __init__(self, options: Mapping[str, Any]) -> None: ...

    def survivors(self, scores: Scores, at: Round) -> NDArray[np.bool_]:
        """Which candidates answer the next block.

        Args:
            scores: of those still in on the same items, (candidates, items), finite, higher being better; at least
                two candidates, in any order. A row's mean is a candidate's score so far.
            at: what else is known of the generation.

        Returns: (candidates,), in the order of `scores`; at least one goes on.
        """

    def told(self, pruned: Sequence[Scores], complete: Scores) -> Scores:
        """As a `Pruner` has it."""


def among_best(scores: Scores, needed: int, behind: Callable[[Scores], NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """Which candidates fewer rivals than `needed` are shown to be better than.

    Args:
        scores: (candidates, items).
        needed: how many of the best are wanted.
        behind: which candidates a rival is shown to be better than, (candidates,), by its scores minus each of theirs,
            (candidates, items); not itself.

    Returns: (candidates,).
    """
    better = np.zeros(len(scores), dtype=np.int64)
    if len(scores) > needed:
        for rival in scores:
            # One rival at a time: all pairs with all their items may be more than memory holds.
            better += behind(rival - scores)
    return better < needed


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


def with_defaults(options: Mapping[str, Any], defaults: Mapping[str, float]) -> dict[str, float]:
    """A pruner's options, those not given at their defaults.

    Args:
        options: as given.
        defaults: by name; where the default is a whole number, so is the option, and 1 or more; any other is above 0.

    Raises: ConfigError for a name that isn't among the defaults, or a value that isn't such a number.
    """
    return options_or_defaults("search.pruner_options", options, defaults, others=ABOVE_ZERO)


def below_one(name: str, value: float) -> float:
    """The value of an option that is a share. Raises: ConfigError if it isn't below 1."""
    if value >= 1:
        raise ConfigError(f"search.pruner_options.{name}: a number between 0 and 1 (found {value!r})")
    return value
