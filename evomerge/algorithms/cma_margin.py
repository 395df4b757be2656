"""CMA-ES with margin over the `cmaes` package: whole numbers and choices beside coefficients.

Whole numbers are a rounded normal variable whose chance of leaving the present value never falls below a margin
(Hamano et al. 2022, arXiv 2205.13482), choices a categorical distribution with a margin of its own (Hamano et al. 2025,
CatCMA with Margin, arXiv 2504.07884). Continuous coefficients outside their range are mirrored at its ends.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from cmaes import CatCMAwM
from numpy.typing import NDArray

from evomerge.algorithms.base import Proposer
from evomerge.algorithms.unit_cube import UnitCube, folded, unfolded
from evomerge.space.base import DIMENSION_KINDS, Dimension, DimensionKind, Genome, settled
from evomerge.streams import derive

_Solution = Any
"""What the package draws: continuous, whole and categorical variables apart."""


class Margin(Proposer):
    """CMA-ES with margin, for spaces with whole numbers, choices and conditions.

    A dimension that doesn't matter at a point is drawn all the same, and its value there teaches nothing wrong: it is
    selected by chance.
    """

    name = "cma_margin"
    kinds = frozenset(DIMENSION_KINDS)
    conditional = True
    min_population = 4

    def _start(self) -> None:
        by_kind: dict[DimensionKind, list[int]] = {
            kind: [place for place, item in enumerate(self.dimensions) if item.kind == kind] for kind in DIMENSION_KINDS
        }
        self._continuous, self._whole, self._choices = (
            np.array(by_kind[kind], dtype=np.intp) for kind in ("continuous", "integer", "categorical")
        )
        self._cube = UnitCube([self.dimensions[place] for place in self._continuous])
        whole = [self.dimensions[place] for place in self._whole]
        choices = [self.dimensions[place] for place in self._choices]
        ranges = [1.0] * len(self._continuous) + [item.high - item.low for item in whole]
        steps = [self.dimensions[place].step for place in (*self._continuous, *self._whole)]
        # Without bounds: those of coefficients are kept by mirroring, those of whole numbers by the list of values.
        self._strategy = CatCMAwM(
            x_space=[[-np.inf, np.inf] for _ in self._continuous] or None,
            z_space=[[float(value) for value in range(int(item.low), int(item.high) + 1)] for item in whole] or None,
            c_space=[len(item.choices) for item in choices] or None,
            population_size=self.population,
            mean=np.concatenate([self._cube.initial, [float(item.initial) for item in whole]]),
            sigma=self.step_size,
            cov=np.diag((np.array(ranges) * np.array(steps)) ** 2),
            cat_param=_chances(choices) if choices else None,
            seed=derive(self.seed, self.name, bits=32),
        )
        self._drawn: list[_Solution] = []

    def _ask(self) -> list[Genome]:
        self._drawn = [self._strategy.ask() for _ in range(self.population)]
        return [self._genome(one.x, one.z, one.c) for one in self._drawn]

    def _tell(self, genomes: list[Genome], fitness: NDArray[np.float64]) -> None:
        """Update the distributions by rank: the package's penalties for bounds would take fitness for distances."""
        ranks = np.empty(len(genomes))
        ranks[np.argsort(-fitness[:, 0], kind="stable")] = np.arange(len(genomes))
        self._strategy.tell(
            [
                (self._moved(genome, one), float(rank))
                for genome, one, rank in zip(genomes, self._drawn, ranks, strict=True)
            ]
        )

    def _moved(self, genome: Genome, drawn: _Solution) -> _Solution:
        """What was drawn, moved as far as the coefficients that were evaluated differ from those asked."""
        if not self._continuous.size:
            return drawn
        count = len(self._continuous)
        asked = settled(self.dimensions, self._genome(drawn.x, drawn.z, drawn.c))
        raw = drawn._v_raw.copy()
        raw[:count] = unfolded(
            self._cube.point(genome[self._continuous]), self._cube.point(asked[self._continuous]), raw[:count]
        )
        return CatCMAwM.Solution(drawn.x, drawn.z, drawn.c, raw)

    def mean(self) -> Genome:
        """The mean of coefficients and whole numbers, and the likeliest choices."""
        # The package gives out the distribution only by drawing from it.
        strategy, count = self._strategy, len(self._continuous)
        whole = strategy._discretization(strategy._mean[count:]) if self._whole.size else None
        point = strategy._mean[:count] if count else None
        return settled(self.dimensions, self._genome(point, whole, strategy._q if self._choices.size else None))

    def _genome(self, point: Any, whole: Any, choices: Any) -> Genome:
        """One genome of the three kinds' values; the choice is the largest of each row."""
        genome = np.zeros(len(self.dimensions))
        if self._continuous.size:
            genome[self._continuous] = self._cube.genome(folded(point))
        if self._whole.size:
            genome[self._whole] = whole
        if self._choices.size:
            genome[self._choices] = np.argmax(choices, axis=1)
        return genome


def _chances(choices: list[Dimension]) -> NDArray[np.float64]:
    """First chances of each choice, (dimensions, most choices): half for the initial one, the others alike."""
    chances = np.zeros((len(choices), max(len(item.choices) for item in choices)))
    for row, item in zip(chances, choices, strict=True):
        row[: len(item.choices)] = 0.5 / (len(item.choices) - 1)
        row[int(item.initial)] = 0.5
    return chances
