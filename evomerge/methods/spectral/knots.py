"""KnOTS: task vectors brought to a common left basis by one decomposition, and merged there by TIES."""

from __future__ import annotations

import torch
from torch import Tensor

from evomerge.methods.base import Option
from evomerge.methods.spectral.base import AVERAGED, STACKS, STORED_AS, MatrixMethod
from evomerge.methods.spectral.decompose import MatrixPool, decompose

# Sums of what cancels to rounding have no sign of their own.
_CANCELLED = 1e-9


class KnotsTies(MatrixMethod):
    """θ = θ₀ + Σ wᵢ Mᵢ, Mᵢ = U diag(S) (mᵢ ⊙ Vᵢ / n), U diag(S) [V₁ … V_K] = [τ₁ … τ_K] (KnOTS with TIES).

    The Vᵢ are trimmed to their largest entries (`density`), a sign is elected for each position by their
    sum, and mᵢ keeps the entries of that sign; n counts them, so equal weights are TIES' disjoint mean
    scaled, the method as published. The weights act after the election, so that everything else can be
    prepared. At density 1 where signs agree this is the mean of task vectors.

    Magnitudes for trimming are those of S Vᵢ, as in the authors' code and configs; `trim: directions` takes Vᵢ.
    Trimming is per tensor; the authors' is over all layers at once. Directions with S up to `cutoff` times
    the largest are dropped (the code: S up to 10⁻⁵). Positions whose sum cancels elect no sign and keep
    every entry, since singular vectors' own signs are arbitrary. Where singular values coincide, their
    directions are too, and with them trimming and election.
    """

    name = "knots_ties"
    summary = "TIES in the singular basis that the task vectors share."
    source = "Stoica et al. 2025, Model merging with SVD to tie the knots, arXiv 2410.19735"
    options = (
        Option(
            name="density",
            description="Fraction of each expert's entries in the shared basis that are kept; at least one entry is.",
            default=1.0,
            minimum=0.0,
            maximum=1.0,
        ),
        Option(
            name="trim",
            description="Trim by entries with or without the singular values.",
            default="scaled",
            choices=("scaled", "directions"),
        ),
        Option(
            name="along",
            description="Task vectors side by side (shared outputs) or one below the other (shared inputs).",
            default="columns",
            choices=("columns", "rows"),
        ),
        Option(
            name="cutoff",
            description="Directions are dropped up to this fraction of the largest singular value.",
            default=1e-5,
            minimum=0.0,
            maximum=1.0,
        ),
        AVERAGED,
        STACKS,
        STORED_AS,
    )

    def parts(self, tau: list[Tensor], pool: MatrixPool) -> list[Tensor]:
        """One matrix per expert."""
        if self.option["along"] == "rows":
            return [part.T for part in self._parts([vector.T for vector in tau], pool)]
        return self._parts(tau, pool)

    def _parts(self, tau: list[Tensor], pool: MatrixPool) -> list[Tensor]:
        left, values, right = decompose(torch.cat(tau, dim=1))
        rank = int((values > self.option["cutoff"] * values[0]).sum()) if len(values) else 0
        if rank == 0:
            return [torch.zeros_like(vector) for vector in tau]
        left, values = left[:, :rank], values[:rank, None]
        blocks = list(torch.split(right[:rank], tau[0].shape[1], dim=1))
        scaled = self.option["trim"] == "scaled"
        blocks = pool.map(lambda block: block * _largest(block * values if scaled else block, self._density), blocks)
        total, size = torch.zeros_like(blocks[0]), torch.zeros_like(blocks[0])
        for block in blocks:
            total += block
            size += block.abs()
        sign = torch.where(total.abs() > _CANCELLED * size, total.sign(), 0.0)
        kept = [block * (block * sign >= 0.0) for block in blocks]
        agreeing = torch.zeros_like(total)
        for block in kept:
            agreeing += block != 0.0
        agreeing.clamp_(min=1.0)
        return pool.map(lambda block: (left * values.T) @ (block / agreeing), kept)

    @property
    def _density(self) -> float:
        return float(self.option["density"])


def _largest(values: Tensor, density: float) -> Tensor:
    """Which entries are among the largest in magnitude, at least one; equal ones at the limit all are."""
    count = max(1, int(values.numel() * density))
    magnitudes = values.abs()
    if count == values.numel():
        return torch.ones_like(magnitudes, dtype=torch.bool)
    least = magnitudes.reshape(-1).kthvalue(values.numel() - count + 1).values
    return magnitudes >= least
