"""Intervals and paired comparisons for metrics of every kind: means of items, and corpus metrics that are none.

A corpus metric (F1, BLEU, a perplexity) is a function of all its items' records together. Its interval comes
from resampling items with replacement (Koehn 2004, "Statistical significance tests for machine translation
evaluation"), its paired p from exchanging the two models' records of items at random (approximate
randomisation: Riezler & Maxwell 2005, "On some pitfalls in automatic evaluation and significance testing").
Means keep the tests and intervals of `comparisons`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.estimate.comparisons import (
    RESAMPLES,
    Comparison,
    around,
    combined,
    compare,
    interval_of_difference,
    interval_of_mean,
)
from evomerge.estimate.proportions import Interval
from evomerge.streams import stream

SLOW_RESAMPLES = 1_000
"""Resamples where a metric must be computed anew from whole items each time."""

# Resamples are drawn a slice at a time, to bound memory.
_SLICE = 2_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Mean:
    """A metric that is the mean of its items' values, shape (items,); higher is better."""

    values: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Totals:
    """A metric that is a function of its items' records summed up, such as BLEU of its n-gram counts.

    `records` has shape (items, k); `metric` maps sums of shape (r, k) to values of shape (r,). `sign` is -1
    where lower values are better.
    """

    records: NDArray[np.float64]
    metric: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    sign: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Whole:
    """A metric that is known only as a function of all its items' records, whatever they are."""

    records: Sequence[Any]
    metric: Callable[[Sequence[Any]], float]
    sign: float = 1.0


Sample = Mean | Totals | Whole
"""One model's results on the items of one task, with the metric over any choice of them."""

Samples = Mapping[str, Sample]
"""Samples by task."""


def size(sample: Sample) -> int:
    """The number of items."""
    return len(sample.values if isinstance(sample, Mean) else sample.records)


def value(sample: Sample) -> float:
    """The metric over all items, its sign flipped where lower is better."""
    if isinstance(sample, Whole):
        return sample.sign * float(sample.metric(sample.records))
    totals = as_totals(sample)
    return totals.sign * float(totals.metric(totals.records.sum(axis=0)[None])[0])


def resamples(samples: Samples) -> int:
    """How many resamples intervals and p-values of these samples rest on."""
    return SLOW_RESAMPLES if any(isinstance(sample, Whole) for sample in samples.values()) else RESAMPLES


def score_interval(samples: Samples, weights: Mapping[str, float], *, level: float = 0.95) -> Interval:
    """Interval of the weighted mean of the tasks' metrics: for a mean as in `interval_of_mean`, else a bootstrap.

    Args:
        samples: one model's results by task.
        weights: of the tasks; they needn't sum to 1.
        level: of confidence.
    """
    found = {}
    for task, sample in samples.items():
        if isinstance(sample, Mean):
            interval = interval_of_mean(sample.values, level)
        else:
            (drawn,) = _bootstrap([sample])
            interval = _quantiles(drawn, level) or _around(sample, value(sample), level)
        found[task] = value(sample), interval
    return combined(found, weights)


def compare_scores(first: Samples, second: Samples, weights: Mapping[str, float], *, level: float = 0.95) -> Comparison:
    """Compare two models on the same items: as `compare` for means, else a paired bootstrap and randomisation.

    Raises: ValueError if the two don't cover the same tasks and numbers of items.
    """
    if {task: size(sample) for task, sample in first.items()} != {task: size(item) for task, item in second.items()}:
        raise ValueError("a paired comparison needs the same items for both models")
    means, others = _means(first), _means(second)
    if means is not None and others is not None:
        return compare(means, others, weights, level=level)
    found = {}
    for task, sample in first.items():
        other, difference = second[task], value(sample) - value(second[task])
        if isinstance(sample, Mean) and isinstance(other, Mean):
            interval = interval_of_difference(sample.values, other.values, level)
        else:
            drawn = _bootstrap([sample, other])
            interval = _quantiles(drawn[0] - drawn[1], level) or _around(sample, difference, level)
        found[task] = difference, interval
    total = sum(weights[task] for task in first)
    difference = sum(weights[task] / total * each for task, (each, _) in found.items())
    p = randomisation(first, second, weights, difference)
    return Comparison(float(difference), combined(found, weights), p)


def _means(samples: Samples) -> dict[str, NDArray[np.float64]] | None:
    """The items' values if every metric is a mean of them."""
    found = {task: sample.values for task, sample in samples.items() if isinstance(sample, Mean)}
    return found if len(found) == len(samples) else None


def as_totals(sample: Mean | Totals) -> Totals:
    """The same sample as a function of sums over its items."""
    if isinstance(sample, Totals):
        return sample
    return Totals(np.stack([sample.values, np.ones_like(sample.values)], axis=1), _ratio)


def each_left_out(sample: Sample) -> NDArray[np.float64]:
    """The metric without each of the items in turn, (items,), its sign flipped where lower is better."""
    if isinstance(sample, Whole):
        records = list(sample.records)
        places = range(len(records))
        without = [sample.sign * sample.metric(records[:place] + records[place + 1 :]) for place in places]
        return np.array(without, dtype=np.float64)
    totals = as_totals(sample)
    return totals.sign * totals.metric(totals.records.sum(axis=0) - totals.records)


