"""COMO-CMA-ES over the `comocma` package (Touré et al. 2019, Uncrowded Hypervolume Improvement: COMO-CMA-ES and the
Sofomore Framework, arXiv 1904.08823).

Several CMA-ES, one for each point of the front that is looked for. Each in turn is told what its candidates would add
to the hypervolume that the others' means have, or how far they are from the front if they add nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from evomerge.algorithms.base import Proposer
from evomerge.algorithms.cma_es import settings_of
from evomerge.algorithms.unit_cube import Point, UnitCube
from evomerge.errors import ConfigError, MissingPackageError
from evomerge.space.base import Genome
from evomerge.streams import stream


class COMO(Proposer):
    """COMO-CMA-ES, for a front of two or three objectives; with one, CMA-ES that also evaluates its mean.

    A generation is one strategy's mean and, for the rest, its candidates; the first one has the means of all. The first
    strategy starts where the search does, the others anywhere. Objectives are measured in the ranges of the first
    generation, and hypervolume from the worst of each that was seen.

    Options: `points` (of the front, a strategy for each, default 5).
    """

    name = "como"
    min_dimensions = 2
    min_population = 3
    max_objectives: ClassVar[int | None] = 3
    varies = True
    generations_to_lead = 60
    options: ClassVar[Mapping[str, type]] = {"points": int}

    def _start(self) -> None:
        points = int(self.option.get("points", 5))
        if points < 1:
            raise ConfigError(f"search.options.points: expected at least 1 (found {points})")
        try:
            import comocma
        except ImportError as error:
            raise MissingPackageError(
                "search.algorithm: como needs the package comocma; install it: pip install 'evomerge[como]'"
            ) from error
        self._cube = UnitCube(self.dimensions)
        elsewhere, order = stream(self.seed, self.name, "starts"), stream(self.seed, self.name, "order")
        starts = [self._cube.initial, *elsewhere.uniform(size=(points - 1, len(self.dimensions)))]
        strategies = []
        for number, start in enumerate(starts if self.objectives > 1 else starts[:1]):
            draws = stream(self.seed, self.name, number)
            settings = settings_of(self.dimensions, self.population - 1, draws)
            strategies.append(comocma.CmaKernel(start, self.step_size, settings))
        options = {"archive": False, "update_order": lambda _: order.uniform(), "verb_log": 0}
        self._strategies = comocma.Sofomore(strategies, opts=options)
        self._points: list[Point] = []
        self._scale: NDArray[np.float64] | None = None
        self._worst = np.full(self.objectives, -math.inf)

    @property
    def size(self) -> int:
        """The population; in the first generation more, since all strategies' means are in it."""
        return self.population if self._scale is not None else self.population - 1 + len(self._strategies)

    def _ask(self) -> list[Genome]:
        self._points = [np.asarray(point) for point in self._strategies.ask()]
        return [self._cube.genome(point) for point in self._points]

    def _tell(self, genomes: list[Genome], fitness: NDArray[np.float64]) -> None:
        """Update one strategy. The package minimises, hence the signs."""
        if self._scale is None:
            extent = np.ptp(fitness, axis=0)
            self._scale = np.where(extent > 0, extent, 1.0)
        losses = -fitness / self._scale
        self._worst = np.maximum(self._worst, losses.max(axis=0))
        twice = 2 if self.objectives == 1 else 1  # one objective as two that are alike: the better adds the more
        self._strategies.reference_point = self._worst.tolist() * twice
        self._strategies.tell(self._points, [loss.tolist() * twice for loss in losses])
