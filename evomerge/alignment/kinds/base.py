"""The seam of kinds: what may act on an axis, and the best of it for two models.

Knows matrices whose rows are the units of one axis. Doesn't know tensors, their names or models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from evomerge.errors import AlignmentError
from evomerge.kernels.assignment import best_assignment

Cross = Mapping[str, Tensor]
"""By role, Σ unfold(A)·unfold(B)ᵀ over the axes of that role, (size, size): what a map is chosen by."""

Self = TypeVar("Self", bound="Map")


class Action(Protocol):
    """What acts on the axes of a label, on each in the way of the axis' role: a map, or a combination of maps."""

    def act(self, role: str, matrix: Tensor) -> Tensor:
        """The matrix with its rows mapped, computed in its own floating dtype; never a view of it that is written to.

        Args:
            role: the way in which the axis takes part.
            matrix: (size of the role, any), one row for each unit.

        Raises: AlignmentError if the map can't act on these numbers.
        """


class Map(Action, Protocol):
    """One map of a label."""

    def inverse(self: Self) -> Self:
        """The map that undoes this one."""

    def after(self: Self, other: Self) -> Self:
        """The map that acts as `other` and then as this one."""

    def arrays(self) -> dict[str, Tensor]:
        """What its kind's `load` makes it of again, contiguous."""


class Kind(Protocol):
    """The maps that may act on a label's axes: a group, with its own solver."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """The number of units of an axis, by role; roles that aren't here aren't allowed."""

    def identity(self) -> Map:
        """The map that changes nothing."""

    def random(self, generator: np.random.Generator) -> Map:
        """Any map of the group."""

    def best(self, cross: Cross) -> Map:
        """The map that maximises Σ_role ⟨A, map·B⟩, given A·Bᵀ by role; roles may be missing.

        Raises: AlignmentError for products that aren't finite numbers.
        """

    def value(self, map_: Map, cross: Cross) -> float:
        """Σ_role ⟨A, map·B⟩ of a map, given A·Bᵀ by role."""

    def load(self, arrays: Mapping[str, Tensor]) -> Map:
        """The map that was saved as these arrays. Raises: AlignmentError if they aren't one of this kind."""


def overlap(map_: Map, cross: Cross) -> float:
    """Σ_role ⟨A, map·B⟩ for a map that is linear in every role, given A·Bᵀ by role."""
    # ⟨A, M·B⟩ = ⟨M, A·Bᵀ⟩ = tr(M·(A·Bᵀ)ᵀ)
    return sum(float(map_.act(role, matrix.T).diagonal().sum(dtype=torch.float64)) for role, matrix in cross.items())


def refuse_not_finite(cross: Cross) -> None:
    """Refuse products that no map could be chosen by. Raises: AlignmentError if any isn't a finite number."""
    # NaN passes through both, so that no matrix as large as the products is made to find one.
    ends = [end for matrix in cross.values() for end in torch.aminmax(matrix)]
    if not all(bool(torch.isfinite(end)) for end in ends):
        raise AlignmentError("the models can't be compared: products of their weights aren't finite numbers")


def assignment(scores: Tensor) -> Tensor:
    """The permutation p that maximises Σ_i scores[i, p[i]] over finite scores, exactly; (n,) int64."""
    return torch.from_numpy(best_assignment(scores.contiguous().numpy()))


def polar(matrices: Tensor) -> Tensor:
    """The orthogonal R that maximise ⟨R, C⟩ for each C of (..., n, n); float64."""
    left, _, right = torch.linalg.svd(matrices.double())
    return torch.as_tensor(left @ right)


def random_orthogonal(size: int, generator: np.random.Generator) -> Tensor:
    """An orthogonal matrix, uniform over the group; (size, size), float64."""
    unit, upper = torch.linalg.qr(torch.from_numpy(generator.standard_normal((size, size))))
    return torch.as_tensor(unit * upper.diagonal().sign())


def is_orthogonal(matrices: Tensor, tolerance: float = 1e-6) -> bool:
    """Whether every matrix of (..., n, n) is orthogonal, within a tolerance for each entry of RRᵀ."""
    unit = torch.eye(matrices.shape[-1], dtype=matrices.dtype)
    return bool(((matrices @ matrices.mT - unit).abs() <= tolerance).all())


def is_permutation(order: Tensor, size: int) -> bool:
    """Whether each row of (..., size) names every number below `size` once."""
    if order.dtype != torch.int64 or order.shape[-1:] != (size,):
        return False
    return torch.equal(order.sort(dim=-1).values, torch.arange(size).expand_as(order))
