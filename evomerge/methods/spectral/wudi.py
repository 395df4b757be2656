"""WUDI: the merged task vector that disturbs each task's own inputs least, found without data."""

from __future__ import annotations

import torch
from torch import Tensor

from evomerge.methods.base import Option
from evomerge.methods.spectral.base import AVERAGED, STACKS, STORED_AS, MatrixMethod
from evomerge.methods.spectral.decompose import MatrixPool


class Wudi(MatrixMethod):
    """θ = θ₀ + Σ wᵢ Mᵢ, Σ Mᵢ = argmin over X of Σ ‖(X − τᵢ) τᵢᵀ‖²_F / ‖τᵢ‖²_F + μ ‖X − Σ τᵢ‖²_F (WUDI-Merging).

    A linear layer's task vector lies in the span of its task's inputs, so its rows stand for them. The
    paper starts from Σ τᵢ and takes some hundred steps of Adam; here is where such a descent leads:
    X (Σ Gᵢ + μ I) = Σ τᵢ (Gᵢ + μ I), Gᵢ = τᵢᵀ τᵢ / ‖τᵢ‖²_F, hence Mᵢ = τᵢ (Gᵢ + μ I)(Σ Gᵢ + μ I)⁻¹. The term with
    μ stands for stopping early: directions that hardly any task uses stay as in the sum. μ is `ridge`
    times the mean eigenvalue of Σ Gᵢ over the directions that there are. One expert alone, and experts
    whose inputs are orthogonal, keep their task vectors; equal ones share theirs. Zero vectors have no part.

    Inputs are columns, as in torch.nn.Linear; `inputs: rows` for weights stored transposed (GPT-2).
    Solved in float64 by Cholesky's factorisation: the problem has squared condition, and needs it.
    """

    name = "wudi"
    summary = "Task vectors corrected so that each task's own input directions see its own change."
    source = "Cheng et al. 2025, Whoever started the interference should end it, arXiv 2503.08099"
    options = (
        Option(
            name="ridge",
            description="Pull towards the sum of task vectors, relative to the mean strength of a direction.",
            default=1e-6,
            minimum=1e-9,
        ),
        Option(
            name="inputs",
            description="Which side of a stored weight its inputs are on.",
            default="columns",
            choices=("columns", "rows"),
        ),
        AVERAGED,
        STACKS,
        STORED_AS,
    )

    def parts(self, tau: list[Tensor], pool: MatrixPool) -> list[Tensor]:
        """One matrix per expert."""
        if self.option["inputs"] == "rows":
            return [part.T for part in self._parts([vector.T for vector in tau], pool)]
        return self._parts(tau, pool)

    def _parts(self, tau: list[Tensor], pool: MatrixPool) -> list[Tensor]:
        height, width = tau[0].shape
        basis = None
        if len(tau) * height < width:
            # All rows lie in a space of fewer dimensions than inputs: solve there.
            basis, _ = torch.linalg.qr(torch.cat(tau).T)
            tau = [vector @ basis for vector in tau]

        def gram(vector: Tensor) -> Tensor:
            size = float(torch.linalg.vector_norm(vector))
            unit = vector / size if size > 0.0 else vector
            return unit.T @ unit

        grams = pool.map(gram, tau)
        total = torch.zeros_like(grams[0])
        for matrix in grams:
            total += matrix
        strength = float(total.trace())
        if strength == 0.0:
            return [torch.zeros(height, width, dtype=tau[0].dtype, device=tau[0].device) for _ in tau]
        ridge = self.option["ridge"] * strength / len(total)
        total.diagonal().add_(ridge)
        factor = torch.linalg.cholesky(total)

        def solve(index: int) -> Tensor:
            own = tau[index] @ grams[index] + ridge * tau[index]
            found = torch.cholesky_solve(own.T, factor).T
            return found if basis is None else found @ basis.T

        return pool.map(solve, range(len(tau)))
