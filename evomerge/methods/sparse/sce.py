"""SCE: select entries by their variance over experts, weigh experts by energy, erase the minority sign."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from evomerge.kernels.engines import compiled_for
from evomerge.kernels.formulas import Finite
from evomerge.kernels.memory import TREE, addresses_of, flattened
from evomerge.kernels.order_statistics import Values, order
from evomerge.kernels.raw import RawTensor, bytes_beside
from evomerge.kernels.rounding import copy_once, round_once
from evomerge.kernels.sums import leaf_sums, tree_sums
from evomerge.kernels.threads import in_parts
from evomerge.kernels.thresholds import count_kept
from evomerge.late import Tensor, torch
from evomerge.methods.base import Coefficients, MergeMethod, Parameter, TensorInputs
from evomerge.methods.sparse.sparsify import Sparsity, add_sparse

Places = NDArray[np.int64] | Tensor
"""Where entries are in a flattened tensor: torch's on a GPU."""

_LEVELS = 256
_CHUNK = 1 << 20


class Sce(MergeMethod):
    """θ = θ₀ + λ Σ ηᵢ τᵢ / Σ ηᵢ over the experts that have the sign of Σ τ, at selected entries (§3.3).

    *Select*: of the entries that vary over experts the ⌊density · number⌋ of largest variance, at least
    one, and all that tie with the smallest of them; a density of 1 keeps every entry, 0 gives the base.
    *Calculate*: ηᵢ is the mean of τᵢ² over the tensor after selection (equal for all if that is 0).
    *Erase*: entries against the sign of Σ τ drop out; a sum of zero counts as positive.
    λ is the coefficient `scale`, 1 as published.
    """

    name = "sce"
    summary = "Task vectors where experts vary most, weighted by energy, the minority sign erased."
    source = "Wan et al. 2024, FuseChat, arXiv 2408.07990"
    takes_raw = True
    adds_task_vectors = True
    parameters = (
        Parameter(
            name="density",
            description="Fraction of the varying entries that are kept, those of largest variance.",
            default=1.0,
            low=0.05,
            high=1.0,
            minimum=0.0,
            maximum=1.0,
        ),
        Parameter(name="scale", description="Factor of the merged task vector.", default=1.0, low=0.0, high=2.0),
    )
    min_experts = 2

    def prepare(self, inputs: TensorInputs) -> Levels:
        """Each entry's variance over experts as one of 256 levels, and the experts' energies in each."""
        return _levels(inputs.cpu(), inputs.experts[0])

    def prepared_bytes(self, shape: tuple[int, ...], num_experts: int) -> int:
        """One byte per entry, and 2 KiB per expert."""
        return math.prod(shape) + 8 * (_LEVELS + 1) * (num_experts + 1)

    def merge(self, inputs: TensorInputs, coefficients: Coefficients, state: Levels, out: Tensor) -> Finite:
        """Merge from the level in which the last entry to keep lies, then put back the base where it lies below."""
        assert inputs.base is not None
        density, scale = float(coefficients["density"]), float(coefficients["scale"])
        count = len(inputs.experts)
        kept = min(count_kept(density, state.positive), state.positive)
        if density >= 1.0:
            level, dropped, energy = 0, None, state.energy[:, 0]
        else:
            level, dropped, energy = state.select(kept, inputs)
        total = float(energy.sum())
        weights = energy / total if 0.0 < total < np.inf else np.full(count, 1.0 / count)
        finite = add_sparse(
            inputs,
            Sparsity(
                kind="level",
                low=np.full(count, float(level)),
                high=np.zeros(count),
                factor=np.ones(count),
                ranks=(state.levels,),
            ),
            np.ascontiguousarray(weights),
            election="unweighted",
            normalize=True,
            scale=scale,
            out=out,
        )
        if dropped is not None:
            _put_back(inputs.base, dropped, out)
        return finite


