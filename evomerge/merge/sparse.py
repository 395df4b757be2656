"""Task vectors made sparse, then added up: which entries are kept, how they grow, how experts combine.

TIES, DARE, DELLA and Breadcrumbs are a choice of each. What differs is in their own files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomerge.merge.base import Coefficients, MergeMethod, Option, Parameter, TensorInputs
from evomerge.merge.kernels import (
    TREE,
    addresses_of,
    compiled_for,
    flattened,
    fuse,
    in_parts,
    representable,
    tree_sums,
    uniform,
)
from evomerge.merge.orders import OrderStatistics, magnitudes, magnitudes_between, order, prepared_bytes
from evomerge.streams import derive

_WHOLE = 2.0**31
"""Random numbers are whole numbers below this."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Sparsity:
    """Which entries of K task vectors survive.

    `largest` keeps magnitudes |τ|, rounded to float32, from low on, and `band` those in [low, high]; `random`
    keeps an entry with probability low; `ranked` with probability low + high · rank, ranks being 0 to 255 per
    entry, by which `inverse` divides it; `level` keeps ranks, the same for all experts, from low on. `keys` are
    two 32-bit words per expert, the first common to all, from which its random numbers come.
    """

    kind: Literal["largest", "band", "random", "ranked", "level"]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    factor: NDArray[np.float64]
    """Factor of what is kept, per expert."""
    inverse: bool = False
    keys: NDArray[np.uint32] = field(default_factory=lambda: np.zeros((1, 2), dtype=np.uint32))
    ranks: tuple[Tensor, ...] = ()

    def rule(self) -> tuple[Any, ...]:
        """The numbers by which the compiled loops keep entries."""
        low, high = self.low.tolist(), self.high.tolist()
        if self.kind == "band":
            return tuple(low), tuple(high)
        if self.kind == "largest":
            return (tuple(low),)
        if self.kind == "level":
            return (tuple(np.int32(number) for number in low),)
        first, second = np.uint32(self.keys[0, 0]), tuple(np.uint32(key) for key in self.keys[:, 1])
        if self.kind == "random":
            # Of whole numbers, those below a limit are those up to the one before.
            last = tuple(np.int32(math.ceil(min(number, 1.0) * _WHOLE) - 1) for number in low)
            return last, first, second
        least = tuple(np.int32(number * _WHOLE - 1.0) for number in low)
        step = tuple(np.int32(number * _WHOLE) for number in high)
        return least, step, self.inverse, first, second

    def apply(self, tau: Tensor, first: int, expert: int) -> Tensor:
        """The same in torch, for elements from `first` on of one expert, before their factor."""
        low, high = float(self.low[expert]), float(self.high[expert])
        if self.kind == "largest":
            return torch.where(tau.abs() < low, 0.0, tau)
        if self.kind == "band":
            magnitude = tau.abs()
            return tau * ((magnitude >= low) & (magnitude <= high)).to(tau.dtype)
        if self.kind == "level":
            return tau * (self.ranks[0][first : first + tau.numel()].to(tau.device) >= low).to(tau.dtype)
        first_key, second_key = self.keys[expert].tolist()
        draws = uniform(first, tau.numel(), (first_key, second_key), tau.device)
        if self.kind == "random":
            return tau * (draws < low).to(tau.dtype)
        ranks = self.ranks[expert][first : first + tau.numel()].to(device=tau.device, dtype=torch.float64)
        probability = ranks * high + low
        kept = (draws < probability).to(tau.dtype)
        return tau * (kept / (probability + (1.0 - kept)) if self.inverse else kept)


def keys(seed: int, method: str, experts: Sequence[str], tensor: str) -> NDArray[np.uint32]:
    """Two words for each expert's random numbers in one tensor, the first common to all, shape (experts, 2)."""
    first = derive(seed, method, tensor, bits=32)
    return np.array([[first, derive(seed, method, expert, tensor, bits=32)] for expert in experts], dtype=np.uint32)


