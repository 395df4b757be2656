"""Counting values by the leading bits of their magnitudes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from evomerge.kernels.engines import compiled_for
from evomerge.kernels.memory import addresses_of, flattened
from evomerge.kernels.order_statistics import CHUNK, Gap, look_at_magnitudes, magnitudes
from evomerge.late import Tensor

_DROPPED = 13
_PLACES, _REST = (1 << (31 - _DROPPED)) + 1, (1 << _DROPPED) - 1


class Tally:
    """How many entries of many tensors are at least as large as a value, in memory that doesn't grow with them.

    Magnitudes are counted as float32, together with those that share all bits but the last _DROPPED. Where
    these differ, a second look at the tensors tells them apart.
    """

    def __init__(self) -> None:
        self.size = 0
        self._counts = np.zeros(_PLACES, dtype=np.int64)
        self._least = np.full(_PLACES, 1 << _DROPPED, dtype=np.int32)
        self._most = np.full(_PLACES, -1, dtype=np.int32)

    def add(self, base: Tensor, expert: Tensor) -> None:
        """Count |expert − base|, both on the CPU; what isn't finite counts as infinite."""
        start_at, leads_to = flattened(base), flattened(expert)
        size = start_at.numel()
        self.size += size
        if compiled := compiled_for(start_at, leads_to):
            addresses, codes = addresses_of((start_at, leads_to))
            compiled.tally(0, size, addresses, codes, _DROPPED, self._counts, self._least, self._most)
            return
        values = magnitudes(start_at, leads_to)
        for first in range(0, size, CHUNK):
            bits = values(first, min(size, first + CHUNK)).view(np.int32)
            place, rest = bits >> _DROPPED, bits & _REST
            self._counts += np.bincount(place, minlength=_PLACES)
            np.minimum.at(self._least, place, rest)
            np.maximum.at(self._most, place, rest)

    def largest(self, count: int, pairs: Callable[[], Iterable[tuple[Tensor, Tensor]]]) -> float:
        """The `count`-th largest magnitude: those that reach it are the `count` largest and all that tie with the last.

        Args:
            count: 0 to `size`. Zero gives infinity.
            pairs: each base and expert that was added, to look again.
        """
        if count <= 0:
            return float("inf")
        at_least = np.cumsum(self._counts[::-1])[::-1]
        place = int(np.searchsorted(-at_least, -count, side="right")) - 1
        if self._least[place] == self._most[place]:
            return _of_bits(place, int(self._least[place]))
        low, high = _of_bits(place, 0), _of_bits(place + 1, 0)
        counts = np.zeros(1 << _DROPPED, dtype=np.int64)
        for base, expert in pairs():
            [found] = look_at_magnitudes(base, [expert])([Gap(low, high, int(self._counts[place]))])
            counts += np.bincount(found.view(np.int32) & _REST, minlength=1 << _DROPPED)
        above = int(at_least[place] - self._counts[place])
        at_least = above + np.cumsum(counts[::-1])[::-1]
        return _of_bits(place, int(np.searchsorted(-at_least, -count, side="right")) - 1)

    @staticmethod
    def size_bytes() -> int:
        """Memory that one takes."""
        return 16 * _PLACES


def _of_bits(place: int, rest: int) -> float:
    return float(np.int32((place << _DROPPED) + rest).view(np.float32))
