"""What the dimensions of a space stand for: a coefficient over all groups, or the experts' shares of a sum.

Knows numbers, bounds and groups. Does not know recipes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from evomerge.space.base import Dimension, Genome
from evomerge.space.mixing import Mixing, unmixed

Values = Mapping[str | None, NDArray[np.float64]]
"""A method's coefficient in each group, shape (groups,), by expert, or for all: None."""

_REACH = 4.0
"""Bounds of the balances of shares, whose shares then reach from far below to far above all others."""


class Coordinate(ABC):
    """Some consecutive dimensions of a genome, and the coefficients that they make up.

    Attributes:
        name: of the method's coefficient.
        dimensions: the genome's.
        columns: where they are in it.
        experts: whose coefficients they are; None: one number for all.
    """

    name: str
    dimensions: tuple[Dimension, ...]
    columns: slice
    experts: tuple[str, ...] | None
    _mixing: Mixing

    @abstractmethod
    def values(self, genome: Genome) -> Values:
        """The coefficients that a genome stands for."""

    def idle(self, same: Mapping[str, NDArray[np.bool_]]) -> dict[int, int | None]:
        """The columns that change nothing, each with the nearest of the same kind that does, or None if none does.

        Args:
            same: whether a group's tensors are the base's, shape (groups,), by expert. A group where they are so for
                all experts of the coordinate doesn't depend on it.
        """
        still = np.logical_and.reduce([same[expert] for expert in self.experts or same])
        changes = (self._mixing[~still] > 0.0).any(axis=0)
        live, idle = np.flatnonzero(changes), np.flatnonzero(~changes).tolist()
        nearest = {column: int(live[np.abs(live - column).argmin()]) if live.size else None for column in idle}
        return {
            first + column: None if leader is None else first + leader
            for first in range(self.columns.start, self.columns.stop, len(changes))
            for column, leader in nearest.items()
        }

    @abstractmethod
    def nearest(self, values: Values) -> NDArray[np.float64]:
        """The dimensions, inside their bounds, whose coefficients are or come nearest to these, for every expert."""


class Free(Coordinate):
    """A coefficient of one expert, of some that share it, or of all, anywhere inside bounds.

    Args:
        name: of the coefficient.
        experts: whose it is; None: it is one number for all.
        low: bound.
        high: bound.
        initial: where the search starts.
        labels: of the dimensions.
        mixing: of the dimensions over the groups.
        first: place of the first dimension in the genome.
    """

    def __init__(
        self,
        name: str,
        experts: tuple[str, ...] | None,
        *,
        low: float,
        high: float,
        initial: float,
        labels: Sequence[str],
        mixing: Mixing,
        first: int,
    ) -> None:
        self.name, self.low, self.high = name, low, high
        self.columns = slice(first, first + mixing.shape[1])
        self.experts, self._mixing = experts, mixing
        whose = "+".join(experts or ())
        self.dimensions = tuple(
            Dimension(
                name=".".join(part for part in (name, whose, label) if part),
                low=low,
                high=high,
                initial=initial,
                group=label,
            )
            for label in labels
        )

    def values(self, genome: Genome) -> Values:
        """The same coefficients for all of its experts."""
        # Weights of a mixing sum to one, but their rounding could step past a bound.
        blended = np.clip(self._mixing @ genome[self.columns], self.low, self.high)
        return dict.fromkeys((None,) if self.experts is None else self.experts, blended)

    def nearest(self, values: Values) -> NDArray[np.float64]:
        """In least squares, after the mean of its experts."""
        rows = [*values.values()] if self.experts is None else [values[expert] for expert in self.experts]
        mean = rows[0] + sum(row - rows[0] for row in rows) / len(rows)
        return np.clip(unmixed(self._mixing, mean), self.low, self.high)


class Shares(Coordinate):
    """Positive coefficients of all experts that have a given sum in every group, one dimension fewer than experts.

    The dimensions are isometric log-ratios (Egozcue et al. 2003), by which the inside of the simplex is all of a plane:
    balance k says how much more the expert k + 1 has than those before it together, and 0 in all is equal shares.

    Args:
        name: of the coefficient.
        experts: in order.
        total: the sum.
        start: the experts' coefficients where the search starts; None: equal ones.
        labels: of one balance's dimensions.
        mixing: of one balance's dimensions over the groups.
        first: place of the first dimension in the genome.
    """

    def __init__(
        self,
        name: str,
        experts: tuple[str, ...],
        *,
        total: float,
        start: Mapping[str, float] | None,
        labels: Sequence[str],
        mixing: Mixing,
        first: int,
    ) -> None:
        self.name = name
        count = len(experts) - 1
        self.columns = slice(first, first + mixing.shape[1] * count)
        self.experts = self._names = experts
        self._total, self._mixing = total, mixing
        self._basis = _helmert(len(experts))
        initial = np.zeros(count) if start is None else self.balances(np.array([start[name] for name in experts]))
        self.dimensions = tuple(
            Dimension(
                name=".".join(part for part in (name, f"{expert}:{'+'.join(experts[:place])}", label) if part),
                low=-_REACH,
                high=_REACH,
                initial=float(initial[place - 1]),
                group=label,
            )
            for place, expert in enumerate(experts[1:], start=1)
            for label in labels
        )

    def balances(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """The balances of experts' weights along the first axis; as near as the bounds allow."""
        logs = np.log(np.maximum(weights, np.finfo(np.float64).tiny))
        found: NDArray[np.float64] = np.clip(self._basis @ logs, -_REACH, _REACH)
        return found

    def values(self, genome: Genome) -> Values:
        """Shares of the sum."""
        balances = genome[self.columns].reshape(len(self._names) - 1, -1) @ self._mixing.T
        logs = self._basis.T @ np.clip(balances, -_REACH, _REACH)
        shares = np.exp(logs - logs.max(axis=0))
        shares *= self._total / shares.sum(axis=0)
        return dict(zip(self._names, shares, strict=True))

    def nearest(self, values: Values) -> NDArray[np.float64]:
        """In least squares of the balances."""
        weights = np.stack([values[expert] for expert in self._names])
        found = [unmixed(self._mixing, balance) for balance in self.balances(weights)]
        return np.clip(np.concatenate(found), -_REACH, _REACH)


def _helmert(size: int) -> NDArray[np.float64]:
    """Orthonormal rows that sum to zero, shape (size - 1, size): entry k + 1 against the mean of those before it."""
    rows = np.zeros((size - 1, size))
    for row in range(size - 1):
        rows[row, : row + 1] = -1.0 / (row + 1)
        rows[row, row + 1] = 1.0
    normed: NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return normed
