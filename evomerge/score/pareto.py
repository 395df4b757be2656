"""Several objectives at once: what dominates what, how much space a front takes in, and which of its points to pick.

Arithmetic on arrays of shape (points, objectives) in which higher is always better. Knows neither trials nor what the
objectives measure.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float64]


def dominates(first: ArrayLike, second: ArrayLike) -> bool:
    """Whether one point is at least as good in every objective and better in one."""
    one, other = np.asarray(first), np.asarray(second)
    return bool(np.all(one >= other) and np.any(one > other))


def front(points: Points) -> NDArray[np.bool_]:
    """Which points no other dominates, (points,). Equal points don't dominate each other."""
    found = np.zeros(len(points), dtype=np.bool_)
    kept = np.empty((0, points.shape[1]))
    # Whatever dominates a point comes before it in this order, and is dominated by nothing that isn't kept.
    for place in np.lexsort(-points.T[::-1]):
        point = points[place]
        if not np.any(np.all(kept >= point, axis=1) & np.any(kept > point, axis=1)):
            found[place] = True
            kept = np.vstack([kept, point])
    return found


def ranks(points: Points) -> NDArray[np.int64]:
    """The front of each point, (points,): 0 for those that none dominates, 1 for those that only these do, and so on.

    Non-dominated sorting (Deb et al. 2002, A fast and elitist multiobjective genetic algorithm: NSGA-II, §III.A).
    """
    found = np.full(len(points), -1, dtype=np.int64)
    left, rank = np.arange(len(points)), 0
    while left.size:
        best = front(points[left])
        found[left[best]] = rank
        left, rank = left[~best], rank + 1
    return found


def crowding(points: Points) -> NDArray[np.float64]:
    """How far each point of a front is from its neighbours, (points,); infinite at the ends of an objective.

    The sum over objectives of the distance between a point's two neighbours, as a fraction of the objective's range
    (Deb et al. 2002, §III.B). An objective in which all points are equal counts for nothing.
    """
    count = len(points)
    found = np.zeros(count)
    for values in points.T:
        order = np.argsort(values, kind="stable")
        extent = values[order[-1]] - values[order[0]] if count else 0.0
        if extent > 0:
            found[order[1:-1]] += (values[order[2:]] - values[order[:-2]]) / extent
            found[order[[0, -1]]] = np.inf
    return found


def spread(points: Points, size: int) -> list[int]:
    """Places of at most `size` points of a front that are spread over it, ascending.

    The most crowded point is left out, again and again; of equally crowded ones the last. The best of each objective
    stay as long as there is room for all of them.
    """
    left = list(range(len(points)))
    while len(left) > size:
        distances = crowding(points[left])
        left.pop(len(left) - 1 - int(np.argmin(distances[::-1])))
    return left


def hypervolume(points: Points, reference: ArrayLike) -> float:
    """The volume that is dominated by the points and dominates the reference point.

    Exact, by slices along the last objective (Zitzler 1999; While et al. 2006, A faster algorithm for calculating
    hypervolume, §II), for any number of objectives. Points that aren't better than the reference in every objective
    add nothing.

    Args:
        points: shape (points, objectives).
        reference: shape (objectives,); the same for all fronts that are to be compared.
    """
    corner = np.asarray(reference, dtype=np.float64)
    better = points[np.all(points > corner, axis=1)]
    return _volume(better - corner) if len(better) else 0.0


def _volume(points: Points) -> float:
    """Hypervolume above the origin of points with positive coordinates."""
    if points.shape[1] == 1:
        return float(points.max())
    if points.shape[1] == 2:
        widths, heights = points[np.lexsort((-points[:, 1], -points[:, 0]))].T
        highest = np.maximum.accumulate(heights)
        return float(np.sum(np.diff(np.append(0.0, highest)) * widths))
    descending = points[np.argsort(-points[:, -1], kind="stable")]
    heights = np.append(descending[:, -1], 0.0)
    total = 0.0
    for count in range(1, len(points) + 1):
        height = heights[count - 1] - heights[count]
        if height > 0:
            total += height * _volume(descending[:count, :-1])
    return float(total)


def knee(points: Points) -> int:
    """Place of the point where giving up a little of one objective no longer gains much of another.

    The point furthest beyond the plane through the ends of the front, when each objective's range over the front is
    scaled to 1: for two objectives the greatest distance to the chord (Das 1999, On characterizing the "knee" of the
    Pareto curve based on normal-boundary intersection). The first of equals; where the front bends inwards
    throughout, one of its ends.

    Raises: ValueError without points.
    """
    if not len(points):
        raise ValueError("a front without points has no knee")
    return int(np.argmax(scaled(points).sum(axis=1).round(12)))


def scaled(points: Points) -> Points:
    """The points with each objective's range scaled to 0 to 1; 1 where all are equal."""
    low, extent = points.min(axis=0), np.ptp(points, axis=0)
    made: Points = np.where(extent > 0, (points - low) / np.where(extent > 0, extent, 1.0), 1.0)
    return made
