"""Order statistics prepared once, so that any density finds its exact threshold without sorting again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evomerge.kernels.engines import compiled_for, gpu_kernels_for
from evomerge.kernels.memory import addresses_of, flattened
from evomerge.kernels.threads import in_parts
from evomerge.kernels.thresholds import least_reaching
from evomerge.late import Tensor, torch

Values = Callable[[int, int], NDArray[np.float32]]
"""The quantity that is ordered: not negative, not NaN, one number for each entry from start up to stop."""


class Gap(NamedTuple):
    """Entries of the quantity number `of` from `low` up to, not including, `high`, and how many there are at most."""

    low: float
    high: float
    most: int
    of: int = 0


Look = Callable[[Sequence[Gap]], list[NDArray[np.float32]]]
"""All entries in each of some gaps, in any order."""

KEPT = 1 << 16
"""Distinct values remembered per tensor and expert, at most."""

CHUNK, _SORTED, _COUNTED = 1 << 16, 1 << 15, 1 << 20
"""Entries looked at together; those that are sorted as a whole; the smallest part that a thread counts."""

_COARSE, _FINE = 12, 8
"""Bits at their ends in which numbers may differ that are counted together."""

_ENTRY_BYTES = 13


@dataclass(frozen=True, slots=True)
class OrderStatistics:
    """How many of a tensor's entries are at least as large as a value, for all or for some of the values."""

    size: int
    positive: int
    """Number of entries above zero."""
    values: NDArray[np.float32]
    """Ascending, distinct: all that occur, or at most KEPT numbers from the least to the largest of them.

    Those that many entries share are among them, together with the next larger ones.
    """
    at_least: NDArray[np.int64]
    """For each value the number of entries that are no smaller."""
    is_sole: NDArray[np.bool_]
    """Whether each value is the only one that occurs up to, not including, the next."""

    def largest(self, count: int, look: Look) -> float:
        """The `count`-th largest entry: those that reach it are the `count` largest and all that tie with the last.

        Args:
            count: 0 to size. Zero gives infinity.
            look: looks at the ordered quantity again, only where several values lie between two of `values`.
        """
        return all_largest([self], [[count]], look)[0][0]

    def find(self, count: int, of: int) -> tuple[float, Gap | None, int]:
        """The `count`-th largest entry of the quantity number `of`; or a gap in which it is, and its rank there."""
        if count <= 0:
            return float("inf"), None, 0
        index = int(np.searchsorted(-self.at_least, -count, side="right")) - 1
        value = float(self.values[index])
        if self.is_sole[index] or value == np.inf:
            return value, None, 0
        above, high = 0, float("inf")
        if index + 1 < len(self.values):
            above, high = int(self.at_least[index + 1]), float(self.values[index + 1])
        return value, Gap(value, high, int(self.at_least[index]) - above, of), count - above


def all_largest(
    statistics: Sequence[OrderStatistics], counts: Sequence[Sequence[int]], look: Look
) -> list[list[float]]:
    """As `OrderStatistics.largest`, for several counts of several quantities, which are looked at together."""
    found = [
        [ordered.find(count, of) for count in wanted]
        for of, (ordered, wanted) in enumerate(zip(statistics, counts, strict=True))
    ]
    gaps = sorted({gap for ranks in found for _, gap, _ in ranks if gap is not None})
    entries = dict(zip(gaps, map(np.sort, look(gaps)), strict=True)) if gaps else {}
    return [
        [value if gap is None else float(entries[gap][len(entries[gap]) - within]) for value, gap, within in ranks]
        for ranks in found
    ]


