"""Intervals and paired comparisons of item scores.

Every function takes scores by task: a mapping from task name to one value per item. Several tasks
are combined as a weighted mean of task means, and resampled within each task.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from evomerge.streams import stream

Scores = Mapping[str, NDArray[np.float64]]

RESAMPLES = 10_000


class Interval(NamedTuple):
    """A two-sided confidence interval."""

    low: float
    high: float


class Comparison(NamedTuple):
    """A paired difference of two models on the same items: first minus second, and its two-sided p."""

    difference: float
    interval: Interval
    p: float


def weighted_mean(scores: Scores, weights: Mapping[str, float]) -> float:
    """Weighted mean of the tasks' mean scores."""
    total = sum(weights[task] for task in scores)
    return float(sum(weights[task] * float(np.mean(values)) for task, values in scores.items()) / total)


def wilson(successes: float, items: int, level: float = 0.95) -> Interval:
    """Wilson's score interval for a proportion (Wilson 1927)."""
    z = float(special.ndtri(0.5 + level / 2))
    share = successes / items
    centre = (share + z * z / (2 * items)) / (1 + z * z / items)
    half = z / (1 + z * z / items) * np.sqrt(share * (1 - share) / items + z * z / (4 * items * items))
    return Interval(float(max(0.0, centre - half)), float(min(1.0, centre + half)))


def mean_interval(scores: Scores, weights: Mapping[str, float], *, level: float = 0.95) -> Interval:
    """Interval of the weighted mean: Wilson for one task of right or wrong, else a percentile bootstrap."""
    if len(scores) == 1:
        (values,) = scores.values()
        if _is_binary(values):
            return wilson(float(values.sum()), len(values), level)
    return _bootstrap(scores, weights, level)


def compare(first: Scores, second: Scores, weights: Mapping[str, float], *, level: float = 0.95) -> Comparison:
    """Compare two models on the same items.

    One task of right or wrong: McNemar's exact test, and the interval of a difference of paired
    proportions (SE = sqrt(b + c - (b - c)^2 / n) / n with b, c the discordant counts). Otherwise a
    bootstrap interval and a sign-flip permutation test, within tasks.

    Raises: ValueError if the two don't cover the same tasks and numbers of items.
    """
    if {task: len(values) for task, values in first.items()} != {task: len(values) for task, values in second.items()}:
        raise ValueError("a paired comparison needs the same items for both models")
    differences = {task: first[task] - second[task] for task in first}
    difference = weighted_mean(differences, weights)
    if len(first) == 1:
        (a,), (b,) = first.values(), second.values()
        if _is_binary(a) and _is_binary(b):
            won, lost, items = int(np.sum(a > b)), int(np.sum(a < b)), len(a)
            error = np.sqrt(won + lost - (won - lost) ** 2 / items) / items
            half = float(special.ndtri(0.5 + level / 2) * error)
            return Comparison(difference, Interval(difference - half, difference + half), mcnemar(won, lost))
    return Comparison(difference, _bootstrap(differences, weights, level), _sign_flip(differences, weights))


def mcnemar(won: int, lost: int) -> float:
    """McNemar's exact two-sided p for as many items won and lost by the first of two models."""
    if won + lost == 0:
        return 1.0
    return float(min(1.0, 2 * special.bdtr(min(won, lost), won + lost, 0.5)))


def holm(p_values: list[float]) -> list[float]:
    """Holm's step-down adjustment for several comparisons, in the order given (Holm 1979)."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _is_binary(values: NDArray[np.float64]) -> bool:
    return bool(np.all((values == 0) | (values == 1)))


def _bootstrap(scores: Scores, weights: Mapping[str, float], level: float) -> Interval:
    generator = stream(0, "bootstrap")
    total = sum(weights[task] for task in scores)
    means = np.zeros(RESAMPLES)
    for task, values in scores.items():
        means += weights[task] / total * _resample(values, generator)
    low, high = np.quantile(means, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(float(low), float(high))


def _resample(values: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """Means of RESAMPLES samples with replacement, a slice at a time to bound memory."""
    rows = max(1, 4_000_000 // len(values))
    means = [
        values[generator.integers(len(values), size=(min(rows, RESAMPLES - start), len(values)))].mean(axis=1)
        for start in range(0, RESAMPLES, rows)
    ]
    return np.concatenate(means)


def _sign_flip(differences: Scores, weights: Mapping[str, float]) -> float:
    """Two-sided p of the hypothesis that each item's difference is as likely to be reversed."""
    generator = stream(0, "sign flip")
    total = sum(weights[task] for task in differences)
    flipped = np.zeros(RESAMPLES)
    observed = 0.0
    for task, values in differences.items():
        nonzero = values[values != 0]
        scale = weights[task] / total / len(values)
        observed += scale * float(nonzero.sum())
        rows = max(1, 4_000_000 // max(1, len(nonzero)))
        for start in range(0, RESAMPLES, rows):
            count = min(rows, RESAMPLES - start)
            signs = generator.integers(2, size=(count, len(nonzero))) * 2 - 1
            flipped[start : start + count] += scale * (signs @ nonzero)
    # The observed assignment counts as one of the permutations; the slack absorbs rounding.
    extreme = int(np.sum(np.abs(flipped) >= abs(observed) - 1e-12))
    return float((extreme + 1) / (RESAMPLES + 1))
