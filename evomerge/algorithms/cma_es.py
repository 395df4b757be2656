"""CMA-ES over the `cma` package (Hansen 2016, The CMA Evolution Strategy: A Tutorial, arXiv 1604.00772).

Works in the unit cube, so every coefficient is scaled by its range. Draws from a stream of its own.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import ConfigError, unknown
from evomerge.space.base import Dimension, Genome
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
_OPTIONS = {"active": ("CMA_active", True), "diagonal": ("CMA_diagonal", False), "elitist": ("CMA_elitist", False)}


class CMAES:
    """CMA-ES with bounds, a private random stream and no stopping criteria.

    Options: `active` (negative covariance updates, default true), `diagonal` (a diagonal covariance
    throughout), `elitist` (keep the best solution in the update).
    """

    def __init__(
        self,
        dimensions: Sequence[Dimension],
        *,
        seed: int,
        population: int,
        step_size: float,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if len(dimensions) == 1:
            raise ConfigError("search.algorithm: cma needs at least two dimensions; use tpe or random for one")
        self.population = population
        self._low = np.array([dimension.low for dimension in dimensions])
        self._range = np.array([dimension.high for dimension in dimensions]) - self._low
        initial = (np.array([dimension.initial for dimension in dimensions]) - self._low) / self._range
        normal = stream(seed, "cma").standard_normal
        settings: dict[str, Any] = {
            "popsize": population,
            "bounds": [0.0, 1.0],
            "randn": lambda *shape: normal(shape),
            "seed": math.nan,
            "verbose": -9,
            "verb_log": 0,
            "verb_disp": 0,
            **_NEVER_STOP,
        }
        for name, value in (options or {}).items():
            if name not in _OPTIONS:
                raise ConfigError(f"search.options.{name}: {unknown('option of cma', name, _OPTIONS)}")
            if not isinstance(value, bool):
                raise ConfigError(f"search.options.{name}: expected true or false (found {value!r})")
            settings[_OPTIONS[name][0]] = value
        self._strategy = cma.CMAEvolutionStrategy(initial, step_size, settings)
        self._asked: list[Genome] | None = None
        self._points: list[NDArray[np.float64]] = []

    def ask(self) -> list[Genome]:
        """The next generation."""
        if self._asked is not None:
            raise RuntimeError("asked twice in a row: tell the fitness of the generation asked before")
        self._points = [np.asarray(point) for point in self._strategy.ask()]
        self._asked = [self._to_coefficients(point) for point in self._points]
        return [genome.copy() for genome in self._asked]

    def tell(self, genomes: list[Genome], fitness: NDArray[np.float64]) -> None:
        """Update the distribution. pycma minimises, hence the sign."""
        if self._asked is None:
            raise RuntimeError("told before asking")
        if not np.all(np.isfinite(fitness)):
            raise ValueError("fitness must be finite: decide what a failed candidate is worth before telling")
        # pycma treats points that it didn't ask as injected ones, so those it did ask go back unchanged.
        points = [
            point if np.array_equal(genome, asked) else np.clip((genome - self._low) / self._range, 0.0, 1.0)
            for genome, asked, point in zip(genomes, self._asked, self._points, strict=True)
        ]
        self._strategy.tell(points, (-fitness).tolist())
        self._asked = None

    def mean(self) -> Genome:
        """The distribution's mean, inside the bounds."""
        return self._to_coefficients(np.asarray(self._strategy.result.xfavorite))

    def _to_coefficients(self, point: NDArray[np.float64]) -> Genome:
        genome: Genome = self._low + np.clip(point, 0.0, 1.0) * self._range
        return genome
