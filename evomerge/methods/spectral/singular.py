"""Merging in singular directions: TSV-Merge, Iso-C and Iso-CTS.

Singular vectors come with arbitrary signs; these methods multiply left and right vectors, so the signs
cancel. Directions that aren't there (of low-rank or equal experts) are left out: the published code
takes arbitrary ones from the decomposition instead.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from evomerge.kernels.formulas import Finite
from evomerge.kernels.fuse import span
from evomerge.methods.base import Coefficients, Option, Parameter, TensorInputs
from evomerge.methods.spectral.base import AVERAGED, PRECISION, STACKS, STORED_AS, TOLERANCE, MatrixMethod
from evomerge.methods.spectral.decompose import MatrixPool, decompose, polar


class TsvMerge(MatrixMethod):
    """θ = θ₀ + Σ wᵢ Mᵢ, Mᵢ = U⊥ᵢ diag(sᵢ) V⊥ᵢ (TSV-Merge).

    (Uᵢ, sᵢ, Vᵢ) are the k leading singular triplets of τᵢ, k = ⌊r/K⌋ of r = min(m, n) for K experts; U⊥ᵢ
    and V⊥ᵢ are their blocks of the orthogonal polar factors of [U₁ … U_K] and [V₁; …; V_K], which depend
    on no weight: the method is task arithmetic over the Mᵢ. Equal weights α are the method as
    published, with α from (0, 3] by validation. One expert alone is left as it is.

    `fraction` keeps k = ⌊fraction · r⌋ instead, at least one. Where experts nearly coincide, [U₁ … U_K] loses
    rank and its polar factor is arbitrary: directions whose singular value is below `tolerance` times
    the largest are dropped, so equal experts give their common task vector once.
    """

    name = "tsv_merge"
    summary = "Sum of low-rank task vectors whose singular directions were made orthogonal to each other's."
    source = "Gargiulo et al. 2025, Task singular vectors, arXiv 2412.00081"
    options = (
        Option(
            name="fraction",
            description="Singular triplets kept of each task vector; 0: one over the number of experts.",
            default=0.0,
            minimum=0.0,
            maximum=1.0,
        ),
        TOLERANCE,
        PRECISION,
        AVERAGED,
        STACKS,
        STORED_AS,
    )

    def parts(self, tau: list[Tensor], pool: MatrixPool) -> list[Tensor]:
        """One matrix per expert, of rank k at most."""
        fraction, side = self.option["fraction"], min(tau[0].shape)
        # Not ⌊r · (1/K)⌋, which rounding makes one less for some r = K.
        count = max(1, side // len(tau) if fraction == 0.0 else int(side * fraction + 1e-9))
        dtype = getattr(torch, self.option["precision"])
        found = [
            (left[:, :count], values[:count], right[:count])
            for left, values, right in pool.map(lambda vector: decompose(vector.to(dtype)), tau)
        ]
        lefts, rights = torch.cat([left for left, _, _ in found], dim=1), torch.cat([right for _, _, right in found])
        (left, dropped), (right, _) = pool.map(lambda matrix: polar(matrix, self.option["tolerance"]), [lefts, rights])
        if dropped:
            self.warn_once("tsv_merge: %d of the experts' %d directions coincide", dropped, lefts.shape[1])
        edges = np.cumsum([0, *(len(values) for _, values, _ in found)]).tolist()
        return pool.map(
            lambda index: (
                (left[:, edges[index] : edges[index + 1]] * found[index][1]) @ right[edges[index] : edges[index + 1]]
            ),
            range(len(tau)),
        )


SCALE = Parameter(
    name="scale",
    description="Factor of the merged task vector; the authors' best are near 1.5.",
    default=1.0,
    low=0.0,
    high=3.0,
)
ISOTROPY = Parameter(
    name="isotropy",
    description="From the weighted sum of task vectors (0) to equal singular values (1).",
    default=1.0,
    low=0.0,
    high=1.0,
)
SUM_WEIGHT = Parameter(
    name="weight",
    description="Factor of the expert's task vector in the sum, where isotropy is below 1.",
    default=1.0,
    low=0.0,
    high=2.0,
    per_expert=True,
    searched=False,
)


class _Isotropic(MatrixMethod):
    """θ = θ₀ + α [(1 − β) Σ wᵢ τᵢ + β D] with one prepared matrix D; elsewhere θ₀ + α Σ wᵢ τᵢ/K."""

    parameters: ClassVar[tuple[Parameter, ...]] = (SCALE, ISOTROPY, SUM_WEIGHT)
    one_each = False

    def merge(
        self, inputs: TensorInputs, coefficients: Coefficients, state: tuple[Tensor, ...] | None, out: Tensor
    ) -> Finite:
        """Write the base plus the scaled mixture."""
        assert inputs.base is not None
        scale, isotropy = float(coefficients["scale"]), float(coefficients["isotropy"])
        if state is None:
            return super().merge(inputs, {"weight": scale * coefficients["weight"]}, None, out)
        if isotropy == 1.0:
            return span((inputs.base, *state), [1.0, scale], out)
        share = scale * (1.0 - isotropy) * coefficients["weight"]
        factors = np.concatenate([[1.0 - share.sum()], share, [scale * isotropy]])
        return span((inputs.base, *inputs.experts, *state), factors, out)


class IsoC(_Isotropic):
    """θ = θ₀ + α [(1 − β) Σ wᵢ τᵢ + β D], D = s̄ U Vᵀ, s̄ = mean(S), U diag(S) Vᵀ = Σ τᵢ (Iso-C).

    β = 1, the coefficient `isotropy`, is the method as published. The task vectors' plain sum makes D, so
    that it can be prepared; the weights wᵢ act on the part that keeps its singular values. D keeps the
    sum's nuclear norm: where the sum has not full rank, s̄ is the mean over the directions it has.
    """

    name = "iso_c"
    summary = "Sum of task vectors with all its singular values made equal."
    source = "Marczak et al. 2025, No task left behind, arXiv 2502.04959"
    options = (PRECISION, AVERAGED, STACKS, STORED_AS)

    def parts(self, tau: list[Tensor], pool: MatrixPool) -> list[Tensor]:
        """D."""
        left, values, right = decompose(_total(tau).to(getattr(torch, self.option["precision"])))
        return [(left * _mean(values)) @ right]


class IsoCts(_Isotropic):
    """As Iso-C, with D = s̄ U⊥ V⊥ from common and task-specific directions (Iso-CTS).

    The common ones, U_c and V_c, are the leading directions of Σ τᵢ. Of each τᵢ − U_c U_cᵀ τᵢ follow the n
    leading, n = round((r − ⌊c r⌋)/K) with K n ≤ r, r the shorter side and the option `common` as c; the common ones
    number r − K n. U⊥ and V⊥ are the orthogonal polar factors of all of them side by side, s̄ the mean of
    their singular values. `tolerance` as in TSV-Merge. `common: 1` is Iso-C.
    """

    name = "iso_cts"
    summary = "Equal singular values over common and task-specific directions."
    source = "Marczak et al. 2025, No task left behind, arXiv 2502.04959"
    options = (
        Option(
            name="common",
            description="Fraction of the directions that are taken from the sum.",
            default=0.8,
            minimum=0.0,
            maximum=1.0,
        ),
        TOLERANCE,
        PRECISION,
        AVERAGED,
        STACKS,
        STORED_AS,
    )

    def parts(self, tau: list[Tensor], pool: MatrixPool) -> list[Tensor]:
        """D."""
        side, count = min(tau[0].shape), len(tau)
        each = min(side // count, round((side - int(side * self.option["common"] + 1e-9)) / count))
        common = side - count * each
        dtype = getattr(torch, self.option["precision"])
        left, values, right = decompose(_total(tau).to(dtype))
        left, values, right = left[:, :common], values[:common], right[:common]

        def specific(vector: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            vector = vector.to(dtype)
            # What is left of a task vector within the common directions is noise, and no direction.
            own = decompose(vector - left @ (left.T @ vector), floor=float(torch.linalg.vector_norm(vector)))
            return own.left[:, :each], own.values[:each], own.right[:each]

        found = [*(pool.map(specific, tau) if each else []), (left, values, right)]
        lefts, rights = torch.cat([part[0] for part in found], dim=1), torch.cat([part[2] for part in found])
        tolerance = self.option["tolerance"]
        (left, _), (right, _) = pool.map(lambda matrix: polar(matrix, tolerance), [lefts, rights])
        return [_mean(torch.cat([part[1] for part in found])) * (left @ right)]


def _total(tau: list[Tensor]) -> Tensor:
    total = tau[0].clone()
    for vector in tau[1:]:
        total += vector
    return total


def _mean(values: Tensor) -> Tensor:
    return values.mean() if len(values) else values.new_zeros(())
