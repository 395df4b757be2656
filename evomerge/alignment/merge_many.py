"""MergeMany: each model onto the mean of the others, in turns (Ainsworth et al. 2023, algorithm 3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from evomerge.alignment.base import Alignment, Progress, Step, Weights
from evomerge.alignment.coordinate_ascent import Ascent, Counter, Start, at_least
from evomerge.alignment.spec import Maps, Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeMany:
    """Models in random order, each matched to the mean of the others, until none gains.

    In a pass before the first, each model is matched to the mean of those that came before it, which finds better
    places to go on from than where the models are.

    Attributes:
        rounds: passes over the models, at most.
        tolerance: the least gain that counts, as a share of what a label's tensors could agree in all.
    """

    name: ClassVar[str] = "merge_many"
    summary: ClassVar[str] = "each model onto the mean of the others, in turns, until none gains"

    rounds: int = 100
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        """Raises: AlignmentError for options out of range."""
        at_least(self.name, 1, rounds=self.rounds)
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
        """As `Method.align`; no model is special, so `reference` says nothing."""
        counter = Counter(progress)
        maps: list[Maps] = [spec.identity() for _ in models]
        history: list[Step] = []

        def match(place: int, others: Sequence[int], start: Start) -> None:
            mean = _Mean(spec, [models[number] for number in others], [maps[number] for number in others])
            ascent = Ascent(spec, mean, models[place], maps[place], tolerance=self.tolerance)
            history.extend(ascent.climb(place, generator, counter, rounds=self.rounds, start=start))
            maps[place] = ascent.maps

        order = generator.permutation(len(models)).tolist()
        for number in range(1, len(order)):
            match(order[number], order[:number], "connected")
        for _ in range(self.rounds if len(models) > 2 else 0):
            before = len(history)
            for place in generator.permutation(len(models)).tolist():
                match(place, [number for number in range(len(models)) if number != place], "where it is")
            if len(history) == before:
                break
        return Alignment(maps=tuple(maps), history=tuple(history))


class _Mean(Mapping[str, Tensor]):
    """The mean of models under their maps, in float32, each tensor worked out when it is asked for."""

    def __init__(self, spec: Spec, models: Sequence[Weights], maps: Sequence[Maps]) -> None:
        self._spec, self._models, self._maps = spec, models, maps

    def __getitem__(self, name: str) -> Tensor:
        total = self._spec.apply(self._maps[0], name, self._models[0][name].float()).clone()
        for model, maps in zip(self._models[1:], self._maps[1:], strict=True):
            total += self._spec.apply(maps, name, model[name].float())
        return total.div_(len(self._models))

    def __iter__(self) -> Iterator[str]:
        return iter(self._models[0])

    def __len__(self) -> int:
        return len(self._models[0])
