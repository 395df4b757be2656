"""When an evolution strategy that has come to an end starts again, with which population and step size.

IPOP doubles the population each time (Auger & Hansen 2005, A Restart CMA Evolution Strategy With Increasing
Population Size). BIPOP gives as many evaluations to small populations with small steps between (Hansen 2009,
Benchmarking a BI-Population CMA-ES on the BBOB-2009 Function Testbed).

Knows populations and evaluations. Does not know the strategy, nor why it ended.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

RESTARTS = ("none", "ipop", "bipop")
GROWTH = 2
_LARGEST = GROWTH**9
"""Over the first population. Both papers start again nine times at most."""


class Start(NamedTuple):
    """One run of a strategy."""

    population: int
    step_size: float
    most: float
    """Evaluations after which it ends at the latest."""


class Restarts:
    """The runs of a strategy, one after another.

    Args:
        regime: "ipop" or "bipop".
        population: of the first run.
        step_size: of the first run.
        least: the smallest population that the strategy takes.
        generator: of what BIPOP draws.
    """

    def __init__(
        self, regime: str, *, population: int, step_size: float, least: int, generator: np.random.Generator
    ) -> None:
        self._alternates = regime == "bipop"
        self._population, self._step_size, self._least = population, step_size, least
        self._generator = generator
        self._large = population
        self._spent = {"large": 0, "small": 0}
        self._last_large = 0
        self._now = "large"

    def next(self, evaluations: int) -> Start:
        """The run after one that took so many evaluations."""
        self._spent[self._now] += evaluations
        if self._now == "large":
            self._last_large = evaluations
        if self._alternates and self._spent["small"] < self._spent["large"]:
            self._now = "small"
            # Between the first population and half of the largest so far, the small ones oftener.
            exponent = float(self._generator.uniform()) ** 2
            population = math.floor(self._population * (0.5 * self._large / self._population) ** exponent)
            step_size = self._step_size * 10 ** (-2 * float(self._generator.uniform()))
            return Start(max(self._least, population), step_size, self._last_large / 2)
        self._now = "large"
        self._large = min(self._large * GROWTH, self._population * _LARGEST)
        return Start(self._large, self._step_size, math.inf)
