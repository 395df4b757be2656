"""CMA-ES with learning-rate adaptation over the `cmaes` package (Nomura et al. 2023, arXiv 2304.03473).

Learning slows down as far as noise hides the direction, so that the population needn't grow with the noise. Points
outside the unit cube are mirrored at its faces.
"""

from __future__ import annotations

import numpy as np
from cmaes import CMA
from numpy.typing import NDArray

from evomerge.algorithms.base import Proposer
from evomerge.algorithms.unit_cube import Point, UnitCube, folded, unfolded
from evomerge.space.base import Genome
from evomerge.streams import derive


class LearningRateAdaptation(Proposer):
    """CMA-ES whose learning rates follow the signal-to-noise ratio of its updates; for noisy fitness."""

    name = "cma_lra"
    min_population = 4
    generations_to_lead = 60

    def _start(self) -> None:
        self._cube = UnitCube(self.dimensions)
        self._strategy = CMA(
            mean=self._cube.initial.copy(),
            sigma=self.step_size,
            cov=np.diag([float(dimension.step) ** 2 for dimension in self.dimensions]),
            seed=derive(self.seed, self.name, bits=32),
            population_size=self.population,
            lr_adapt=True,
        )
        self._points: list[Point] = []

    def _ask(self) -> list[Genome]:
        self._points = [self._strategy.ask() for _ in range(self.population)]
        return [self._cube.genome(folded(point)) for point in self._points]

    def _tell(self, genomes: list[Genome], fitness: NDArray[np.float64]) -> None:
        """Update the distribution. The package minimises, hence the sign."""
        self._strategy.tell(
            [
                (self._drawn(genome, point), -float(value))
                for genome, point, (value,) in zip(genomes, self._points, fitness, strict=True)
            ]
        )

    def _drawn(self, genome: Genome, point: Point) -> Point:
        """The point that was drawn for a genome, moved as far as what was evaluated differs from what was asked."""
        asked = self._cube.genome(folded(point))
        return unfolded(self._cube.point(genome), self._cube.point(asked), point)

    def mean(self) -> Genome:
        """The distribution's mean, inside the bounds."""
        return self._cube.genome(folded(self._strategy.mean))
