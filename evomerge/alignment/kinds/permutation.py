"""Units in another order, with or without signs: what every activation function allows, and RMSNorm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evomerge.alignment.kinds.base import Cross, Map, assignment, is_permutation, overlap, refuse_not_finite
from evomerge.errors import AlignmentError

UNIT = "unit"
GAIN = "gain"
"""The role of numbers that belong to a unit whatever its sign: a norm's gain, SwiGLU's gate."""


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """Row i becomes row `order[i]` of what it acts on, times `signs[i]` in the role "unit".

    `order` is (n,) int64, `signs` (n,) int8 or None for a permutation without signs.
    """

    order: Tensor
    signs: Tensor | None = None

    def act(self, role: str, matrix: Tensor) -> Tensor:
        """Rows in their new order, and with their signs unless they are gains."""
        moved = matrix[self.order]
        if self.signs is None or role == GAIN:
            return moved
        return moved * self.signs.to(moved.dtype)[:, None]

    def inverse(self) -> Order:
        """The order that brings every row back."""
        back = torch.argsort(self.order)
        return Order(back, None if self.signs is None else self.signs[back])

    def after(self, other: Order) -> Order:
        """As `other`, then as this one."""
        order = other.order[self.order]
        if self.signs is None and other.signs is None:
            return Order(order)
        one = torch.ones_like(order, dtype=torch.int8)
        own = one if self.signs is None else self.signs
        earlier = one if other.signs is None else other.signs
        return Order(order, own * earlier[self.order])

    def arrays(self) -> dict[str, Tensor]:
        """`order`, and `signs` where there are some."""
        return {"order": self.order} | ({} if self.signs is None else {"signs": self.signs})


@dataclass(frozen=True, slots=True)
class Permutation:
    """Permutations of n units; an exact solver (a linear assignment)."""

    n: int

    @property
    def sizes(self) -> Mapping[str, int]:
        """Units and gains, n each, permuted alike."""
        return {UNIT: self.n, GAIN: self.n}

    def identity(self) -> Order:
        """Every unit in its place."""
        return Order(torch.arange(self.n))

    def random(self, generator: np.random.Generator) -> Order:
        """Any order."""
        return Order(torch.from_numpy(generator.permutation(self.n)).to(torch.int64))

    def best(self, cross: Cross) -> Order:
        """The best order by a linear assignment."""
        refuse_not_finite(cross)
        return Order(assignment(_summed(list(cross.values()), self.n)))

    def value(self, map_: Map, cross: Cross) -> float:
        """Σ_role ⟨A, map·B⟩."""
        return _overlap(map_, cross)

    def load(self, arrays: Mapping[str, Tensor]) -> Order:
        """From `order`. Raises: AlignmentError if it isn't a permutation of n."""
        return Order(_order(arrays, self.n, {"order"}))


@dataclass(frozen=True, slots=True)
class SignedPermutation:
    """Permutations of n units, each with a sign; gains are permuted alone. An exact solver."""

    n: int

    @property
    def sizes(self) -> Mapping[str, int]:
        """Units, which change their signs, and gains, which don't; n each."""
        return {UNIT: self.n, GAIN: self.n}

    def identity(self) -> Order:
        """Every unit in its place, with its sign."""
        return Order(torch.arange(self.n), torch.ones(self.n, dtype=torch.int8))

    def random(self, generator: np.random.Generator) -> Order:
        """Any order, any signs."""
        signs = torch.from_numpy(generator.integers(0, 2, self.n) * 2 - 1).to(torch.int8)
        return Order(torch.from_numpy(generator.permutation(self.n)).to(torch.int64), signs)

    def best(self, cross: Cross) -> Order:
        """A linear assignment on the absolute products of units: a pair's best sign is that of its product."""
        refuse_not_finite(cross)
        units = cross.get(UNIT)
        # Among the largest matrices of an alignment: none is copied that needn't be.
        parts = [matrix.abs() if role == UNIT else matrix for role, matrix in cross.items()]
        order = assignment(_summed(parts, self.n))
        signs = torch.ones(self.n, dtype=torch.int8)
        if units is not None:
            signs[units[torch.arange(self.n), order] < 0] = -1
        return Order(order, signs)

    def value(self, map_: Map, cross: Cross) -> float:
        """Σ_role ⟨A, map·B⟩."""
        return _overlap(map_, cross)

    def load(self, arrays: Mapping[str, Tensor]) -> Order:
        """From `order` and `signs`. Raises: AlignmentError if they aren't a permutation of n, and n signs."""
        order = _order(arrays, self.n, {"order", "signs"})
        signs = arrays["signs"]
        if signs.dtype != torch.int8 or signs.shape != (self.n,) or not bool((signs.abs() == 1).all()):
            raise AlignmentError(f"a saved map's signs have to be {self.n} numbers, each 1 or -1, of dtype int8")
        return Order(order, signs)


def _summed(matrices: list[Tensor], n: int) -> Tensor:
    """The sum of (n, n) matrices, one alone as it is."""
    return sum(matrices[1:], matrices[0]) if matrices else torch.zeros(n, n)


def _overlap(map_: Map, cross: Cross) -> float:
    """Σ_role ⟨A, map·B⟩ of an order, from the n products that it picks."""
    if not isinstance(map_, Order):
        return overlap(map_, cross)
    rows = torch.arange(len(map_.order))
    # The products of one picked row each, as a column that the order has moved already.
    still = Order(rows, map_.signs)
    return sum(
        float(still.act(role, matrix[rows, map_.order][:, None]).sum(dtype=torch.float64))
        for role, matrix in cross.items()
    )


def _order(arrays: Mapping[str, Tensor], n: int, names: set[str]) -> Tensor:
    if set(arrays) != names:
        raise AlignmentError(f"a saved map has {sorted(arrays)}, and {sorted(names)} is what its kind is made of")
    if arrays["order"].shape != (n,) or not is_permutation(arrays["order"], n):
        raise AlignmentError(f"a saved map's order has to name each of {n} units once, in dtype int64")
    return arrays["order"]
