"""Methods that look at a weight as a matrix: which tensors those are, and singular values that repeat exactly.

What such a method computes from the task vectors is prepared as dense matrices, so that each candidate
costs one weighted sum. Tensors that aren't matrices get the mean of the task vectors.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from evomerge.errors import MergeError
from evomerge.kernels.formulas import Finite
from evomerge.kernels.fuse import span
from evomerge.kernels.rounding import round_once
from evomerge.methods.base import Coefficients, MergeMethod, Option, Parameter, TensorInputs
from evomerge.methods.spectral.decompose import NOT_LINEAR, MatrixPool, matrix_pool

WEIGHT = Parameter(
    name="weight",
    description="Factor of the expert's part; above 1 extrapolates.",
    default=1.0,
    low=0.0,
    high=2.0,
    per_expert=True,
)
AVERAGED = Option(
    name="averaged",
    description="Matrices whose name matches this regular expression are averaged, as vectors are; empty: none.",
    default=NOT_LINEAR,
)
STACKS = Option(
    name="stacks",
    description="Take a tensor of three dimensions for a stack of matrices, as mixtures of experts store them.",
    default=True,
)
STORED_AS = Option(
    name="stored_as",
    description="How prepared matrices are kept; bfloat16 halves the memory and rounds the change to 8 bits.",
    default="float32",
    choices=("float32", "float64", "bfloat16"),
)
PRECISION = Option(
    name="precision",
    description="Of the singular value decompositions; float32 takes half the time.",
    default="float64",
    choices=("float64", "float32"),
)
TOLERANCE = Option(
    name="tolerance",
    description="Directions that experts share up to this, relatively, count as one.",
    default=1e-6,
    minimum=0.0,
    maximum=1.0,
)


class MatrixMethod(MergeMethod):
    """θ = θ₀ + Σ wᵢ Mᵢ with matrices Mᵢ prepared from all task vectors; θ₀ + Σ wᵢ τᵢ/K where there are none.

    Matrices are the tensors of two dimensions, and the slices of those of three (`stacks`), except where
    a name matches `averaged`: by default embeddings, output heads, convolutions and the biases of a
    mixture's experts, whose rows aren't the outputs of one linear map of hidden states. Projections fused
    into one matrix (query, key and value in GPT-NeoX or Phi; gate and up) are taken as the one matrix that
    they are stored as.
    """

    adds_task_vectors = True
    options: ClassVar[tuple[Option, ...]] = (AVERAGED, STACKS, STORED_AS)
    parameters: ClassVar[tuple[Parameter, ...]] = (WEIGHT,)
    one_each: ClassVar[bool] = True
    """Whether a matrix is prepared for each expert, or one for all."""

    def __init__(self, options: Mapping[str, Any], *, experts: tuple[str, ...], seed: int) -> None:
        super().__init__(options, experts=experts, seed=seed)
        self._stored_as: torch.dtype = getattr(torch, self.option["stored_as"])
        self._warned = False
        try:
            self._averaged = re.compile(self.option["averaged"]) if self.option["averaged"] else None
        except re.error as error:
            raise MergeError(f"{self.name}: averaged: no regular expression ({error})") from error

    def parts(self, tau: list[Tensor], pool: MatrixPool) -> list[Tensor]:
        """The prepared matrices of one weight.

        Args:
            tau: the experts' task vectors, float64, shape (m, n), finite.
            pool: to work on several matrices side by side.

        Returns: matrices of that shape, one for each task vector or one in all.
        """
        raise NotImplementedError

    def prepare(self, inputs: TensorInputs) -> tuple[Tensor, ...] | None:
        """The matrices Mᵢ in the tensor's shape; NaN where a task vector isn't finite. None: to be averaged."""
        assert inputs.base is not None
        shape = tuple(inputs.base.shape)
        if self._is_averaged(inputs.name) or not self._is_matrix(shape):
            return None
        device = inputs.base.device
        # By name, so that even the last bits don't depend on the order in which experts are given.
        order = sorted(range(len(inputs.experts)), key=lambda index: self.experts[index])
        count = len(order) if self.one_each else 1
        found = tuple(torch.empty(shape, dtype=self._stored_as, device=device) for _ in range(count))
        base, experts = _slices(inputs.base), [_slices(inputs.experts[index]) for index in order]
        targets = [_slices(found[index]) for index in (order if self.one_each else [0])]

        def fill(index: int, pool: MatrixPool) -> None:
            start = base[index].to(torch.float64)
            tau = [expert[index].to(torch.float64) - start for expert in experts]
            finite = all(math.isfinite(extreme) for vector in tau for extreme in torch.aminmax(vector))
            parts = self.parts(tau, pool) if finite else [torch.full_like(start, math.nan)] * count
            for target, part in zip(targets, parts, strict=True):
                target[index].copy_(round_once(part.to(torch.float64), self._stored_as))

        try:
            with matrix_pool(device) as side_by_side:
                if len(base) == 1:
                    fill(0, side_by_side)
                else:
                    side_by_side.map(lambda index: fill(index, MatrixPool(1)), range(len(base)))
        except MergeError as error:
            raise MergeError(f"{inputs.name}: {error}") from error
        return found

    def prepared_bytes(self, shape: tuple[int, ...], num_experts: int) -> int:
        """Every prepared matrix in full; nothing for tensors of other shapes. Names may save more."""
        if not self._is_matrix(shape):
            return 0
        return (num_experts if self.one_each else 1) * math.prod(shape) * self._stored_as.itemsize

    def merge(
        self, inputs: TensorInputs, coefficients: Coefficients, state: tuple[Tensor, ...] | None, out: Tensor
    ) -> Finite:
        """Write the base plus the weighted parts."""
        assert inputs.base is not None
        weight = coefficients["weight"]
        if state is None:
            share = weight / len(weight)
            return span((inputs.base, *inputs.experts), np.concatenate([[1.0 - share.sum()], share]), out)
        return span((inputs.base, *state), np.concatenate([[1.0], weight]), out)

    def warn_once(self, message: str, *arguments: object) -> None:
        """Log a warning the first time, what follows for debugging only: it mostly concerns every layer."""
        logging.getLogger(__name__).log(logging.DEBUG if self._warned else logging.WARNING, message, *arguments)
        self._warned = True

    def _is_averaged(self, name: str) -> bool:
        return self._averaged is not None and self._averaged.search(name) is not None

    def _is_matrix(self, shape: tuple[int, ...]) -> bool:
        return math.prod(shape) > 0 and (len(shape) == 2 or (len(shape) == 3 and bool(self.option["stacks"])))


def _slices(tensor: Tensor) -> list[Tensor]:
    return list(tensor) if tensor.dim() == 3 else [tensor]
