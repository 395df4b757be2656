"""DELLA: drop entries of task vectors at random, the small ones in each row more often."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from evomerge.kernels.engines import compiled_for
from evomerge.kernels.order_statistics import magnitudes
from evomerge.kernels.raw import bytes_beside
from evomerge.kernels.threads import in_parts
from evomerge.late import Tensor
from evomerge.methods.base import Coefficients, Option, Parameter, TensorInputs
from evomerge.methods.sparse.base import (
    DENSITY,
    ELECTED_WEIGHT,
    ELECTION,
    SCALE,
    SUMMED_WEIGHT,
    SparseMethod,
    normalize_option,
    rescale_option,
)
from evomerge.methods.sparse.sparsify import Sparsity, keys

_STEPS = 255
_FINENESS = 2.0**31
_CHUNK = 1 << 17

EPSILON = Parameter(
    name="epsilon",
    description="Half the spread of the probabilities of being kept, from a row's smallest entry to its largest.",
    default=0.15,
    low=0.0,
    high=0.3,
    minimum=0.0,
    maximum=0.5,
    per_expert=True,
    searched=False,
)


class DellaLinear(SparseMethod):
    """θ = θ₀ + Σ wᵢ mᵢ ⊙ τᵢ / pᵢ, an entry being kept with p = ρ − ε + 2ε r (MAGPRUNE, §3.1).

    r is the entry's rank by magnitude in its row, from 0 (smallest) to 1, kept in 256 steps; entries that
    tie share the mean of their ranks, and a row of one entry has r = ½. A tensor of one dimension is one
    row; of more, rows run along the last. ρ is the density, p a multiple of 2⁻³¹. Where ρ ± ε would leave
    [0, 1], ε is narrowed to min(ρ, 1 − ρ), so that a density of 1 keeps everything and one of 0 leaves the
    expert out.
    `rescale`: `probability`, the default, divides each entry by its own p as in the paper; `l1`, as in
    mergekit, restores the task vector's L1 norm; `none` leaves entries as they are.
    Random numbers are those of `DareLinear`'s kind.
    """

    name = "della_linear"
    summary = "Task vectors with small entries dropped more often and the rest rescaled, added up."
    source = "Deep et al. 2024, DELLA-Merging, arXiv 2406.11617"
    takes_raw = True
    parameters: ClassVar[tuple[Parameter, ...]] = (SUMMED_WEIGHT, DENSITY, EPSILON)
    options: ClassVar[tuple[Option, ...]] = (rescale_option("probability", "l1", "none"),)

    def prepare(self, inputs: TensorInputs) -> tuple[Tensor, ...]:
        """Each entry's rank in its row, uint8, flattened, per expert."""
        assert inputs.base is not None
        base, there = inputs.base, inputs.cpu()
        assert there.base is not None
        return tuple(bytes_beside(base, row_ranks(there.base, expert)) for expert in there.experts)

    def prepared_bytes(self, shape: tuple[int, ...], num_experts: int) -> int:
        """One byte per entry and expert."""
        return num_experts * math.prod(shape)

    def sparsity(self, inputs: TensorInputs, coefficients: Coefficients, state: Any) -> Sparsity:
        """Keep entries whose random number is below the probability of their rank."""
        density = coefficients["density"]
        epsilon = np.minimum(coefficients["epsilon"], np.minimum(density, 1.0 - density))
        return Sparsity(
            kind="ranked",
            low=np.rint((density - epsilon) * _FINENESS) / _FINENESS,
            high=np.floor(2.0 * epsilon / _STEPS * _FINENESS) / _FINENESS,
            factor=np.ones(len(density)),
            inverse=self.option["rescale"] == "probability",
            keys=keys(self.seed, "della", self.experts, inputs.name),
            ranks=state,
        )


class Della(DellaLinear):
    """DELLA's sparse task vectors, combined as in TIES: elected signs, mean of those that agree (§3.2 and 3.3)."""

    name = "della"
    summary = "Task vectors with small entries dropped more often and the rest rescaled, combined by elected signs."
    parameters = (ELECTED_WEIGHT, DENSITY, EPSILON, replace(SCALE, searched=True))
    options = (ELECTION, normalize_option(True), rescale_option("probability", "l1", "none"))
    elects = True


def row_ranks(base: Tensor, expert: Tensor) -> NDArray[np.uint8]:
    """Ranks by magnitude of a task vector's entries in their rows, from 0 to 255.

    Returns: uint8, shape (entries,). All is on the CPU.
    """
    length = base.shape[-1] if base.dim() else 1
    rows = base.numel() // max(1, length)
    result = np.empty(base.numel(), dtype=np.uint8)
    values = magnitudes(base, expert)
    at_once = max(1, _CHUNK // max(1, length))

    def rank(start: int, stop: int) -> None:
        for first in range(start, stop, at_once):
            last = min(stop, first + at_once)
            block = values(first * length, last * length).reshape(last - first, length)
            result[first * length : last * length] = _steps(block).reshape(-1)

    in_parts(rank, rows, grain=1, least=at_once)
    return result


def _steps(block: Any) -> Any:
    """Mid-ranks of each row of a float32 array, scaled to 0..255 and rounded to uint8."""
    length = block.shape[1]
    if length == 1:
        return np.full(block.shape, round(_STEPS / 2), dtype=np.uint8)
    if compiled := compiled_for():
        # Sorting numbers together with their places is several times as fast as sorting places.
        keys = (block.view(np.uint32).astype(np.uint64) << np.uint64(32)) | np.arange(length, dtype=np.uint64)
        keys.sort(axis=1)
        result = np.empty(block.shape, dtype=np.uint8)
        compiled.rank_steps(keys, float(_STEPS), result)
        return result
    by_size = np.argsort(block, axis=1)
    ordered = np.take_along_axis(block, by_size, axis=1)
    position = np.arange(length)
    begins = np.ones(block.shape, dtype=bool)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    ends = np.ones(block.shape, dtype=bool)
    ends[:, :-1] = begins[:, 1:]
    first = np.maximum.accumulate(np.where(begins, position, 0), axis=1)
    last = np.minimum.accumulate(np.where(ends, position, length)[:, ::-1], axis=1)[:, ::-1]
    steps = np.rint((first + last) * (_STEPS / (2 * (length - 1)))).astype(np.uint8)
    result = np.empty(block.shape, dtype=np.uint8)
    np.put_along_axis(result, by_size, steps, axis=1)
    return result
