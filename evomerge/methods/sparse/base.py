"""What methods that keep a part of each task vector have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.kernels.engines import compiled_for
from evomerge.kernels.formulas import Finite, for_torch
from evomerge.kernels.memory import TREE, addresses_of, blocks_of, flattened
from evomerge.kernels.order_statistics import (
    OrderStatistics,
    all_largest,
    look_at_magnitudes,
    magnitudes,
    order,
    prepared_bytes,
)
from evomerge.kernels.sums import leaf_sums, tree_sums
from evomerge.kernels.threads import in_parts
from evomerge.late import Tensor
from evomerge.methods.base import Coefficients, MergeMethod, Option, Parameter, TensorInputs
from evomerge.methods.sparse.sparsify import KEEP, Sparsity, add_sparse

SUMMED_WEIGHT = Parameter(
    name="weight",
    description="Factor of the expert's sparse task vector.",
    default=0.5,
    low=0.0,
    high=1.5,
    per_expert=True,
)
ELECTED_WEIGHT = Parameter(
    name="weight",
    description="Weight of the expert among those that agree, and in the election.",
    default=1.0,
    low=0.0,
    high=1.0,
    per_expert=True,
)
DENSITY = Parameter(
    name="density",
    description="Fraction of the task vector's entries that are kept.",
    default=0.5,
    low=0.05,
    high=1.0,
    minimum=0.0,
    maximum=1.0,
    per_expert=True,
)
SCALE = Parameter(
    name="scale", description="Factor of the merged task vector.", default=1.0, low=0.0, high=2.0, searched=False
)
ELECTION = Option(
    name="election",
    description="Elect signs by weighted or by unweighted task vectors.",
    default="weighted",
    choices=("weighted", "unweighted"),
)


def rescale_option(default: str, *others: str) -> Option:
    """How entries grow to make up for those dropped."""
    return Option(
        name="rescale",
        description="Divide by the probability of being kept, restore the L1 norm, or leave entries as they are.",
        default=default,
        choices=(default, *others),
    )


def normalize_option(default: bool) -> Option:
    """Whether elected entries are averaged or added up."""
    return Option(
        name="normalize", description="Divide each entry by the weights of the experts that agree.", default=default
    )


def norm_ratios(inputs: TensorInputs, sparsity: Sparsity) -> NDArray[np.float64]:
    """Per expert Σ|τ| before sparsifying over Σ|τ| after, shape (K,); 1 where nothing, or only zeros, is left."""
    assert inputs.base is not None
    size = inputs.base.numel()
    flat = [flattened(tensor) for tensor in (inputs.base, *inputs.experts)]
    count = len(inputs.experts)
    partial = np.zeros((2 * count, max(1, -(-size // TREE))), dtype=np.float64)
    if compiled := compiled_for(*flat):
        loop = getattr(compiled, f"masses_{sparsity.kind}")
        addresses, codes = (tuple(numbers.tolist()) for numbers in addresses_of(flat))
        ranks = tuple(rank.data_ptr() for rank in sparsity.ranks)
        in_parts(lambda start, stop: loop(start, stop, addresses, codes, ranks, sparsity.rule(), partial), size)
    else:
        device = flat[0].device
        keep, rule = KEEP[sparsity.kind], for_torch(sparsity.rule(), device)
        for part, (base, *experts), beside, index in blocks_of(flat, sparsity.ranks, device):
            vectors = [expert - base for expert in experts]
            for row, values in enumerate((*vectors, *keep(vectors, beside, index, rule))):
                sums_here = leaf_sums(values.abs()).cpu().numpy()
                first = part.start // TREE
                partial[row, first : first + len(sums_here)] = sums_here
    sums = tree_sums(partial, axis=1)
    before, after = sums[:count], sums[count:]
    usable = (after > 0.0) & np.isfinite(before) & np.isfinite(after)
    ratios: NDArray[np.float64] = np.where(usable, before, 1.0) / np.where(usable, after, 1.0)
    return ratios


class SparseMethod(MergeMethod):
    """A method that sparsifies each task vector by itself and adds them up, with or without electing signs."""

    adds_task_vectors = True
    elects = False

    def sparsity(self, inputs: TensorInputs, coefficients: Coefficients, state: Any) -> Sparsity:
        """Which entries survive for these coefficients; with `rescale` l1, factors are found from it."""
        raise NotImplementedError

    def merge(self, inputs: TensorInputs, coefficients: Coefficients, state: Any, out: Tensor) -> Finite:
        """Write the base plus the combined sparse task vectors."""
        sparsity = self.sparsity(inputs, coefficients, state)
        if self.option.get("rescale") == "l1":
            sparsity = replace(sparsity, factor=norm_ratios(inputs, sparsity))
        return add_sparse(
            inputs,
            sparsity,
            coefficients["weight"],
            election=self.option["election"] if self.elects else None,
            normalize=self.option["normalize"] if self.elects else False,
            scale=float(coefficients["scale"]) if self.elects else 1.0,
            out=out,
        )


class BandMethod(SparseMethod):
    """A sparse method that keeps entries by the rank of their magnitude, in their tensor."""

    takes_raw = True

    def prepare(self, inputs: TensorInputs) -> tuple[OrderStatistics, ...]:
        """Each task vector's order statistics."""
        inputs, found = inputs.cpu(), {}
        base = inputs.base
        assert base is not None

        def prepare(start: int, stop: int) -> None:
            for index in range(start, stop):
                expert = inputs.experts[index]
                found[index] = order(expert.numel(), magnitudes(base, expert))

        in_parts(prepare, len(inputs.experts), grain=1, least=1)
        return tuple(found[index] for index in sorted(found))

    def prepared_bytes(self, shape: tuple[int, ...], num_experts: int) -> int:
        """At most 832 KiB per expert."""
        return num_experts * prepared_bytes(math.prod(shape))

    def largest(
        self, inputs: TensorInputs, state: tuple[OrderStatistics, ...], counts: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """The magnitudes of each expert's entries at some ranks from the largest, 1 on; infinity at 0."""
        assert inputs.base is not None
        return all_largest(state, counts, look_at_magnitudes(inputs.base, inputs.experts))