def order(size: int, values: Values) -> OrderStatistics:
    """Count a tensor's entries by value, once, and remember enough to find any of them by its rank.

    Args:
        size: number of entries, at least one.
        values: what to order.
    """
    if size <= _SORTED:
        distinct, counts = np.unique(values(0, size), return_counts=True)
        return _statistics(size, int(counts[0]) if distinct[0] == 0.0 else 0, distinct, counts, exact=True)
    drop, exact = _bins_for(values(0, min(size, CHUNK)).view(np.int32))
    found: list[tuple[NDArray[np.int32], NDArray[np.int64]]] = []

    def count(start: int, stop: int) -> None:
        bins = 1 << (31 - drop)
        counts = np.zeros(bins, dtype=np.int64)
        extremes = np.array([bins, 0], dtype=np.int64)
        for first in range(start, stop, CHUNK):
            bits = values(first, min(stop, first + CHUNK)).view(np.int32)
            spilled = _count(bits, drop, counts, extremes, exact=exact)
            found.append(np.unique(spilled, return_counts=True))
        places = np.concatenate([[0], np.arange(extremes[0], extremes[1] + 1)])
        places = places[counts[places] > 0]
        found.append(((places << drop).astype(np.int32), counts[places]))

    in_parts(count, size, grain=CHUNK, least=_COUNTED)
    bits, inverse = np.unique(np.concatenate([part[0] for part in found]), return_inverse=True)
    counts = np.zeros(len(bits), dtype=np.int64)
    np.add.at(counts, inverse, np.concatenate([part[1] for part in found]))
    zeros = int(counts[0]) if bits[0] == 0 else 0
    if zeros and not exact:
        zeros = sum(int((values(first, min(size, first + CHUNK)) == 0.0).sum()) for first in range(0, size, CHUNK))
    return _statistics(size, zeros, bits.view(np.float32), counts, exact=exact)


def _bins_for(sample: NDArray[np.int32]) -> tuple[int, bool]:
    """How many last bits bins leave out, and whether what has others than zeros there is told apart.

    Differences of 16-bit numbers mostly end in zeros, those of float32 don't. Few bins stay in the cache.
    """
    for drop, spilled in ((_COARSE, 1 / 16), (_FINE, 1 / 8)):
        if np.mean(sample & ((1 << drop) - 1) != 0) < spilled:
            return drop, True
    return _COARSE, False


def _count(
    bits: NDArray[np.int32], drop: int, counts: NDArray[np.int64], extremes: NDArray[np.int64], *, exact: bool
) -> NDArray[np.int32]:
    """Count numbers by bin; if `exact`, only those that are the least of theirs, and the others are returned."""
    if compiled := compiled_for():
        spill: NDArray[np.int32] = np.empty(len(bits) if exact else 0, dtype=np.int32)
        spilled: int = compiled.count(bits, drop, counts, extremes, spill)
        collected: NDArray[np.int32] = spill[:spilled].copy()
        return collected
    odd = (bits & ((1 << drop) - 1) != 0) & exact
    places = bits[~odd] >> drop
    np.add.at(counts, places, 1)
    extremes[0] = min(extremes[0], places[places > 0].min(initial=extremes[0]))
    extremes[1] = max(extremes[1], places.max(initial=0))
    left: NDArray[np.int32] = bits[odd]
    return left


def _statistics(
    size: int, zeros: int, least: NDArray[np.float32], counts: NDArray[np.int64], *, exact: bool
) -> OrderStatistics:
    at_least = np.cumsum(counts[::-1])[::-1].astype(np.int64)
    chosen = _spread(counts)
    is_sole = np.diff(chosen, append=len(counts)) == 1
    return OrderStatistics(size, size - zeros, least[chosen], at_least[chosen], is_sole & exact)