@dataclass(frozen=True, slots=True)
class Levels:
    """Entries by their variance over experts, coarsely: levels have about equally many entries."""

    levels: Tensor
    """Each entry's level, uint8, flattened, higher for larger variance."""
    at_least: NDArray[np.int64]
    """Number of entries of each level or a higher one, and 0 at the end."""
    energy: NDArray[np.float64]
    """Σ τ² over these entries, per expert, shape (K, levels + 1)."""
    positive: int
    """Number of entries that vary at all."""

    def select(self, count: int, inputs: TensorInputs) -> tuple[int, Places | None, NDArray[np.float64]]:
        """The `count` entries of largest variance, and all that tie with the last.

        Returns: the lowest level that has some of them; where this level's other entries are, None unless it is
            divided; Σ τ² per expert over the selected.
        """
        level = int(np.searchsorted(-self.at_least, -count, side="right")) - 1
        if count == 0 or self.at_least[level] == count:
            level = _LEVELS if count == 0 else level
            return level, None, self.energy[:, level]
        above = int(self.at_least[level + 1])
        dropped, squares = _divided(self.levels, level, inputs, count - above)
        return level, dropped, self.energy[:, level + 1] + squares


def _divided(levels: Tensor, level: int, inputs: TensorInputs, count: int) -> tuple[Places, NDArray[np.float64]]:
    """Where a level's entries are but for the `count` of largest variance and their ties, and Σ τ² over these."""
    assert inputs.base is not None
    if compiled_for(inputs.base, *inputs.experts) is not None:
        where, variance, tau = _entries(levels, level, inputs)
        return divide_with_numpy(where, variance, tau, len(where) - count)
    places = (levels == level).nonzero().view(-1)
    there = _task_vectors(inputs, places)
    sizes, vectors, rank = _as_size(_variance(there)), torch.stack(there), len(places) - count
    if vectors.is_cuda:
        return divide_with_torch(places, sizes, vectors, rank)
    return divide_with_numpy(places.numpy(), sizes.numpy(), vectors.numpy(), rank)


def divide_with_torch(where: Tensor, variance: Tensor, tau: Tensor, rank: int) -> tuple[Tensor, NDArray[np.float64]]:
    """Entries of less variance than the one at this rank from the smallest, 0 on, and Σ τ² over the others.

    The squares are added as a tree, so that the sums are the same on every device.
    """
    largest = variance >= variance.kthvalue(rank + 1).values
    sums = leaf_sums(torch.where(largest, tau * tau, 0.0)).cpu().numpy()
    return where[~largest], tree_sums(sums, axis=1)