def _ratio(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    return sums[:, 0] / sums[:, 1]


def _slices(total: int, items: int) -> Iterator[slice]:
    rows = max(1, _SLICE // items)
    for start in range(0, total, rows):
        yield slice(start, min(start + rows, total))


def _bootstrap(models: Sequence[Sample]) -> NDArray[np.float64]:
    """One task's metric of every model on the same resampled items, shape (models, resamples)."""
    generator = stream(0, "bootstrap")
    items, count = size(models[0]), min(resamples({"": sample}) for sample in models)
    scores = np.zeros((len(models), count))
    for part in _slices(count, items):
        chosen = generator.integers(items, size=(part.stop - part.start, items))
        for row, sample in enumerate(models):
            scores[row, part] = _resampled(sample, chosen)
    return scores


def _resampled(sample: Sample, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
    """The metric of each row of item indices, shape (rows,)."""
    if isinstance(sample, Whole):
        return sample.sign * np.array([sample.metric([sample.records[index] for index in row]) for row in chosen])
    totals = as_totals(sample)
    rows, items = chosen.shape
    flat = (chosen + np.arange(rows)[:, None] * items).ravel()
    counts = np.bincount(flat, minlength=rows * items).reshape(rows, items).astype(np.float64)
    return totals.sign * totals.metric(counts @ totals.records)


def randomisation(
    first: Samples,
    second: Samples,
    weights: Mapping[str, float],
    observed: float,
    *,
    clusters: NDArray[np.int64] | None = None,
) -> float:
    """Two-sided p of the hypothesis that each item's two records are as likely to be each other's.

    Args:
        first: the one model's results by task.
        second: the other's.
        weights: of the tasks.
        observed: difference of the scores.
        clusters: number of each item's cluster, task after task, whose items are exchanged together; None: each alone.
    """
    generator = stream(0, "randomisation")
    total = sum(weights[task] for task in first)
    count = min(resamples(first), resamples(second))
    differences = np.zeros(count)
    swaps = None if clusters is None else generator.integers(2, size=(count, int(clusters.max()) + 1)) == 1
    start = 0
    for task, sample in first.items():
        items = size(sample)
        for part in _slices(count, items):
            if swaps is None or clusters is None:
                exchanged = generator.integers(2, size=(part.stop - part.start, items)) == 1
            else:
                exchanged = swaps[part][:, clusters[start : start + items]]
            differences[part] += weights[task] / total * _exchanged(sample, second[task], exchanged)
        start += items
    # The observed assignment counts as one of the randomised ones; the slack absorbs rounding.
    slack = 1e-12 * max(1.0, abs(observed), float(np.abs(differences).max()))
    extreme = int(np.sum(np.abs(differences) >= abs(observed) - slack))
    return float((extreme + 1) / (count + 1))


def _exchanged(first: Sample, second: Sample, exchanged: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The difference of the metric after exchanging the items of each row, shape (rows,)."""
    if isinstance(first, Whole) or isinstance(second, Whole):
        one, other = _as_whole(first), _as_whole(second)
        pairs = list(zip(one.records, other.records, strict=True))
        found = []
        for row in exchanged:
            mine = [pair[int(swap)] for pair, swap in zip(pairs, row, strict=True)]
            theirs = [pair[1 - int(swap)] for pair, swap in zip(pairs, row, strict=True)]
            found.append(one.sign * one.metric(mine) - other.sign * other.metric(theirs))
        return np.array(found)
    one_totals, other_totals = as_totals(first), as_totals(second)
    moved = exchanged.astype(np.float64) @ (other_totals.records - one_totals.records)
    mine_sums = one_totals.records.sum(axis=0) + moved
    their_sums = other_totals.records.sum(axis=0) - moved
    return one_totals.sign * one_totals.metric(mine_sums) - other_totals.sign * other_totals.metric(their_sums)


def _as_whole(sample: Sample) -> Whole:
    """The same sample as a function of its records, for pairing with one that is known only so."""
    if isinstance(sample, Whole):
        return sample
    totals = as_totals(sample)
    return Whole(
        list(totals.records), lambda records: float(totals.metric(np.sum(records, axis=0)[None])[0]), totals.sign
    )


def _quantiles(drawn: NDArray[np.float64], level: float) -> Interval | None:
    """Percentiles of what was drawn; None where it is always the same."""
    low, high = np.nanquantile(drawn, [0.5 - level / 2, 0.5 + level / 2])
    return None if np.nanmin(drawn) == np.nanmax(drawn) else Interval(float(low), float(high))


def _around(sample: Sample, found: float, level: float) -> Interval:
    """Interval of a value that is the same for any choice of the items, from what each item does to the metric.

    The pseudo-values of the jackknife take the place of a mean's values, but no further than the metric is from zero.
    """
    items, whole = size(sample), value(sample)
    pseudo = items * whole - (items - 1) * each_left_out(sample)
    pseudo = pseudo[np.isfinite(pseudo)]
    reach = min(float(np.ptp(pseudo)) if pseudo.size else 0.0, abs(whole))
    return around(found, reach, items, level)