def _spread(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """At most KEPT positions, the first and the last among them, so that between two of them are few entries.

    Where a position alone has many entries the next one is taken, too, so that it stands by itself.
    """
    if len(counts) <= KEPT:
        return np.arange(len(counts))
    share = np.cumsum(counts) // max(1, -(-2 * int(counts.sum()) // (KEPT - 2)))
    steps = np.flatnonzero(np.diff(share)) + 1
    return np.unique(np.concatenate([[0, len(counts) - 1], steps, np.minimum(steps + 1, len(counts) - 1)]))


def magnitudes(base: Tensor, expert: Tensor) -> Values:
    """|expert − base|, both on the CPU, rounded to float32, which keeps the order; not finite counts as infinite."""
    start_at, leads_to = flattened(base), flattened(expert)
    compiled = compiled_for(start_at, leads_to)
    arguments = () if compiled is None else addresses_of((start_at, leads_to))

    def values(start: int, stop: int) -> NDArray[np.float32]:
        result = np.empty(stop - start, dtype=np.float32)
        if compiled is not None:
            compiled.magnitudes(start, stop, *arguments, result)
            return result
        difference = leads_to[start:stop].to(torch.float64) - start_at[start:stop].to(torch.float64)
        result[:] = difference.abs().nan_to_num(nan=torch.inf, posinf=torch.inf).to(torch.float32).numpy()
        return result

    return values


def look_through(size: int, values: Values) -> Look:
    """Looks at all of a quantity."""

    def between(start: int, stop: int, gaps: Sequence[Gap]) -> list[NDArray[np.float32]]:
        here = values(start, stop)
        return [_within(here, gap) for gap in gaps]

    return _look(size, between)


def look_at_magnitudes(base: Tensor, experts: Sequence[Tensor]) -> Look:
    """Looks at |expert − base|, rounded to float32, of some experts, where the tensors lie."""
    if (gpu := gpu_kernels_for(base, *experts)) is not None:
        start_at, *lead_to = (flattened(tensor) for tensor in (base, *experts))
        return lambda gaps: gpu.select(start_at, lead_to, [(gap.of, *_limits(gap), gap.most) for gap in gaps])
    return lambda gaps: _look_on_cpu(base.cpu(), [expert.cpu() for expert in experts])(gaps)


def _look_on_cpu(base: Tensor, experts: Sequence[Tensor]) -> Look:
    start_at, *lead_to = (flattened(tensor) for tensor in (base, *experts))
    if (compiled := compiled_for(start_at, *lead_to)) is None:
        values = [magnitudes(start_at, expert) for expert in lead_to]
        return _look(
            start_at.numel(), lambda start, stop, gaps: [_within(values[gap.of](start, stop), gap) for gap in gaps]
        )

    def between(start: int, stop: int, gaps: Sequence[Gap]) -> list[NDArray[np.float32]]:
        parts = []
        for gap in gaps:
            found = np.empty(stop - start, dtype=np.float32)
            addresses = addresses_of((start_at, lead_to[gap.of]))
            count = compiled.magnitudes_between(start, stop, *addresses, *_limits(gap), found)
            parts.append(found[:count].copy())
        return parts

    return _look(start_at.numel(), between)


def _look(size: int, between: Callable[[int, int, Sequence[Gap]], list[NDArray[np.float32]]]) -> Look:
    def look(gaps: Sequence[Gap]) -> list[NDArray[np.float32]]:
        parts: list[list[NDArray[np.float32]]] = []

        def look_here(start: int, stop: int) -> None:
            for first in range(start, stop, CHUNK):
                parts.append(between(first, min(stop, first + CHUNK), gaps))

        in_parts(look_here, size, grain=CHUNK, least=CHUNK)
        return [np.concatenate(found) for found in zip(*parts, strict=True)]

    return look


def _within(values: NDArray[np.float32], gap: Gap) -> NDArray[np.float32]:
    return values[(values >= gap.low) & (values < gap.high)]


def _limits(gap: Gap) -> tuple[float, float]:
    """The gap's ends for magnitudes that aren't rounded."""
    return least_reaching(gap.low), least_reaching(gap.high)


def prepared_bytes(size: int) -> int:
    """The most that the order statistics of a tensor of `size` entries take."""
    return _ENTRY_BYTES * min(size, KEPT)
