"""Learned refinement: maps that go on from matched ones by the gradient of the loss between the models.

Knows weights, maps and a loss that somebody else computes. Doesn't know texts or networks. What it learns is what it
started from: orders of units, turns of heads, rotations of a stream; heads keep their order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor

from evomerge.alignment.base import Progress, Weights
from evomerge.alignment.kinds import Heads, Kind, Map, Orthogonal
from evomerge.alignment.kinds.base import assignment
from evomerge.alignment.kinds.heads import HeadMap
from evomerge.alignment.kinds.orthogonal import Rotation
from evomerge.alignment.kinds.permutation import GAIN, Order
from evomerge.alignment.spec import Maps, Spec
from evomerge.errors import AlignmentError

Loss = Callable[[Mapping[str, Tensor]], Tensor]
"""Of a network with these weights, on a part of the text that may be another at each call; differentiable."""

SPAN = (0.4, 0.6)
"""Where between the models the loss is taken, at random: the share of the second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refined:
    """Maps after refinement, and the loss between the models at each step."""

    maps: dict[str, Map]
    losses: tuple[float, ...]


class _Learner(Protocol):
    """One label's map as a function of numbers that are learned."""

    @property
    def numbers(self) -> list[Tensor]:
        """What the optimiser changes."""

    def map(self) -> Map:
        """The map at present, with a gradient to the numbers."""

    def final(self) -> Map:
        """The map at present, one of its kind's."""


