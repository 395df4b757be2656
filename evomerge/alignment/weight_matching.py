"""Weight matching: each model onto a reference, by the weights alone (Ainsworth et al. 2023, Git Re-Basin)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from evomerge.alignment.base import Alignment, Progress, Step, Weights
from evomerge.alignment.coordinate_ascent import Ascent, Counter, at_least
from evomerge.alignment.kinds.base import Map
from evomerge.alignment.spec import Maps, Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightMatching:
    """Maximises ⟨A, π(B)⟩ label by label until no label gains.

    Attributes:
        orders: how many times it is tried, each in another order of the labels; the best is kept. The first try
            starts from what is comparable at once and goes from there through the network; others start at random.
        rounds: passes over the labels in each try, at most.
        tolerance: the least gain that counts, as a share of what a label's tensors could agree in all.
    """

    name: ClassVar[str] = "weight_matching"
    summary: ClassVar[str] = "each model onto the reference, label by label, until nothing gains"

    orders: int = 1
    rounds: int = 100
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        """Raises: AlignmentError for options out of range."""
        at_least(self.name, 1, orders=self.orders, rounds=self.rounds)
        at_least(self.name, 0, tolerance=self.tolerance)

    def align(
        self,
        spec: Spec,
        models: Sequence[Weights],
        *,
        reference: int,
        generator: np.random.Generator,
        progress: Progress | None = None,
    ) -> Alignment:
        """As `Method.align`; the reference keeps the identity."""
        counter = Counter(progress)
        maps: list[Maps] = []
        history: list[Step] = []
        for place, model in enumerate(models):
            if place == reference:
                maps.append(spec.identity())
                continue
            found, steps = self._match(spec, models[reference], model, place, generator, counter)
            maps.append(found)
            history += steps
        return Alignment(maps=tuple(maps), history=tuple(history))

    def _match(
        self, spec: Spec, target: Weights, model: Weights, place: int, generator: np.random.Generator, counter: Counter
    ) -> tuple[dict[str, Map], list[Step]]:
        ascent = Ascent(spec, target, model, {}, tolerance=self.tolerance)
        best: tuple[float, dict[str, Map], list[Step]] | None = None
        for number in range(self.orders):
            steps = ascent.climb(
                place, generator, counter, rounds=self.rounds, start="connected" if number == 0 else "identity"
            )
            total = sum(step.gain for step in steps)
            if best is None or total > best[0]:
                best = total, ascent.maps, steps
        assert best is not None
        return best[1], best[2]
