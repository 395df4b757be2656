"""C2M3: maps of n models into one common place, all at once (Crisostomi et al. 2024, arXiv 2405.17897).

Each model has its maps into a universe; from model p to q one goes through it, M_q⁻¹·M_p, so a way round any cycle
comes back to where it began. Maximised is Σ_{p<q} ⟨U_p, U_q⟩ with U_m the mapped model m. As that is
½·(‖Σ_m U_m‖² − Σ_m ‖U_m‖²), each round costs as much as mapping every model once, whatever the number of pairs.

Permutations and heads are found by Frank-Wolfe over convex combinations of maps, then rounded; what rotates a
residual stream by generalised Procrustes; at the end each map is replaced by the best one given all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from evomerge.alignment.base import Alignment, Progress, Step, Weights
from evomerge.alignment.coordinate_ascent import at_least
from evomerge.alignment.kinds import Map, Orthogonal
from evomerge.alignment.kinds.base import Action
from evomerge.alignment.spec import Spec
from evomerge.alignment.universe import Mixture, Universe, towards


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleConsistent:
    """C2M3. All models are brought to a common place, and ways round a cycle return to where they began.

    Attributes:
        iterations: the most steps of Frank-Wolfe.
        tolerance: the least gain that counts, as a share of the objective, and then of what the tensors of one label
            could agree in all.
        patience: steps in a row without a gain after which it ends.
        normalise: whether every tensor counts alike, instead of by its squared norm.
        refine: whether the rounded maps are then improved one by one.
        rounds: the most rounds of that.
    """

    name: ClassVar[str] = "c2m3"
    summary: ClassVar[str] = "all models at once into a common place, consistent around cycles"

    iterations: int = 200
    tolerance: float = 1e-6
    patience: int = 5
    normalise: bool = False
    refine: bool = True
    rounds: int = 50

    def __post_init__(self) -> None:
        """Raises: AlignmentError for options out of range."""
        at_least(self.name, 0, iterations=self.iterations, tolerance=self.tolerance)
        at_least(self.name, 1, patience=self.patience, rounds=self.rounds)

    def align(
        self,
        spec: Spec,
        models: Sequence[Weights],
        *,
        reference: int,
        generator: np.random.Generator,
        progress: Progress | None = None,
    ) -> Alignment:
        """As `Method.align`; no model is special, so `reference` says nothing."""
        universe = Universe(spec, models, normalise=self.normalise)
        turning = [label for label, kind in spec.labels.items() if isinstance(kind, Orthogonal)]
        relaxed = [label for label in spec.labels if label not in turning and spec.places(label)]
        maps = [spec.identity() for _ in models]
        history = self._ascend(universe, maps, turning, generator)
        steps = self._frank_wolfe(universe, maps, relaxed, progress) if relaxed else 0
        rest = [*turning, *(relaxed if self.refine else [])]
        history += self._ascend(universe, maps, rest, generator, first=history[-1].round + 1 if history else 0)
        if progress is not None:
            progress(steps + 1, steps + 1)
        return Alignment(maps=tuple(maps), history=tuple(history))

    def _frank_wolfe(
        self, universe: Universe, maps: list[dict[str, Map]], labels: Sequence[str], progress: Progress | None
    ) -> int:
        """Put the best maps of the labels into `maps`, by steps from those that are there; the number of steps."""
        spec = universe.spec
        mixed: list[dict[str, Action]] = [
            {**own, **{label: universe.mixture(label, own[label]) for label in labels}} for own in maps
        ]
        idle = steps = 0
        while steps < self.iterations and idle < self.patience:
            steps += 1
            if progress is not None:
                progress(steps, self.iterations + 1)
            corners: list[dict[str, Mixture]] = []
            for cross in universe.gradients(mixed, labels):
                best = {label: spec.labels[label].best(cross[label]) for label in labels}
                corners.append({label: universe.mixture(label, map_) for label, map_ in best.items()})
            step, gain = universe.line_search(mixed, corners)
            mixed = [towards(own, corner, step) for own, corner in zip(mixed, corners, strict=True)]
            idle = idle + 1 if gain <= self.tolerance else 0
            if step == 0:
                break
        for own, soft in zip(maps, mixed, strict=True):
            for label in labels:
                found = soft[label]
                assert isinstance(found, Mixture)
                own[label] = spec.labels[label].best(found.matrices)
        return steps

    def _ascend(
        self,
        universe: Universe,
        maps: list[dict[str, Map]],
        labels: Sequence[str],
        generator: np.random.Generator,
        first: int = 0,
    ) -> list[Step]:
        """Replace one map after another by the best given all others, in random order, until none gains."""
        history: list[Step] = []
        for number in range(first, first + self.rounds if labels else first):
            total, before = universe.total(maps), len(history)
            # Turns that were rounded from a combination are close by, which is too little a gain to count.
            least = 0.0 if number == first else self.tolerance
            for label in (labels[place] for place in generator.permutation(len(labels))):
                for model in map(int, generator.permutation(len(maps))):
                    gain = universe.improve(maps, label, model, total, least)
                    if gain > 0:
                        history.append(Step(round=number, model=model, label=label, gain=gain))
            if len(history) == before:
                break
        return history
