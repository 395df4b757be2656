"""Any rotation of a space: what a residual stream allows once its norms' gains are folded into their readers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evomerge.alignment.kinds.base import (
    Cross,
    Map,
    is_orthogonal,
    overlap,
    polar,
    random_orthogonal,
    refuse_not_finite,
)
from evomerge.alignment.kinds.permutation import GAIN, UNIT
from evomerge.errors import AlignmentError


@dataclass(frozen=True, slots=True, eq=False)
class Rotation:
    """Rows become `matrix` times them; (n, n), orthogonal, float64. Gains have to be all alike, and stay."""

    matrix: Tensor

    def act(self, role: str, matrix: Tensor) -> Tensor:
        """The rotated rows. Raises: AlignmentError for gains that aren't all alike."""
        if role == GAIN:
            if not torch.equal(matrix, matrix[:1].expand_as(matrix)):
                raise AlignmentError(
                    "a rotation can't pass gains that differ from unit to unit; fold them into the tensors that read "
                    "the stream, or use (signed) permutations"
                )
            return matrix
        return self.matrix.to(matrix.dtype) @ matrix

    def inverse(self) -> Rotation:
        """The transpose."""
        return Rotation(self.matrix.T.contiguous())

    def after(self, other: Rotation) -> Rotation:
        """As `other`, then as this one."""
        return Rotation(self.matrix @ other.matrix)

    def arrays(self) -> dict[str, Tensor]:
        """`matrix`."""
        return {"matrix": self.matrix}


@dataclass(frozen=True, slots=True)
class Orthogonal:
    """Orthogonal matrices of n units, solved exactly by a singular value decomposition (Procrustes).

    With `keeps_mean`, those that map (1, …, 1) to itself: what a LayerNorm allows whose gains are folded.
    """

    n: int
    keeps_mean: bool = False

    @property
    def sizes(self) -> Mapping[str, int]:
        """Units, and gains, which have to be all alike."""
        return {UNIT: self.n, GAIN: self.n}

    def identity(self) -> Rotation:
        """No rotation."""
        return Rotation(torch.eye(self.n, dtype=torch.float64))

    def random(self, generator: np.random.Generator) -> Rotation:
        """Uniform over the group."""
        if not self.keeps_mean:
            return Rotation(random_orthogonal(self.n, generator))
        return Rotation(self._lifted(random_orthogonal(self.n - 1, generator)))

    def best(self, cross: Cross) -> Rotation:
        """The polar factor of the products; gains say nothing."""
        if UNIT not in cross:
            return self.identity()
        refuse_not_finite(cross)
        products = cross[UNIT].double()
        if not self.keeps_mean:
            return Rotation(polar(products))
        mirror = self._mirror()
        return Rotation(self._lifted(polar((mirror @ products @ mirror)[1:, 1:])))

    def value(self, map_: Map, cross: Cross) -> float:
        """Σ ⟨A, map·B⟩ over units; gains, which stay as they are, aren't counted."""
        return overlap(map_, {role: matrix for role, matrix in cross.items() if role == UNIT})

    def load(self, arrays: Mapping[str, Tensor]) -> Rotation:
        """From `matrix`. Raises: AlignmentError if it isn't an orthogonal one of this group."""
        matrix = arrays.get("matrix")
        shape = (self.n, self.n)
        if matrix is None or matrix.shape != shape or matrix.dtype != torch.float64 or not is_orthogonal(matrix):
            raise AlignmentError(f"a saved rotation has to be an orthogonal matrix of {self.n} rows in dtype float64")
        if self.keeps_mean and not bool(((matrix.sum(dim=1) - 1).abs() <= 1e-6).all()):
            raise AlignmentError("a saved rotation has to map (1, ..., 1) to itself, which its LayerNorm asks for")
        return Rotation(matrix)

    def _mirror(self) -> Tensor:
        """The reflection that swaps (1, …, 1)/√n and the first axis; the others then span what has no mean."""
        normal = torch.full((self.n,), -1 / self.n**0.5, dtype=torch.float64)
        normal[0] += 1
        length = normal.norm()
        unit = normal if length == 0 else normal / length
        return torch.eye(self.n, dtype=torch.float64) - 2 * torch.outer(unit, unit)

    def _lifted(self, inside: Tensor) -> Tensor:
        """The rotation that keeps the mean and acts as `inside`, (n−1, n−1), on the rest."""
        mirror = self._mirror()
        whole = torch.eye(self.n, dtype=torch.float64)
        whole[1:, 1:] = inside
        return mirror @ whole @ mirror
