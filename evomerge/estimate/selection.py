"""What the best of several models is worth, given that it was chosen as the best on the same items.

The best of many is lucky, so its own score is too high. The estimate is corrected by a bootstrap in which each
resample chooses anew and the chosen is scored on the items that the resample left out (Tsamardinos et al. 2018,
"Bootstrapping the out-of-sample predictions for efficient and accurate cross-validation"). The interval holds at once
for all that were looked at (Bonferroni), and so for whichever of them is chosen, in whatever way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evomerge.estimate.clusters import Clusters, clustered_interval
from evomerge.estimate.intervals import Samples, Totals, Whole, as_totals, size
from evomerge.estimate.proportions import Interval
from evomerge.streams import stream

_RESAMPLES = 1_000


class Chosen(NamedTuple):
    """The best of several models: its score corrected for having been chosen, and the interval that allows for it."""

    corrected: float | None
    """None where a metric isn't known for a part of the items without scoring them anew."""
    interval: Interval


def best_of(
    models: Sequence[Samples],
    best: int,
    weights: Mapping[str, float],
    *,
    clusters: Clusters | None = None,
    level: float = 0.95,
) -> Chosen:
    """Correct the score of the chosen model for the others that were looked at.

    Args:
        models: each one's results on the same items, by task; the first of equals is chosen.
        best: place of the chosen one.
        weights: of the tasks.
        clusters: of the items; None: every item is by itself.
        level: of confidence.
    """
    interval = clustered_interval(models[best], weights, clusters, level=1.0 - (1.0 - level) / len(models))
    return Chosen(corrected_score(models, weights, clusters), interval)


def corrected_score(
    models: Sequence[Samples], weights: Mapping[str, float], clusters: Clusters | None = None
) -> float | None:
    """The mean score, on the items left out of a resample, of the model that is best in the resample.

    Args:
        models: each one's results on the same items, by task.
        weights: of the tasks.
        clusters: of the items, which are drawn and left out whole; None: every item is by itself.

    Returns: None where a metric isn't a function of sums over items, or a task has one item alone.
    """
    total = sum(weights[task] for task in models[0])
    inside, outside = np.zeros((_RESAMPLES, len(models))), np.zeros((_RESAMPLES, len(models)))
    generator = stream(0, "selection")
    names = sorted({name for own in (clusters or {}).values() for name in own})
    whole = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=_RESAMPLES) if names else None
    number = {name: place for place, name in enumerate(names)}
    for task, sample in models[0].items():
        own = [model[task] for model in models]
        items = size(sample)
        totals = [as_totals(each) for each in own if not isinstance(each, Whole)]
        if len(totals) < len(own) or items < 2:
            return None
        if clusters is None or whole is None:
            drawn = generator.multinomial(items, np.full(items, 1.0 / items), size=_RESAMPLES).astype(np.float64)
        else:
            drawn = whole[:, [number[name] for name in clusters[task]]].astype(np.float64)
        left_out = (drawn == 0).astype(np.float64)
        share = weights[task] / total
        for column, each in enumerate(totals):
            inside[:, column] += share * _metric(each, drawn)
            outside[:, column] += share * _metric(each, left_out)
    if len(models) == 1:
        return float(np.nanmean(outside[:, 0]))
    chosen = np.argmax(np.where(np.isnan(inside), -math.inf, inside), axis=1)
    return float(np.nanmean(outside[np.arange(_RESAMPLES), chosen]))


def difference_of_independent(
    first: float, of_first: Interval, second: float, of_second: Interval
) -> tuple[float, Interval]:
    """First minus second of two scores on different items, and its interval from those of both (Zou & Donner 2008)."""
    difference = first - second
    below = math.hypot(first - of_first.low, of_second.high - second)
    above = math.hypot(of_first.high - first, second - of_second.low)
    return difference, Interval(difference - below, difference + above)


def _metric(totals: Totals, counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """The metric for each row of how often each item counts, (rows,); NaN where none does."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return totals.sign * totals.metric(counts @ totals.records)
