"""CMA-ES over the `cma` package (Hansen 2016, The CMA Evolution Strategy: A Tutorial, arXiv 1604.00772).

Works in the unit cube, so every coefficient is scaled by its range. Draws from a stream of its own.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from evomerge.algorithms.base import Proposer
from evomerge.algorithms.restarts import RESTARTS, Restarts
from evomerge.algorithms.unit_cube import Point, UnitCube
from evomerge.errors import ConfigError, unknown
from evomerge.space.base import Dimension, Genome
from evomerge.streams import stream


@contextmanager
def _without(*modules: str) -> Iterator[None]:
    """Within, modules that aren't loaded yet can't be; what can do without them does."""
    hidden = [module for module in modules if module not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for module in hidden:
            del sys.modules[module]


# pycma would load them for shortcuts at a prompt and for its surrogate models, which takes longer than all the rest of
# it. Its plots load Matplotlib by themselves, and it has a rank correlation of its own.
with warnings.catch_warnings(), _without("matplotlib", "scipy.stats"):
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
# With restarts pycma's own criteria say when a run is over, but for those that one flat generation meets; a
# ten-thousandth of a coefficient's range is as good as no step.
_STOP = {key: value for key, value in _NEVER_STOP.items() if key not in {"tolfunhist", "tolstagnation"}} | {
    "tolx": 1e-4
}
_OPTIONS = {"active": "CMA_active", "diagonal": "CMA_diagonal", "elitist": "CMA_elitist"}


def settings_of(
    dimensions: Sequence[Dimension],
    population: int,
    generator: np.random.Generator,
    stop: Mapping[str, Any] = _NEVER_STOP,
) -> dict[str, Any]:
    """Options of pycma for a strategy in the unit cube that draws from a generator of its own, without a word.

    Args:
        dimensions: of the cube, for their first steps.
        population: candidates in a generation.
        generator: of all that is drawn.
        stop: stopping criteria by name.
    """
    settings: dict[str, Any] = {
        "popsize": population,
        "bounds": [0.0, 1.0],
        "randn": lambda *shape: generator.standard_normal(shape),
        "seed": math.nan,
        "verbose": -9,
        "verb_log": 0,
        "verb_disp": 0,
        **stop,
    }
    if any(dimension.step != 1.0 for dimension in dimensions):
        settings["CMA_stds"] = [dimension.step for dimension in dimensions]
    return settings


class CMAES(Proposer):
    """CMA-ES with bounds and a private random stream.

    Asked for one candidate at a time, it draws each from the present distribution, and updates that whenever as many
    as a population have been told; those that were drawn from an earlier one count with them.

    Options: `active` (negative covariance updates, default true), `diagonal` (a diagonal covariance
    throughout, which is separable CMA-ES), `elitist` (keep the best solution in the update), `restarts` (`none`, the
    default, has no stopping criteria; `ipop` starts again elsewhere with twice the population when a run is over, and
    `bipop` with small populations between).
    """

    name = "cma"
    min_dimensions = 2
    min_population = 2
    varies = True
    asynchronous = True
    takes_others = True
    options: ClassVar[Mapping[str, type]] = {**dict.fromkeys(_OPTIONS, bool), "restarts": str}

    def _start(self) -> None:
        regime = self.option.get("restarts", "none")
        if regime not in RESTARTS:
            raise ConfigError(f"search.options.restarts: {unknown('way to start again', regime, RESTARTS)}")
        self._cube = UnitCube(self.dimensions)
        self._generator = stream(self.seed, "cma")
        self._uniform = stream(self.seed, "cma", "restarts")
        self._restarts: Restarts | None = None
        if regime != "none":
            self._restarts = Restarts(
                regime,
                population=self.population,
                step_size=self.step_size,
                least=self.min_population,
                generator=self._uniform,
            )
        self._points: list[Point] = []
        self._drawn: dict[int, tuple[int, Point]] = {}
        self._run = 0
        self._best = -math.inf
        self._best_mean: Point | None = None
        self._begin(self._cube.initial, self.population, self.step_size, math.inf)

    def _begin(self, initial: Point, population: int, step_size: float, most: float) -> None:
        """Start a run of at most so many evaluations."""
        self._run += 1
        self._told: list[tuple[Point, float]] = []
        self._ahead: list[Point] = []
        self._has_drawn = False
        stop = _NEVER_STOP if self._restarts is None else _STOP
        settings = settings_of(self.dimensions, population, self._generator, stop)
        settings |= {_OPTIONS[name]: value for name, value in self.option.items() if name in _OPTIONS}
        self._strategy = cma.CMAEvolutionStrategy(initial, step_size, settings)
        self._size, self._most = population, most

    @property
    def size(self) -> int:
        """The population of the present run."""
        return self._size

    def _ask(self) -> list[Genome]:
        self._points = [np.asarray(point) for point in self._strategy.ask()]
        return [self._cube.genome(point) for point in self._points]

    def _tell(self, genomes: list[Genome], fitness: NDArray[np.float64]) -> None:
        points = [self._asked_as(genome, point) for genome, point in zip(genomes, self._points, strict=True)]
        self._learn(points, fitness[:, 0])

    def _ask_one(self, number: int) -> Genome:
        if not self._ahead:
            self._draw_ahead()
        point = self._ahead.pop(0)
        self._drawn[number] = self._run, point
        return self._cube.genome(point)

    def _draw_ahead(self) -> None:
        """Draw a population from the present distribution. pycma doesn't go on from single draws alone."""
        self._ahead = [np.asarray(point) for point in self._strategy.ask()]
        self._has_drawn = True

    def _tell_one(self, number: int, genome: Genome, fitness: NDArray[np.float64]) -> None:
        """Keep a result until there are as many as a population; those of a run that is over teach nothing."""
        run, point = self._drawn.pop(number)
        if run != self._run:
            return
        self._told.append((self._asked_as(genome, point), float(fitness[0])))
        if len(self._told) < self._size:
            return
        if not self._has_drawn:
            # pycma learns only once after each draw.
            self._draw_ahead()
        told, self._told, self._ahead, self._has_drawn = self._told, [], [], False
        self._learn([point for point, _ in told], np.array([value for _, value in told]))

    def _asked_as(self, genome: Genome, point: Point) -> Point:
        """The point of a genome: pycma treats one that it didn't ask as injected, so what it did ask is unchanged."""
        return point if np.array_equal(genome, self._cube.genome(point)) else self._cube.point(genome)

    def _learn(self, points: list[Point], fitness: NDArray[np.float64]) -> None:
        """Update the distribution. pycma minimises, hence the sign."""
        self._strategy.tell(points, (-fitness).tolist())
        if self._restarts is not None:
            self._go_on(self._restarts, float(np.median(fitness)))

    def _go_on(self, restarts: Restarts, level: float) -> None:
        """Start again if the run is over, and keep its mean if none before ended on a higher median fitness."""
        spent = int(self._strategy.countevals)
        if not self._strategy.stop() and spent < self._most:
            return
        if level > self._best:
            self._best, self._best_mean = level, np.asarray(self._strategy.result.xfavorite)
        self._begin(self._uniform.uniform(size=len(self.dimensions)), *restarts.next(spent))

    def mean(self) -> Genome:
        """The distribution's mean, inside the bounds; after restarts, that of the best run that has ended."""
        mean = self._strategy.result.xfavorite if self._best_mean is None else self._best_mean
        return self._cube.genome(np.asarray(mean))
