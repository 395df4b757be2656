"""Items that belong together, such as translations of one question: intervals and tests that don't count each as new.

Models tend to be right or wrong on all of a cluster, so that its items say less than as many others. Intervals are
those of independent items, stretched by the root of the design effect: the variance that sums over clusters show, over
the one that the items alone would (cluster-robust standard errors; Miller 2024, "Adding error bars to evals", arXiv
2411.00640), and by Student's quantile for as many clusters. Tests reverse or exchange whole clusters. Without a cluster
of several items nothing differs from independent items.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from evomerge.estimate.comparisons import RESAMPLES, Comparison
from evomerge.estimate.intervals import Mean, Sample, Samples, compare_scores, each_left_out, score_interval, value
from evomerge.estimate.intervals import randomisation as exchanged_at_random
from evomerge.estimate.proportions import Interval
from evomerge.streams import stream

Clusters = Mapping[str, Sequence[str]]
"""By task, the name of each item's cluster; the same name in several tasks is the same cluster."""


def clustered_interval(
    samples: Samples, weights: Mapping[str, float], clusters: Clusters | None, *, level: float = 0.95
) -> Interval:
    """Interval of the weighted mean of the tasks' metrics, as `score_interval`, for items in clusters.

    Args:
        samples: one model's results by task.
        weights: of the tasks.
        clusters: of the tasks' items; None: every item is by itself.
        level: of confidence.
    """
    interval = score_interval(samples, weights, level=level)
    if (numbers := _numbered(clusters, samples)) is None:
        return interval
    total = sum(weights[task] for task in samples)
    centre = sum(weights[task] / total * value(sample) for task, sample in samples.items())
    stretched = _stretched(interval, centre, _stretch(_influence(samples, weights), numbers, level))
    shares = all(
        isinstance(each, Mean) and ((each.values >= 0) & (each.values <= 1)).all() for each in samples.values()
    )
    return Interval(max(0.0, stretched.low), min(1.0, stretched.high)) if shares else stretched


def clustered_comparison(
    first: Samples, second: Samples, weights: Mapping[str, float], clusters: Clusters | None, *, level: float = 0.95
) -> Comparison:
    """Compare two models on the same items, as `compare_scores`, for items in clusters.

    Args:
        first: the one model's results by task.
        second: the other's, on the same items.
        weights: of the tasks.
        clusters: of the tasks' items; None: every item is by itself.
        level: of confidence.

    Raises: ValueError if the two don't cover the same tasks and numbers of items.
    """
    found = compare_scores(first, second, weights, level=level)
    if (numbers := _numbered(clusters, first)) is None:
        return found
    influence = _influence(first, weights) - _influence(second, weights)
    interval = _stretched(found.interval, found.difference, _stretch(influence, numbers, level))
    return Comparison(found.difference, interval, _p_value(first, second, weights, numbers, found.difference))


def clustered_error(values: NDArray[np.float64], clusters: Sequence[str]) -> float:
    """Cluster-robust standard error of a mean, with G / (G - 1) for G clusters.

    Args:
        values: of the items, (items,).
        clusters: of each item; two different ones at least.
    """
    numbers = np.unique(np.array(clusters), return_inverse=True)[1]
    return math.sqrt(_between((values - values.mean()) / len(values), numbers))


def _numbered(clusters: Clusters | None, samples: Samples) -> NDArray[np.int64] | None:
    """Each item's cluster as a number, task after task, (items,); None where no two items share one."""
    if clusters is None:
        return None
    names = [name for task in samples for name in clusters[task]]
    numbers = np.unique(np.array(names), return_inverse=True)[1].astype(np.int64)
    return None if len(set(names)) == len(names) else numbers


def _influence(samples: Samples, weights: Mapping[str, float]) -> NDArray[np.float64]:
    """How much each item moves the score from where it would be without its deviation, (items,) over all tasks."""
    total = sum(weights[task] for task in samples)
    return np.concatenate([weights[task] / total * _deviations(sample) for task, sample in samples.items()])


def _deviations(sample: Sample) -> NDArray[np.float64]:
    """Each item's share in how far its task's metric is from what it would be elsewhere, (items,); by the jackknife."""
    if isinstance(sample, Mean):
        return np.asarray((sample.values - sample.values.mean()) / len(sample.values), dtype=np.float64)
    moved = np.nan_to_num(value(sample) - each_left_out(sample), posinf=0.0, neginf=0.0)
    return np.asarray((moved - moved.mean()) * (len(moved) - 1) / len(moved), dtype=np.float64)


def _between(influence: NDArray[np.float64], numbers: NDArray[np.int64]) -> float:
    """The variance of the score by what whole clusters move it."""
    sums = np.bincount(numbers, weights=influence)
    return float(np.sum(np.square(sums)) * len(sums) / max(1, len(sums) - 1))


def _stretch(influence: NDArray[np.float64], numbers: NDArray[np.int64], level: float) -> float:
    """By what intervals for independent items are too narrow, at least 1.

    Where no item moves the score, all of a cluster counts as one item, the most that items can depend on each other.
    """
    sizes = np.bincount(numbers)
    independent = float(np.sum(np.square(influence)))
    # Kish's effect for items that are alike within clusters.
    effect = (
        float(np.sum(np.square(sizes)) / sizes.sum())
        if independent == 0
        else _between(influence, numbers) / independent
    )
    quantile = 0.5 + level / 2
    student = float(special.stdtrit(max(1, len(sizes) - 1), quantile) / special.ndtri(quantile))
    return math.sqrt(max(1.0, effect)) * student


def _stretched(interval: Interval, centre: float, factor: float) -> Interval:
    return Interval(centre - factor * (centre - interval.low), centre + factor * (interval.high - centre))


def _p_value(
    first: Samples,
    second: Samples,
    weights: Mapping[str, float],
    numbers: NDArray[np.int64],
    difference: float,
) -> float:
    """Two-sided p of the hypothesis that each cluster's results of the two models are as likely to be each other's."""
    total = sum(weights[task] for task in first)
    parts = []
    for task, sample in first.items():
        other = second[task]
        if not (isinstance(sample, Mean) and isinstance(other, Mean)):
            return exchanged_at_random(first, second, weights, difference, clusters=numbers)
        parts.append(weights[task] / total * (sample.values - other.values) / len(sample.values))
    sums = np.bincount(numbers, weights=np.concatenate(parts))
    sums = sums[sums != 0]
    generator, extreme, done = stream(0, "cluster flip"), 0, 0
    rows = max(1, 4_000_000 // max(1, len(sums)))
    while done < RESAMPLES:
        count = min(rows, RESAMPLES - done)
        signs = generator.integers(2, size=(count, len(sums))) * 2 - 1
        # The slack absorbs rounding.
        extreme += int(np.sum(np.abs(signs @ sums) >= abs(difference) - 1e-12))
        done += count
    return (extreme + 1) / (RESAMPLES + 1)