def refine(
    spec: Spec,
    reference: Weights,
    model: Weights,
    maps: Maps,
    loss: Loss,
    *,
    steps: int = 240,
    rate: float = 0.01,
    labels: Callable[[str], bool] = lambda label: True,
    generator: np.random.Generator,
    progress: Progress | None = None,
) -> Refined:
    """Refine the maps of a model onto a reference, so that the network between both has a low loss.

    Turns follow the loss closely. Orders change only where scores of pairs overtake one another, and Adam moves a score
    that matters little as fast as one that matters much: with a large `rate` good orders are lost, and the loss on text
    of another kind says whether the result is better than its start.

    Orders of units pass their gradient straight through the assignment, rotations are learned as Cayley transforms of
    skew matrices (Ainsworth et al. 2023; Generalized Linear Mode Connectivity 2025).

    Args:
        spec: of both.
        reference: weights that stay.
        model: weights that the maps act on.
        maps: where to start, by label; labels without a map keep their axes.
        loss: of the weights between both.
        steps: of Adam.
        rate: its step size, falling to 0 as a cosine.
        labels: which to refine.
        generator: for the places between the models.
        progress: called as it goes on.

    Raises: AlignmentError if the loss isn't finite, or there is nothing to refine.
    """
    made = {label: _learner(spec.labels[label], maps[label]) for label in maps if labels(label)}
    learners = {label: learner for label, learner in made.items() if learner is not None}
    numbers = [tensor for learner in learners.values() for tensor in learner.numbers]
    if not numbers:
        raise AlignmentError("none of these maps can be refined: they have neither orders of units nor rotations")
    fixed, moving = _kept(spec, reference), _kept(spec, model)
    optimiser = torch.optim.Adam(numbers, lr=rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    losses = []
    for step in range(steps):
        present = {**maps, **{label: learner.map() for label, learner in learners.items()}}
        share = float(generator.uniform(*SPAN))
        between = {
            name: torch.lerp(fixed[name], spec.apply(present, name, tensor), share) for name, tensor in moving.items()
        }
        found = loss(between)
        if not bool(torch.isfinite(found)):
            raise AlignmentError(f"the loss between the models isn't a finite number in step {step + 1}")
        optimiser.zero_grad()
        found.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        losses.append(float(found.detach()))
        if progress is not None:
            progress(step + 1, steps)
    return Refined(
        maps={**maps, **{label: learner.final() for label, learner in learners.items()}}, losses=tuple(losses)
    )


def _kept(spec: Spec, weights: Weights) -> dict[str, Tensor]:
    return {name: weights[name].detach() for name in spec.tensors if weights[name].is_floating_point()}


def _learner(kind: Kind, start: Map) -> _Learner | None:
    """What refines a map of a kind; None if it has nothing to refine."""
    if isinstance(start, Order):
        return _Orders(start)
    if isinstance(start, Rotation) and isinstance(kind, Orthogonal):
        return _Stream(start, kind.keeps_mean)
    if isinstance(start, HeadMap) and isinstance(kind, Heads):
        turns = _Turns(start, kind)
        return turns if turns.numbers else None
    return None


@dataclass(frozen=True, slots=True)
class _Soft:
    """A signed permutation as a matrix that gradients pass through; (n, n)."""

    matrix: Tensor

    def act(self, role: str, matrix: Tensor) -> Tensor:
        """The product, without signs for gains."""
        acting = self.matrix * self.matrix.detach().sign() if role == GAIN else self.matrix
        return acting.to(matrix.dtype) @ matrix


class _Orders:
    """Scores of pairs of units. The map is the best assignment, whose gradient goes to the scores as it is."""

    def __init__(self, start: Order) -> None:
        self._signed = start.signs is not None
        self._scores = _matrix(start).requires_grad_()
        self.numbers = [self._scores]

    def map(self) -> Map:
        hard = _matrix(self.final())
        return cast(Map, _Soft(hard + self._scores - self._scores.detach()))

    def final(self) -> Order:
        scores = self._scores.detach()
        order = assignment(scores.abs() if self._signed else scores)
        if not self._signed:
            return Order(order)
        picked = scores[torch.arange(len(order)), order]
        return Order(order, torch.where(picked < 0, -1, 1).to(torch.int8))


class _Stream:
    """A rotation, turned further."""

    def __init__(self, start: Rotation, keeps_mean: bool) -> None:
        size = start.matrix.shape[0]
        self._start, self._free = start.matrix, torch.zeros(size, size, requires_grad=True)
        centre = torch.eye(size) - 1 / size
        self._centre = centre if keeps_mean else None
        self.numbers = [self._free]

    def map(self) -> Map:
        return Rotation(self._turn(self._free) @ self._start.float())

    def final(self) -> Rotation:
        return Rotation((self._turn(self._free.detach().double()) @ self._start).contiguous())

    def _turn(self, free: Tensor) -> Tensor:
        if self._centre is None:
            return cayley(free)
        centre = self._centre.to(free.dtype)
        # A skew matrix that takes (1, …, 1) to 0 makes a rotation that keeps it.
        return cayley(centre @ free @ centre)


class _Turns:
    """The turns inside heads, turned further; their order stays."""

    def __init__(self, start: HeadMap, kind: Heads) -> None:
        self._start = start
        self._inner = self._value = None
        if start.inner is not None and kind.inside == "rotations":
            self._inner = torch.zeros(start.inner.shape, requires_grad=True)
            self._pairs = _pairs(kind)
        if start.value is not None:
            self._value = torch.zeros(start.value.shape, requires_grad=True)
        self.numbers = [numbers for numbers in (self._inner, self._value) if numbers is not None]

    def map(self) -> Map:
        return self._turned(torch.float32, lambda numbers: numbers)

    def final(self) -> HeadMap:
        return self._turned(torch.float64, lambda numbers: numbers.detach().double())

    def _turned(self, dtype: torch.dtype, of: Callable[[Tensor], Tensor]) -> HeadMap:
        inner, value = self._start.inner, self._start.value
        if self._inner is not None and inner is not None:
            inner = (cayley(of(self._inner) * self._pairs) @ inner.to(dtype)).contiguous()
        if self._value is not None and value is not None:
            value = (cayley(of(self._value)) @ value.to(dtype)).contiguous()
        return replace(self._start, inner=inner, value=value)


def cayley(free: Tensor) -> Tensor:
    """(1 − S)⁻¹(1 + S) of the skew part S of each matrix of (..., n, n): a rotation, the identity for zeros."""
    skew = free - free.mT
    unit = torch.eye(free.shape[-1], dtype=free.dtype)
    turned: Tensor = torch.linalg.solve(unit - skew, unit + skew)
    return turned


def _pairs(kind: Heads) -> Tensor:
    """Where the coordinates of a head may turn into each other: in rotary pairs, and among those without positions."""
    size, half = kind.head_dim, kind.rotary // 2
    allowed = torch.zeros(size, size)
    allowed[kind.rotary :, kind.rotary :] = 1
    places = torch.arange(half)
    one, two = (2 * places, 2 * places + 1) if kind.interleaved else (places, places + half)
    allowed[one, two] = allowed[two, one] = 1
    return allowed


def _matrix(order: Order) -> Tensor:
    """A signed permutation as the matrix that acts alike, float32."""
    size = len(order.order)
    found = torch.zeros(size, size)
    found[torch.arange(size), order.order] = 1.0 if order.signs is None else order.signs.float()
    return found
