"""Intervals and paired comparisons of item scores.

Scores by task are a mapping from task name to one value per item. Several tasks are combined as a weighted mean of task
means. No interval is of zero width: that nothing differs on some items is no proof for all others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from evomerge.estimate.proportions import Interval, paired, unseen, wilson
from evomerge.streams import stream

Scores = Mapping[str, NDArray[np.float64]]

RESAMPLES = 10_000


class Comparison(NamedTuple):
    """A paired difference of two models on the same items: first minus second, and its two-sided p."""

    difference: float
    interval: Interval
    p: float


def weighted_mean(scores: Scores, weights: Mapping[str, float]) -> float:
    """Weighted mean of the tasks' mean scores."""
    total = sum(weights[task] for task in scores)
    return float(sum(weights[task] * float(np.mean(values)) for task, values in scores.items()) / total)


def compare(first: Scores, second: Scores, weights: Mapping[str, float], *, level: float = 0.95) -> Comparison:
    """Compare two models on the same items.

    One task of right or wrong: McNemar's exact test, else a sign-flip permutation test within tasks. The interval is
    Tango's for each task of right or wrong, else a bootstrap, combined over tasks.

    Raises: ValueError if the two don't cover the same tasks and numbers of items.
    """
    if {task: len(values) for task, values in first.items()} != {task: len(values) for task, values in second.items()}:
        raise ValueError("a paired comparison needs the same items for both models")
    differences = {task: first[task] - second[task] for task in first}
    found = {
        task: (float(np.mean(values)), interval_of_difference(first[task], second[task], level))
        for task, values in differences.items()
    }
    difference, interval = weighted_mean(differences, weights), combined(found, weights)
    if len(first) == 1:
        (a,), (b,) = first.values(), second.values()
        if _is_binary(a) and _is_binary(b):
            return Comparison(difference, interval, mcnemar(int(np.sum(a > b)), int(np.sum(a < b))))
    return Comparison(difference, interval, _sign_flip(differences, weights))


def interval_of_mean(values: NDArray[np.float64], level: float) -> Interval:
    """Interval of one task's mean, shape (items,): Wilson's for right or wrong, else a percentile bootstrap."""
    if _is_binary(values):
        return wilson(float(values.sum()), len(values), level)
    return _bootstrap(values, level) or around(float(values[0]), abs(float(values[0])), len(values), level)


def interval_of_difference(first: NDArray[np.float64], second: NDArray[np.float64], level: float) -> Interval:
    """Interval of the difference of one task's means on the same items, shape (items,) each.

    With few items that differ, resamples of these alone vary too little. As with right and wrong (Bonett & Price 2012)
    one more item is added that the first model wins, and one that it loses, each by as much as items that differ do.
    """
    if _is_binary(first) and _is_binary(second):
        return paired(int(np.sum(first > second)), int(np.sum(first < second)), len(first), level)
    differences, items = first - second, len(first)
    if not differences.any():
        return around(0.0, float(np.ptp(np.concatenate([first, second]))), items, level)
    typical = float(np.sqrt(np.mean(np.square(differences[differences != 0]))))
    found = _bootstrap(np.append(differences, [typical, -typical]), level)
    assert found is not None
    return Interval(*(end * (items + 2) / items for end in found))


def around(value: float, reach: float, items: int, level: float) -> Interval:
    """Interval of what was the same on every item, so that resampling shows no spread.

    As many items may be otherwise as could be without one of them among these, each by as much as `reach`: the range
    of the items' scores, or 1 where that is less, since scores mostly go from 0 to 1.
    """
    half = unseen(items, level) * max(1.0, reach)
    return Interval(value - half, value + half)


def combined(tasks: Mapping[str, tuple[float, Interval]], weights: Mapping[str, float]) -> Interval:
    """Interval of a weighted mean of independent tasks from each one's value and interval (Zou & Donner 2008)."""
    total = sum(weights[task] for task in tasks)
    parts = [(weights[task] / total, value, interval) for task, (value, interval) in tasks.items()]
    if len(parts) == 1:
        return parts[0][2]
    centre = sum(weight * value for weight, value, _ in parts)
    below = math.hypot(*(weight * (value - interval.low) for weight, value, interval in parts))
    above = math.hypot(*(weight * (interval.high - value) for weight, value, interval in parts))
    return Interval(centre - below, centre + above)


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


def _bootstrap(values: NDArray[np.float64], level: float) -> Interval | None:
    """Percentiles of means of resampled items; None where all items have the same value."""
    if np.ptp(values) == 0:
        return None
    means = _resample(values, stream(0, "bootstrap"))
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
