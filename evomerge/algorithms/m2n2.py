"""M2N2: parents that complement each other, mixed at a split point (Abrantes et al. 2025, Competition and Attraction
Improve Model Fusion, arXiv 2508.16204).

The paper mixes the flat weights of two models: one share before a point, the other after it. Where a merge is linear in
its coefficients, the same share of two merges is a merge with that share of their coefficients; so the point lies
between groups of tensors here, in their order, and coefficients are mixed linearly where the paper takes arcs.

Knows scores of items. Does not know what the items are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from evomerge.algorithms.base import Proposer
from evomerge.errors import ConfigError
from evomerge.space.base import DIMENSION_KINDS, Genome
from evomerge.streams import stream


class M2N2(Proposer):
    """An archive of merges that compete for items, and mate with those that are strong where they are weak.

    An item's worth is shared among the archive by scores, so one that few get right counts more; the least fit leaves.
    The first parent is drawn by fitness, the second by what it gains over the first on each item. The first candidates,
    as many as the archive holds, are drawn around the start.

    Options: `archive` (merges that are kept, default 20), `competition` (exponent of an item's total, default 1; 0:
    items aren't shared, a plain genetic algorithm), `attraction` (choose the second parent by its gains, default true;
    false: by fitness), `mutation` (standard deviation as a fraction of each range, default 0.02).
    """

    name = "m2n2"
    kinds = frozenset(DIMENSION_KINDS)
    conditional = True
    asynchronous = True
    learns_items = True
    generations_to_lead = 40
    options: ClassVar[Mapping[str, type]] = {
        "archive": int,
        "competition": float,
        "attraction": bool,
        "mutation": float,
    }

    def _start(self) -> None:
        self._most = int(self.option.get("archive", 20))
        self._mutation = float(self.option.get("mutation", 0.02))
        if self._most < 2:
            raise ConfigError(f"search.options.archive: two parents are needed, so at least 2 (found {self._most})")
        if not 0.0 <= self._mutation <= 1.0:
            raise ConfigError(f"search.options.mutation: expected a share of 0 to 1 (found {self._mutation:g})")
        self._generator = stream(self.seed, self.name)
        self._low = np.array([item.low for item in self.dimensions], dtype=np.float64)
        self._high = np.array([item.high for item in self.dimensions], dtype=np.float64)
        self._step = np.array([item.step for item in self.dimensions], dtype=np.float64) * (self._high - self._low)
        self._is_choice = np.array([item.kind == "categorical" for item in self.dimensions])
        self._is_whole = np.array([item.kind != "continuous" for item in self.dimensions])
        groups = [item.group or item.name for item in self.dimensions]
        self._groups = list(dict.fromkeys(groups))
        self._place = np.array([self._groups.index(group) for group in groups])
        self._merges: list[Genome] = []
        self._scores: list[NDArray[np.float64]] = []
        self._drawn = 0

    def _ask(self) -> list[Genome]:
        return [self._ask_one(number) for number in range(self.population)]

    def _tell(self, genomes: list[Genome], fitness: NDArray[np.float64]) -> None:
        for genome, scores in zip(genomes, fitness if self.scores is None else self.scores, strict=True):
            self._keep(genome, scores)

    def _ask_one(self, number: int) -> Genome:
        self._drawn += 1
        if self._drawn == 1:
            return np.array([float(item.initial) for item in self.dimensions])
        if self._drawn <= self._most or len(self._merges) < 2:
            start = np.array([float(item.initial) for item in self.dimensions])
            return self._varied(start, 2 * self.step_size)
        return self._varied(self._child(), self._mutation)

    def _tell_one(self, number: int, genome: Genome, fitness: NDArray[np.float64]) -> None:
        self._keep(genome, fitness if self.scores is None else self.scores[0])

    def _keep(self, genome: Genome, scores: NDArray[np.float64]) -> None:
        """Take a merge into the archive, which the least fit leaves; one without scores has no part in it."""
        if not np.all(np.isfinite(scores)):
            return
        self._merges.append(genome)
        self._scores.append(np.array(scores, dtype=np.float64))
        if len(self._merges) > self._most:
            least = int(np.argmin(self._shares().sum(axis=1)))
            del self._merges[least], self._scores[least]

    def _shares(self) -> NDArray[np.float64]:
        """What each merge of the archive has of each item's worth, (merges, items)."""
        scores = np.stack(self._scores)
        # Scores such as distances may be below 0; a share can't be.
        scores = scores - np.minimum(0.0, scores.min(axis=0))
        total = scores.sum(axis=0) ** float(self.option.get("competition", 1.0))
        shares: NDArray[np.float64] = np.divide(scores, total, out=np.zeros_like(scores), where=total > 0)
        return shares

    def _child(self) -> Genome:
        """Two parents mixed by one share before a point and by the other after it."""
        shares = self._shares()
        fitness = shares.sum(axis=1)
        first = self._chosen(fitness, ~np.zeros(len(fitness), dtype=bool))
        others = np.arange(len(fitness)) != first
        gains = np.maximum(0.0, shares - shares[first]).sum(axis=1)
        second = self._chosen(gains if self.option.get("attraction", True) else fitness, others)
        point, share = self._generator.integers(len(self._groups) + 1), self._generator.uniform()
        of_first = np.where(self._place < point, share, 1.0 - share)
        one, other = self._merges[first], self._merges[second]
        mixed = of_first * one + (1.0 - of_first) * other
        child: Genome = np.where(self._is_choice, np.where(of_first >= 0.5, one, other), mixed)
        return child

    def _chosen(self, weights: NDArray[np.float64], allowed: NDArray[np.bool_]) -> int:
        """A place drawn by weight among those allowed; evenly if none has any."""
        weights = np.where(allowed, weights, 0.0)
        weights = weights if weights.sum() > 0 else allowed.astype(np.float64)
        return int(self._generator.choice(len(weights), p=weights / weights.sum()))

    def _varied(self, genome: Genome, size: float) -> Genome:
        """A genome with a normal step in each dimension; a choice is drawn anew as often as the step is large."""
        normal = self._generator.standard_normal(len(genome))
        anew = self._generator.uniform(size=(2, len(genome)))
        moved = np.clip(genome + size * self._step * normal, self._low, self._high)
        drawn = self._low + np.floor(anew[0] * (self._high - self._low + 1))
        moved = np.where(self._is_choice, np.where(anew[1] < size, np.minimum(drawn, self._high), genome), moved)
        return np.where(self._is_whole, np.clip(np.rint(moved), self._low, self._high), moved)
