"""Task vectors made sparse, then added up: which entries are kept, how they grow, how experts combine.

TIES, DARE, DELLA and Breadcrumbs are a choice of each. What differs is in their own files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from evomerge.kernels.dtypes import BFLOAT16, code_of
from evomerge.kernels.formulas import Finite, Formula, quotient, uniform
from evomerge.kernels.fuse import fuse, representable
from evomerge.late import Tensor, torch
from evomerge.methods.base import TensorInputs
from evomerge.streams import derive

_WHOLE, _UNIT = 2.0**31, 2.0**-31
"""Random numbers are whole numbers below the first, standing for multiples of the second."""

_KEPT_KEYS = 1 << 14


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
        """The numbers by which entries are kept."""
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


@lru_cache(_KEPT_KEYS)
def keys(seed: int, method: str, experts: tuple[str, ...], tensor: str) -> NDArray[np.uint32]:
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
) -> Finite:
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

    if election is None:
        combination: tuple[Any, ...] = (tuple(shares.tolist()), scale)
        numbers: tuple[Any, ...] = (shares, scale)
    else:
        listed = (tuple(numbers.tolist()) for numbers in (shares * signs, weights))
        combination = (tuple(ballots.tolist()), sides, *listed, scale, normalize, _exact(sources, sparsity, ballots))
        numbers = (ballots, shares, weights, scale)
    return fuse(
        f"{'add' if election is None else 'elect'}_{sparsity.kind}",
        _formula(sparsity.kind, elects=election is not None), sources, out,
        (sparsity.rule(), combination), ranks=sparsity.ranks,
        # With none below zero, sums of what agrees don't cancel.
        provable=lambda: representable(*numbers) and (election is None or min(*ballots, *shares, *weights) >= 0.0),
    )  # fmt: skip


# Zeros and ones are chosen and multiplied by: a product keeps NaN and Inf, and GPUs are slow to convert truth values.

Keep = Callable[[list[Tensor], list[Tensor], Tensor, Any], list[Tensor]]
"""Task vectors with zeros at the entries that are dropped, from the vectors, their ranks, indices and a rule."""


def _keep_largest(vectors: list[Tensor], ranks: list[Tensor], index: Tensor, rule: Any) -> list[Tensor]:
    # Asked this way round, NaN stays.
    return [torch.where(vector.abs() < least, 0.0, vector) for vector, least in zip(vectors, rule[0], strict=True)]


def _keep_band(vectors: list[Tensor], ranks: list[Tensor], index: Tensor, rule: Any) -> list[Tensor]:
    return [
        vector * torch.where((vector.abs() >= least) & (vector.abs() <= most), 1.0, 0.0)
        for vector, least, most in zip(vectors, *rule, strict=True)
    ]


def _keep_level(vectors: list[Tensor], ranks: list[Tensor], index: Tensor, rule: Any) -> list[Tensor]:
    return [vector * torch.where(ranks[0] >= least, 1.0, 0.0) for vector, least in zip(vectors, rule[0], strict=True)]


def _keep_random(vectors: list[Tensor], ranks: list[Tensor], index: Tensor, rule: Any) -> list[Tensor]:
    lasts, first_key, second_keys = rule
    return [
        vector * torch.where(uniform(index, first_key, key) <= last, 1.0, 0.0)
        for vector, last, key in zip(vectors, lasts, second_keys, strict=True)
    ]


def _keep_ranked(vectors: list[Tensor], ranks: list[Tensor], index: Tensor, rule: Any) -> list[Tensor]:
    leasts, steps, inverse, first_key, second_keys = rule
    found = []
    for vector, rank, least, step, key in zip(vectors, ranks, leasts, steps, second_keys, strict=True):
        last = rank * step + least
        kept = uniform(index, first_key, key) <= last
        factor = torch.where(kept, 1.0, 0.0)
        if inverse:
            chance = (last.to(torch.float64) + 1.0) * _UNIT
            factor = factor * (1.0 / torch.where(kept, chance, 1.0))
        found.append(vector * factor)
    return found


KEEP: dict[str, Keep] = {
    "largest": _keep_largest,
    "band": _keep_band,
    "level": _keep_level,
    "random": _keep_random,
    "ranked": _keep_ranked,
}


def _add(base: Tensor, kept: list[Tensor], combination: Any) -> Tensor:
    """Base + scale · Σ share · kept."""
    shares, scale = combination
    total = torch.zeros_like(base)
    for vector, share in zip(kept, shares, strict=True):
        total = total + vector * share
    merged: Tensor = base + total * scale
    return merged


def _elect(base: Tensor, kept: list[Tensor], combination: Any) -> Tensor:
    """Base ± scale · Σ share · kept over what has the sign of Σ ballot · kept, divided by weights if `normalize`."""
    ballots, sides, shares, weights, scale, normalize, _ = combination
    votes, total, agreeing = torch.zeros_like(base), torch.zeros_like(base), torch.zeros_like(base)
    for vector, ballot in zip(kept, ballots, strict=True):
        votes = votes + vector * ballot
    against = votes < 0.0
    for index, (vector, share, weight) in enumerate(zip(kept, shares, weights, strict=True)):
        turned = vector * sides[index] if sides else vector
        along = torch.where(against, -turned, turned)
        # Asked this way round, NaN stays.
        along = torch.where(along < 0.0, 0.0, along)
        total = total + along * share
        agreeing = agreeing + torch.where(along > 0.0, weight, torch.zeros_like(base))
    change = total
    if normalize:
        # Weights of nobody, or that cancel, don't divide.
        change = quotient(total, torch.where(agreeing == 0.0, 1.0, agreeing))
    change = change * scale
    return base + torch.where(against, -change, change)


@cache
def _formula(kind: str, *, elects: bool) -> Formula:
    keep, combine = KEEP[kind], _elect if elects else _add

    def formula(values: list[Tensor], ranks: list[Tensor], index: Tensor, numbers: Any) -> Tensor:
        rule, combination = numbers
        base = values[0]
        return combine(base, keep([value - base for value in values[1:]], ranks, index, rule), combination)

    return formula


def _exact(sources: Sequence[Tensor], sparsity: Sparsity, ballots: NDArray[np.float64]) -> float | None:
    """How many times the smallest value at an entry a vote may be and still be without rounding in float32, if any.

    Values of bfloat16, with 8 bits, are multiples of 2⁻⁷ times the power of two below the smallest; so are their
    differences and sums, and float32 has 24 bits. Thus 2¹⁶, if nothing but differences is added.
    """
    plain = bool((ballots == 1.0).all()) and not sparsity.inverse
    return 2.0**16 if plain and all(code_of(source.dtype) == BFLOAT16 for source in sources) else None