def add_sparse(
    inputs: TensorInputs,
    sparsity: Sparsity,
    weights: NDArray[np.float64],
    *,
    election: str | None,
    normalize: bool,
    scale: float,
    out: Tensor,
) -> bool:
    """Write base + scale · Σ weight · sparse task vector; returns whether all of it is finite.

    Args:
        inputs: the base and K experts.
        sparsity: which entries survive.
        weights: shape (K,).
        election: None adds all; "weighted" or "unweighted" only those entries that have the sign of the
            sum over experts, in which the weights count or not. A sum of zero counts as positive.
        normalize: whether to divide each entry by the weights of those that agree (unless they add up to 0).
        scale: factor of the merged task vector.
        out: where to write.
    """
    assert inputs.base is not None
    sources = (inputs.base, *inputs.experts)
    shares = weights * sparsity.factor
    ballots = shares if election == "weighted" else sparsity.factor
    if ballots[0] > 0.0 and bool((ballots == ballots[0]).all()):
        # What all have in common elects nobody, but its rounding could tip an exact tie.
        ballots = np.ones_like(ballots)

    signs = np.sign(ballots) if bool((ballots < 0.0).any()) else np.ones_like(ballots)
    sides = tuple(signs.tolist()) if bool((signs != 1.0).any()) else ()

    def formula(blocks: list[Tensor], first: int) -> Tensor:
        start = blocks[0]
        votes, total, agreeing = (torch.zeros_like(start) for _ in range(3))
        sparse = [sparsity.apply(block - start, first, expert) for expert, block in enumerate(blocks[1:])]
        if election is None:
            for vector, share in zip(sparse, shares.tolist(), strict=True):
                total += vector * share
            return start + total * scale
        for vector, ballot in zip(sparse, ballots.tolist(), strict=True):
            votes += vector * ballot
        sign = 1.0 - 2.0 * (votes < 0.0).to(votes.dtype)
        for vector, side, share, weight in zip(sparse, signs.tolist(), shares.tolist(), weights.tolist(), strict=True):
            along = vector * side * sign
            total += torch.where(along < 0.0, 0.0, along) * (share * side)
            agreeing += (along > 0.0).to(votes.dtype) * weight
        if normalize:
            total = total / (agreeing + (agreeing == 0.0).to(agreeing.dtype))
        return start + total * sign * scale

    if election is None:
        combination: tuple[Any, ...] = (tuple(shares.tolist()), scale)
        provable = representable(shares, scale)
    else:
        listed = (tuple(numbers.tolist()) for numbers in (shares * signs, weights))
        combination = (tuple(ballots.tolist()), sides, *listed, scale, normalize, _exact(sources, sparsity, ballots))
        # With none below zero, sums of what agrees don't cancel.
        provable = representable(ballots, shares, weights, scale) and min(*ballots, *shares, *weights) >= 0.0
    return fuse(
        f"{'add' if election is None else 'elect'}_{sparsity.kind}", formula, sources, out,
        (sparsity.rule(), combination), ranks=sparsity.ranks, provable=provable,
    )  # fmt: skip


def _exact(sources: Sequence[Tensor], sparsity: Sparsity, ballots: NDArray[np.float64]) -> float | None:
    """How many times the smallest value at an entry a vote may be and still be without rounding in float32, if any.

    Values of bfloat16, with 8 bits, are multiples of 2⁻⁷ times the power of two below the smallest; so are their
    differences and sums, and float32 has 24 bits. Thus 2¹⁶, if nothing but differences is added.
    """
    plain = bool((ballots == 1.0).all()) and not sparsity.inverse
    return 2.0**16 if plain and all(source.dtype is torch.bfloat16 for source in sources) else None


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
        for first in range(0, size, TREE):
            base, *experts = (tensor[first : first + TREE].to(torch.float64) for tensor in flat)
            for index, expert in enumerate(experts):
                tau = expert - base
                for row, values in ((index, tau), (count + index, sparsity.apply(tau, first, index))):
                    padded = np.zeros((TREE, 1))
                    padded[: len(values), 0] = values.abs().cpu().numpy()
                    partial[row, first // TREE] = tree_sums(padded, axis=0)[0]
    sums = tree_sums(partial, axis=1)
    before, after = sums[:count], sums[count:]
    usable = (after > 0.0) & np.isfinite(before) & np.isfinite(after)
    ratios: NDArray[np.float64] = np.where(usable, before, 1.0) / np.where(usable, after, 1.0)
    return ratios


class SparseMethod(MergeMethod):
    """A method that sparsifies each task vector by itself and adds them up, with or without electing signs."""

    elects = False

    def sparsity(self, inputs: TensorInputs, coefficients: Coefficients, state: Any) -> Sparsity:
        """Which entries survive for these coefficients; with `rescale` l1, factors are found from it."""
        raise NotImplementedError

    def merge(self, inputs: TensorInputs, coefficients: Coefficients, state: Any, out: Tensor) -> bool:
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

    def prepare(self, inputs: TensorInputs) -> tuple[OrderStatistics, ...]:
        """Each task vector's order statistics."""
        assert inputs.base is not None
        base, found = inputs.base, {}

        def prepare(start: int, stop: int) -> None:
            for index in range(start, stop):
                expert = inputs.experts[index]
                found[index] = order(expert.numel(), magnitudes(base, expert))

        in_parts(prepare, len(inputs.experts), grain=1, least=1)
        return tuple(found[index] for index in sorted(found))

    def prepared_bytes(self, shape: tuple[int, ...], num_experts: int) -> int:
        """At most 768 KiB per expert."""
        return num_experts * prepared_bytes(math.prod(shape))

    def largest(
        self, inputs: TensorInputs, state: tuple[OrderStatistics, ...], expert: int, counts: Sequence[int]
    ) -> list[float]:
        """The magnitudes of one expert's entries at these ranks from the largest, 1 on; infinity at 0."""
        assert inputs.base is not None
        tensor = inputs.experts[expert]
        values, between = magnitudes(inputs.base, tensor), magnitudes_between(inputs.base, tensor)
        return state[expert].all_largest(counts, values, between)
