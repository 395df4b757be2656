"""CMA-ES over the `cma` package (Hansen 2016, The CMA Evolution Strategy: A Tutorial, arXiv 1604.00772).

Works in the unit cube, so every coefficient is scaled by its range. Draws from a stream of its own.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from evomerge.algorithms.base import Proposer
from evomerge.space.base import Genome
from evomerge.streams import stream

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import cma

# Stopping criteria are switched off: on a coarse accuracy one flat generation would end the search.
_NEVER_STOP: dict[str, Any] = {
    "tolfun": 0,
    "tolfunhist": 0,
    "tolfunrel": 0,
    "tolx": 0,
    "tolflatfitness": math.inf,
    "tolstagnation": math.inf,
    "maxiter": math.inf,
    "maxfevals": math.inf,
}
_OPTIONS = {"active": "CMA_active", "diagonal": "CMA_diagonal", "elitist": "CMA_elitist"}


class CMAES(Proposer):
    """CMA-ES with bounds, a private random stream and no stopping criteria.

    Options: `active` (negative covariance updates, default true), `diagonal` (a diagonal covariance
    throughout), `elitist` (keep the best solution in the update).
    """

    name = "cma"
    min_dimensions = 2
    min_population = 2
    options: ClassVar[Mapping[str, type]] = dict.fromkeys(_OPTIONS, bool)

    def _start(self) -> None:
        self._low = np.array([dimension.low for dimension in self.dimensions])
        self._high = np.array([dimension.high for dimension in self.dimensions])
        self._range = self._high - self._low
        initial = (np.array([dimension.initial for dimension in self.dimensions]) - self._low) / self._range
        normal = stream(self.seed, "cma").standard_normal
        settings: dict[str, Any] = {
            "popsize": self.population,
            "bounds": [0.0, 1.0],
            "randn": lambda *shape: normal(shape),
            "seed": math.nan,
            "verbose": -9,
            "verb_log": 0,
            "verb_disp": 0,
            **_NEVER_STOP,
            **{_OPTIONS[name]: value for name, value in self.option.items()},
        }
        if any(dimension.step != 1.0 for dimension in self.dimensions):
            settings["CMA_stds"] = [dimension.step for dimension in self.dimensions]
        self._strategy = cma.CMAEvolutionStrategy(initial, self.step_size, settings)
        self._points: list[NDArray[np.float64]] = []

    def _ask(self) -> list[Genome]:
        self._points = [np.asarray(point) for point in self._strategy.ask()]
        return [self._to_coefficients(point) for point in self._points]

    def _tell(self, genomes: list[Genome], fitness: NDArray[np.float64]) -> None:
        """Update the distribution. pycma minimises, hence the sign."""
        # pycma treats points that it didn't ask as injected ones, so those it did ask go back unchanged.
        points = [
            point
            if np.array_equal(genome, self._to_coefficients(point))
            else np.clip((genome - self._low) / self._range, 0.0, 1.0)
            for genome, point in zip(genomes, self._points, strict=True)
        ]
        self._strategy.tell(points, (-fitness[:, 0]).tolist())

    def mean(self) -> Genome:
        """The distribution's mean, inside the bounds."""
        return self._to_coefficients(np.asarray(self._strategy.result.xfavorite))

    def _to_coefficients(self, point: NDArray[np.float64]) -> Genome:
        # Where low + 1 * (high - low) is rounded past high, it is high.
        genome: Genome = np.minimum(self._low + np.clip(point, 0.0, 1.0) * self._range, self._high)
        return genome
