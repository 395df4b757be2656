"""Where a model of all that a search has seen expects the best merge: a Gaussian process fitted to noisy scores.

The best of many noisy scores is mostly lucky, and the mean of an algorithm's distribution knows its last generations
alone. A Gaussian process has every score's noise averaged out over the points around it (Rasmussen & Williams 2006,
Gaussian Processes for Machine Learning, algorithm 2.1).

Knows dimensions and scores. Does not know what was searched, nor how a point is scored.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evomerge.algorithms.base import strange
from evomerge.algorithms.unit_cube import Point, UnitCube
from evomerge.errors import ConfigError, listed
from evomerge.space.base import Dimension, Genome

MOST_POINTS, MOST_WITHIN = 600, 300
"""Scores that it is fitted to at most, at the end of a search and each time within it: its cost grows with their third
power."""

FEWEST_GENERATIONS = 3
"""After so many of a search it may have a say in the next: before, there is little to learn from."""

_MOST_LENGTHS = 20
"""Dimensions up to which each has a length scale of its own."""
_BEGINNINGS = 8
"""Known points from which its highest one is climbed to: those that it expects most of."""


def check_surrogate(dimensions: Sequence[Dimension]) -> None:
    """Find whether a Gaussian process can speak of these dimensions. Raises: ConfigError."""
    if others := strange(dimensions, {"continuous"}, conditional=False):
        raise ConfigError(
            f"search.surrogate: a Gaussian process is over continuous dimensions: {listed(others)}; leave out "
            "surrogate and surrogate_every"
        )


def expected_best(
    dimensions: Sequence[Dimension],
    genomes: Sequence[Genome],
    scores: NDArray[np.float64],
    variances: NDArray[np.float64],
) -> Genome | None:
    """Where the mean of a Gaussian process with a Matérn kernel (ν = 5/2) is highest inside the bounds.

    Args:
        dimensions: what was searched, all continuous.
        genomes: the points that have a score, at most `MOST_POINTS`.
        scores: of the points, (points,), higher is better.
        variances: of the scores' errors, (points,). Whatever noise there is besides is learned.

    Returns: None if all scores are equal, which tell nothing.
    """
    # It takes half a second to import, and few searches need it.
    from scipy.optimize import minimize
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    cube = UnitCube(dimensions)
    points = np.array([cube.point(genome) for genome in genomes])
    if not len(points) or not np.ptp(scores):
        return None
    spread = float(np.std(scores))
    lengths = np.full(len(dimensions), 0.5) if len(dimensions) <= _MOST_LENGTHS else 0.5
    kernel = ConstantKernel(1.0, (1e-2, 1e2)) * Matern(lengths, (0.1, 5.0), nu=2.5) + WhiteKernel(1e-3, (1e-6, 1.0))
    process = GaussianProcessRegressor(kernel, alpha=variances / spread**2 + 1e-9)
    with warnings.catch_warnings():
        # A length scale at its bound is a dimension that hardly matters.
        warnings.simplefilter("ignore")
        process.fit(points, (scores - np.mean(scores)) / spread)

    def expected(point: Point) -> float:
        return float(process.predict(point[None])[0])

    beginnings = points[np.argsort(-process.predict(points), kind="stable")[:_BEGINNINGS]]
    bounds = [(0.0, 1.0)] * len(dimensions)
    ends = [minimize(lambda point: -expected(point), begin, method="L-BFGS-B", bounds=bounds).x for begin in beginnings]
    return cube.genome(max(ends, key=expected))
