"""The number that is to be kept of a tensor's entries, and the coefficients that reach it."""

from __future__ import annotations

import numpy as np


def least_reaching(value: float) -> float:
    """The smallest float64 that, rounded to float32, is at least `value`, a float32."""
    if not 0.0 < value < np.inf:
        return value
    single = np.float32(value)
    below = np.nextafter(single, np.float32(0.0))
    midpoint = (float(below) + float(single)) / 2.0
    # Ties go to the even one of two neighbours.
    return midpoint if int(single.view(np.uint32)) % 2 == 0 else float(np.nextafter(midpoint, np.inf))


def most_not_exceeding(value: float) -> float:
    """The largest float64 that, rounded to float32, is at most `value`, a float32 below the largest."""
    if value == np.inf:
        return value
    single = np.float32(value)
    midpoint = (float(single) + float(np.nextafter(single, np.float32(np.inf)))) / 2.0
    return midpoint if int(single.view(np.uint32)) % 2 == 0 else float(np.nextafter(midpoint, 0.0))


def count_kept(density: float, size: int) -> int:
    """How many entries a density keeps: the whole part of density · size, and at least one if it is positive."""
    return 0 if density <= 0.0 else max(1, int(density * size))
