"""An algorithm of another package, CMA-ES with restarts, and a sampler by its path.

Laws have other processes import this, so it imports no more than they need.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.algorithms.base import Proposer
from evomerge.algorithms.cma_es import CMAES
from evomerge.algorithms.sampler_path import sampler_proposer
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


class Ipop(CMAES):
    """With `active`, `diagonal`, `elitist` and `restarts`, which double the population."""

    def __init__(self, *arguments: Any, options: dict[str, Any] | None = None, **settings: Any) -> None:
        super().__init__(*arguments, options={"restarts": "ipop", **(options or {})}, **settings)


class Bipop(CMAES):
    """With `active`, `diagonal`, `elitist` and `restarts`, of large and small populations."""

    def __init__(self, *arguments: Any, options: dict[str, Any] | None = None, **settings: Any) -> None:
        super().__init__(*arguments, options={"restarts": "bipop", **(options or {})}, **settings)


ByPath = sampler_proposer("optuna:optuna.samplers:CmaEsSampler")
ByPath.__module__, ByPath.__name__ = __name__, "ByPath"
