"""Which uniform merges are tried before a search: vectors with one weight for each expert.

Knows bounds and how many to try. Does not know groups, methods, or what a weight does.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch.quasirandom import SobolEngine

Weights = NDArray[np.float64]

# More levels of equal weights than this differ by less than the noise of a few hundred items.
_MOST_EQUAL = 8


def spread(experts: int, low: float, high: float, count: int) -> Iterator[Weights]:
    """Weights spread over the experts, shape (experts,) each, the most telling first; the first `count` suit together.

    A full grid where at least three levels for each expert fit. Otherwise equal weights at several scales, each expert
    by itself, and a Sobol sequence between them; with too little room for each expert by itself, equal weights alone.
    The grid too holds all of these but the sequence, which follows it. "By itself" is with the others at 0, or as near
    as the bounds allow. The base alone, with every expert at 0, is left out. Two may coincide: skip what is there.

    Args:
        experts: how many there are.
        low: bound of every weight.
        high: bound of every weight.
        count: how many are wanted.
    """
    absent = min(max(0.0, low), high)
    levels = int((count + 1.5) ** (1 / experts))
    if experts == 1:
        yield from _equal(1, low, high, count)
    elif levels >= 3:
        steps = np.linspace(low, high, levels + 1)[:-1]
        steps[np.argmin(np.abs(steps - absent))] = absent
        yield from (np.array(point) for point in itertools.product(steps, repeat=experts) if set(point) != {absent})
    elif count - experts < 3:
        yield from _equal(experts, low, high, count)
    else:
        yield from _equal(experts, low, high, min(count // 2, count - experts, _MOST_EQUAL))
        far = high if high > absent else low
        yield from np.where(np.eye(experts, dtype=bool), (absent + far) / 2, absent)
    yield from _between(experts, low, high, absent, count)


def _equal(experts: int, low: float, high: float, count: int) -> Iterator[Weights]:
    """The same weight for all experts, evenly spaced inside the bounds."""
    for level in np.linspace(low, high, count + 2)[1:-1]:
        yield np.full(experts, level)


def _between(experts: int, low: float, high: float, absent: float, count: int) -> Iterator[Weights]:
    """Points of a Sobol sequence over the bounds, each drawn some of the way to where every expert is absent.

    How far is one dimension more of the sequence: nearly all points of a box with many sides are far from a corner,
    and merges that add much of every expert are rarely good ones.
    """
    # At least twice as many as are wanted, since some may coincide with others.
    drawn = SobolEngine(experts + 1).draw(  # type: ignore[no-untyped-call]
        4 << count.bit_length(), dtype=torch.float64
    )
    # The first is a corner.
    for *position, part in drawn[1:].tolist():
        point = low + np.array(position) * (high - low)
        yield absent + part * (point - absent)
