"""A search algorithm as another package would bring it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evomerge.algorithms.base import Proposer
from evomerge.space.base import Genome


class Wandering(Proposer):
    """Draws from a generator of its own, and learns nothing."""

    name = "wandering"
    learns = False
    max_objectives = None

    def _start(self) -> None:
        self.generator = np.random.default_rng(self.seed)

    def _ask(self) -> list[Genome]:
        ends = np.array([(item.low, item.high) for item in self.dimensions])
        return list(self.generator.uniform(ends[:, 0], ends[:, 1], (self.population, len(ends))))

    def _tell(self, genomes: list[Genome], fitness: NDArray[np.float64]) -> None: ...
