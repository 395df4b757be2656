"""Maps of one model onto another, a label at a time: each label's best map while the others stay.

Maximises Σ ⟨A, π(B)⟩ over tensors, which is to minimise ‖A − π(B)‖² where maps keep lengths. Products are taken in
float32, tensor by tensor.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from evomerge.alignment.base import Progress, Step, Weights
from evomerge.alignment.kinds.base import Map
from evomerge.alignment.spec import STRETCH, Maps, Place, Spec
from evomerge.errors import AlignmentError

Start = Literal["connected", "identity", "where it is"]


class Counter:
    """Counts labels for a progress bar: those done, and those and the ones that are known to be left."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress, self._done = progress, 0

    def one_done(self, left: int) -> None:
        """Another label is done, and so many are left."""
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._done + left)


def at_least(method: str, least: float, **options: float) -> None:
    """Hold options to a range. Raises: AlignmentError for one that is less."""
    for name, value in options.items():
        if not value >= least:
            raise AlignmentError(f"{method}: {name} has to be at least {least} (found {value!r})")


class Ascent:
    """The maps of one model onto a target, improved until no label's best map gains anything.

    `maps` are those found so far. A label is looked at again only once one that it shares a tensor with has changed.
    """

    def __init__(self, spec: Spec, target: Weights, model: Weights, maps: Maps, *, tolerance: float) -> None:
        """`tolerance` is the least gain that counts, as a share of what the label's tensors could agree in all."""
        self.maps: dict[str, Map] = {**spec.identity(), **maps}
        self._spec, self._target, self._model, self._tolerance = spec, target, model, tolerance
        self._places = {label: spec.places(label) for label in spec.labels}
        self._others = _others(place for places in self._places.values() for place in places)
        self._scales = _scales(target, model, {place.tensor for place in self._others})
        self._anchors: dict[str, dict[str, Tensor] | None] = {}
        self._dirty = set[str]()

    def climb(
        self, model: int, generator: np.random.Generator, counter: Counter, *, rounds: int, start: Start
    ) -> list[Step]:
        """Improve label after label, in a random order in each round, until none gains.

        Args:
            model: place of the model, for its steps.
            generator: where orders are drawn from.
            counter: told of every label.
            rounds: at most.
            start: "where it is" goes on from the maps so far, "identity" from none; "connected" from what is
                comparable at once, and from there through the network.

        Returns: what was changed, with its gains; those of the start as one step without a label.
        """
        if start != "where it is":
            self.maps = dict(self._spec.identity())
        self._dirty = {label for label, places in self._places.items() if places}
        steps = []
        if start == "connected" and (gain := self._connect(counter)) is not None:
            steps.append(Step(round=0, model=model, label="", gain=gain))
        for number in range(1, rounds + 1):
            for label in generator.permutation(sorted(self._dirty)):
                self._dirty.discard(label)
                if (gain := self.improve(str(label))) is not None:
                    steps.append(Step(round=number, model=model, label=str(label), gain=gain))
                counter.one_done(len(self._dirty))
            if not self._dirty:
                break
        return steps

    def improve(self, label: str) -> float | None:
        """Take a label's best map while the others stay; what it gains, None if that doesn't count."""
        return self._improve(label, self._cross(label, self._places[label]))

    def _connect(self, counter: Counter) -> float | None:
        """Match each label by the tensors whose other axes are matched already, those first of which most can be.

        Labels that nothing leads to start from where they are.

        Returns: what the objective gained in all; None if that isn't more than nothing, and no map has changed.
        """
        before, known, every = self.maps, set[str](), frozenset(self._dirty)
        waiting = sorted(every)
        self.maps = dict(before)
        while waiting:
            shares = {label: self._comparable(label, known) for label in waiting}
            label = max(waiting, key=lambda label: shares[label])
            if places := [place for place in self._places[label] if self._others[place] <= known]:
                self._improve(label, self._cross(label, places))
                # By all its tensors, it needs no other look until a label that it shares one with changes.
                if len(places) == len(self._places[label]):
                    self._dirty.discard(label)
            known.add(label)
            waiting.remove(label)
            counter.one_done(len(self._dirty.union(waiting)))
        after = self.maps
        gain = self._agreement(after) - self._agreement(before)
        if gain <= 0:
            self.maps, self._dirty = before, set(every)
            return None
        return gain

    def _agreement(self, maps: Maps) -> float:
        """Σ ⟨A, π(B)⟩ over the tensors that are compared."""
        total = 0.0
        for name in self._scales:
            for one, two in self._spec.stretches(name, self._target[name], self._model[name]):
                mapped = self._spec.apply(maps, name, two.float())
                total += float(torch.sum(one.float() * mapped, dtype=torch.float64))
        return total

    def _comparable(self, label: str, known: set[str]) -> float:
        whole = sum(self._scales[place.tensor] for place in self._places[label])
        ready = sum(self._scales[place.tensor] for place in self._places[label] if self._others[place] <= known)
        return ready / whole if whole else 0.0

    def _improve(self, label: str, cross: dict[str, Tensor]) -> float | None:
        """Take the best map if it gains enough; what it gains."""
        kind, scale = self._spec.labels[label], sum(self._scales[place.tensor] for place in self._places[label])
        best = kind.best(cross)
        gain = kind.value(best, cross) - kind.value(self.maps[label], cross)
        if gain <= self._tolerance * scale:
            return None
        self.maps[label] = best
        self._dirty |= {
            other for place in self._places[label] for other in self._others[place] if self._places.get(other)
        }
        return gain

    def _cross(self, label: str, places: Collection[Place]) -> dict[str, Tensor]:
        """Products by role over some of its places, among them all that no other label acts on."""
        if label not in self._anchors:
            self._anchors[label] = self._anchor(label)
        fixed = self._anchors[label]
        found = {} if fixed is None else {role: matrix.clone() for role, matrix in fixed.items()}
        for place in places:
            if fixed is None or self._others[place]:
                self._add(found, place)
        return found

    def _anchor(self, label: str) -> dict[str, Tensor] | None:
        """Products that no map changes, kept where they are costly, as those of an embedding; None: they aren't."""
        places = [place for place in self._places[label] if not self._others[place]]
        found: dict[str, Tensor] = {}
        if all(self._target[place.tensor].numel() < (place.stop - place.start) ** 2 for place in places):
            return None
        for place in places:
            self._add(found, place)
        return found

    def _add(self, found: dict[str, Tensor], place: Place) -> None:
        one, two = self._target[place.tensor], self._model[place.tensor]
        if self._others[place]:
            two = self._spec.apply(self.maps, place.tensor, two.float(), skip=place.dim)
        one, two = place.unfold(one), place.unfold(two)
        matrix = found.get(place.axis.role)
        if matrix is None:
            matrix = found[place.axis.role] = torch.zeros(len(one), len(one))
        step = max(1, STRETCH // len(one))
        for start in range(0, one.shape[1], step):
            stop = start + step
            matrix.addmm_(one[:, start:stop].float(), two[:, start:stop].float().T)


def _others(places: Iterable[Place]) -> dict[Place, frozenset[str]]:
    """For each place the labels that act on the other dimensions of its tensor."""
    every = list(places)
    by_tensor: dict[str, list[Place]] = {}
    for place in every:
        by_tensor.setdefault(place.tensor, []).append(place)
    return {
        place: frozenset(other.axis.label for other in by_tensor[place.tensor] if other.dim != place.dim)
        for place in every
    }


def _scales(target: Weights, model: Weights, names: Collection[str]) -> dict[str, float]:
    """‖A‖·‖B‖ of each tensor: what they could agree at most. Raises: AlignmentError where that isn't finite."""
    scales = {}
    for name in sorted(names):
        one, two = (_length(weights[name]) for weights in (target, model))
        if not np.isfinite([one, two]).all():
            raise AlignmentError(f"{name}: holds numbers that aren't finite (NaN or infinity), so it can't be compared")
        scales[name] = one * two
    return scales


def _length(tensor: Tensor) -> float:
    parts = torch.split(tensor.reshape(-1), STRETCH)
    return math.hypot(*(float(torch.linalg.vector_norm(part, dtype=torch.float32)) for part in parts))