def divide_with_numpy(
    where: NDArray[np.int64], variance: NDArray[np.float32], tau: NDArray[np.float64], rank: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """As `divide_with_torch` on the CPU, where torch's threads stay awake and take the cores from those that merge."""
    largest = variance >= np.partition(variance, rank)[rank]
    padded = np.pad(np.where(largest, np.square(tau), 0.0), ((0, 0), (0, -len(variance) % TREE)))
    sums = tree_sums(padded.reshape(len(tau), -1, TREE), axis=2)
    return where[~largest], tree_sums(sums, axis=1)


def _put_back(base: Tensor, where: Places, out: Tensor) -> None:
    """Make some entries of a merge the base's, which aren't zeros of another sign then."""
    if isinstance(base, RawTensor):
        merged: Any = out
        values = RawTensor(base.bits.reshape(-1)[where], base.dtype)
        rounded = RawTensor(np.empty(values.shape, dtype=merged.bits.dtype), merged.dtype)
        copy_once(cast("Tensor", values), cast("Tensor", rounded))
        merged.bits.reshape(-1)[where] = rounded.bits
        return
    places = torch.as_tensor(where, device=base.device)
    found = round_once(base.reshape(-1)[places].to(torch.float64), out.dtype).to(out.device)
    if out.is_contiguous():
        out.view(-1)[places] = found
    else:
        out[torch.unravel_index(places, out.shape)] = found


def _levels(inputs: TensorInputs, beside: Tensor) -> Levels:
    """Levels of inputs on the CPU, where their entries are to lie beside a tensor."""
    size, values = inputs.experts[0].numel(), _variances(inputs)
    statistics = order(size, values)
    # Values below which a 256th, two 256ths, ... of the entries lie.
    ranks = np.searchsorted(-statistics.at_least, -(size - np.arange(1, _LEVELS) * size / _LEVELS), side="right") - 1
    edges = statistics.values[np.unique(np.maximum(ranks, 0))]
    edges = edges[edges > statistics.values[0]]
    result = np.empty(size, dtype=np.uint8)
    sums = np.zeros((-(-size // _CHUNK), len(inputs.experts), _LEVELS))
    counts = np.zeros((-(-size // _CHUNK), _LEVELS), dtype=np.int64)

    assert inputs.base is not None
    flat = [flattened(tensor) for tensor in (inputs.base, *inputs.experts)]
    compiled, arguments = compiled_for(*flat), addresses_of(flat)

    def fill(start: int, stop: int) -> None:
        for first in range(start, stop, _CHUNK):
            last = min(stop, first + _CHUNK)
            if compiled is not None:
                place = first // _CHUNK
                compiled.into_levels(first, last, *arguments, edges, result, counts[place], sums[place])
                continue
            result[first:last] = np.searchsorted(edges, values(first, last), side="right")
            counts[first // _CHUNK] = np.bincount(result[first:last], minlength=_LEVELS)
            for expert, vector in enumerate(_task_vectors(inputs, slice(first, last))):
                squares = (vector * vector).cpu().numpy()
                sums[first // _CHUNK, expert] = np.bincount(result[first:last], squares, minlength=_LEVELS)

    in_parts(fill, size, grain=_CHUNK, least=_CHUNK)
    return Levels(
        levels=bytes_beside(beside, result),
        at_least=_from_above(counts.sum(axis=0)),
        energy=_from_above(sums.sum(axis=0)),
        positive=statistics.positive,
    )


def _from_above(values: NDArray[Any]) -> NDArray[Any]:
    """Sums of each value and all after it along the last axis, and 0 at the end."""
    sums = np.cumsum(values[..., ::-1], axis=-1)[..., ::-1]
    return np.concatenate([sums, np.zeros_like(sums[..., :1])], axis=-1)


def _entries(
    levels: Tensor, level: int, inputs: TensorInputs
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float64]]:
    """Where a level's entries are, ascending, their variance as float32, and the task vectors there, (K, entries)."""
    assert inputs.base is not None
    flat = [flattened(tensor) for tensor in (inputs.base, *inputs.experts)]
    compiled = compiled_for(*flat)
    assert compiled is not None
    arguments = (*addresses_of(flat), levels.data_ptr(), level)
    found = {}

    def look(start: int, stop: int) -> None:
        places = np.empty(stop - start, dtype=np.int64)
        variance = np.empty(stop - start, dtype=np.float32)
        tau = np.empty((len(inputs.experts), stop - start))
        count = compiled.entries_of(start, stop, *arguments, places, variance, tau)
        found[start] = places[:count].copy(), variance[:count].copy(), tau[:, :count].copy()

    in_parts(look, levels.numel())
    places, variance, tau = zip(*(found[start] for start in sorted(found)), strict=True)
    return np.concatenate(places), np.concatenate(variance), np.concatenate(tau, axis=1)


def _task_vectors(inputs: TensorInputs, where: Tensor | slice) -> list[Tensor]:
    """Some entries of the flattened task vectors, float64."""
    assert inputs.base is not None
    base = inputs.base.reshape(-1)[where].to(torch.float64)
    return [expert.reshape(-1)[where].to(torch.float64) - base for expert in inputs.experts]


def _variance(tau: list[Tensor]) -> Tensor:
    mean, spread = torch.zeros_like(tau[0]), torch.zeros_like(tau[0])
    for vector in tau:
        mean += vector
    mean /= len(tau)
    for vector in tau:
        spread += (vector - mean) * (vector - mean)
    return spread / len(tau)


def _as_size(values: Tensor) -> Tensor:
    """As float32, what isn't finite as infinity."""
    return values.nan_to_num(nan=torch.inf, posinf=torch.inf).to(torch.float32)


def _variances(inputs: TensorInputs) -> Values:
    assert inputs.base is not None
    flat = [flattened(tensor) for tensor in (inputs.base, *inputs.experts)]

    def values(start: int, stop: int) -> NDArray[np.float32]:
        if compiled := compiled_for(*flat):
            result = np.empty(stop - start, dtype=np.float32)
            compiled.variances(start, stop, *addresses_of(flat), result)
            return result
        sizes: NDArray[np.float32] = _as_size(_variance(_task_vectors(inputs, slice(start, stop)))).numpy()
        return sizes

    return values
