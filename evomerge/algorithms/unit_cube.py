"""The unit cube that an evolution strategy searches, and the coefficients that its points stand for.

Knows bounds. Does not know what draws the points.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evomerge.space.base import Dimension, Genome

Point = NDArray[np.float64]
"""A point in fractions of each dimension's range, shape (num_dimensions,)."""


class UnitCube:
    """Dimensions in fractions of their ranges."""

    def __init__(self, dimensions: Sequence[Dimension]) -> None:
        self._low = np.array([dimension.low for dimension in dimensions], dtype=np.float64)
        self._high = np.array([dimension.high for dimension in dimensions], dtype=np.float64)
        self._range = self._high - self._low
        self.initial: Point = (np.array([float(item.initial) for item in dimensions]) - self._low) / self._range
        """Where the search starts."""

    def genome(self, point: Point) -> Genome:
        """The coefficients at a point; what lies outside the cube is taken for the nearest point of it."""
        # Where low + 1 * (high - low) is rounded past high, it is high.
        genome: Genome = np.minimum(self._low + np.clip(point, 0.0, 1.0) * self._range, self._high)
        return genome

    def point(self, genome: Genome) -> Point:
        """The point of the cube where these coefficients are."""
        point: Point = np.clip((genome - self._low) / self._range, 0.0, 1.0)
        return point


def folded(point: Point) -> Point:
    """Any point of the plane, mirrored at the faces of the unit cube until it is inside."""
    inside: Point = 1.0 - np.abs(np.mod(point, 2.0) - 1.0)
    return inside


def unfolded(told: Point, asked: Point, point: Point) -> Point:
    """Where a point would have been folded from, if what was evaluated is not quite what was asked.

    Args:
        told: what was evaluated, inside the cube.
        asked: what `folded` made of `point`.
        point: what was drawn; it is returned as it is if both are the same.
    """
    slope = np.where(np.mod(point, 2.0) < 1.0, 1.0, -1.0)
    return point + slope * (told - asked)
