"""Corpus metrics as sums: for each of lm-eval's aggregation functions, item records whose sums decide its value.

With them thousands of resamples cost a matrix product. Records are used only where they give the very value
that lm-eval's function gives; any other function is called on whole items.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.estimate.intervals import Mean, Sample, Totals, Whole, value

Array = NDArray[np.float64]
Metric = Callable[[Array], Array]

# More classes than this make a confusion matrix too large to resample.
_MOST_CLASSES = 40


def samples_of(
    columns: Sequence[Sequence[Any]],
    aggregation: Callable[[Sequence[Any]], float],
    name: str | None,
    *,
    sign: float,
) -> list[Sample]:
    """One metric of several models on the same items, ready for intervals and comparisons.

    Args:
        columns: for each model one value per item, as the task's metric made them.
        aggregation: the task's own function over the items of one model.
        name: of that function in lm-eval's registry; None if it is the task's invention.
        sign: 1, or -1 where lower is better.
    """
    everything = [item for column in columns for item in column]
    if name == "mean" and all(isinstance(item, int | float) for item in everything):
        return [Mean(sign * np.array(column, dtype=np.float64)) for column in columns]
    wholes = [Whole(column, quietly(aggregation), sign) for column in columns]
    try:
        found = _RECORDS[name](everything) if name in _RECORDS else None
    except (TypeError, ValueError, IndexError, AttributeError, ImportError, OverflowError):
        found = None
    if found is None:
        return list(wholes)
    records, metric = found
    ends = np.cumsum([len(column) for column in columns])
    totals = [Totals(part, metric, sign) for part in np.split(records, ends[:-1])]
    agree = all(
        math.isclose(value(one), value(other), rel_tol=1e-9, abs_tol=1e-9)
        for one, other in zip(totals, wholes, strict=True)
    )
    return list(totals) if agree else list(wholes)


def quietly(aggregation: Callable[[Sequence[Any]], float]) -> Callable[[Sequence[Any]], float]:
    """The same function without its warnings, such as scikit-learn's of a class that was never predicted."""

    def call(values: Sequence[Any]) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return float(aggregation(values))

    return call


def _numbers(values: Sequence[Any]) -> Array:
    """One number per item with a count of one; the sums give the mean."""
    column = np.array(values, dtype=np.float64)
    return np.stack([column, np.ones_like(column)], axis=1)


def _pairs(values: Sequence[Any]) -> Array:
    """(numerator, denominator) per item; the sums give the weighted mean."""
    return np.array(values, dtype=np.float64).reshape(len(values), 2)


def _mean(sums: Array) -> Array:
    return np.divide(sums[:, 0], sums[:, 1])


def _perplexity(sums: Array) -> Array:
    return np.exp(-_mean(sums))


def _bits(sums: Array) -> Array:
    return _mean(sums) / -math.log(2)


def _f1(values: Sequence[Any]) -> tuple[Array, Metric] | None:
    gold, predicted = (np.array(column) for column in zip(*values, strict=True))
    if not (np.isin(gold, (0, 1)).all() and np.isin(predicted, (0, 1)).all()):
        return None
    right = (gold == 1) & (predicted == 1)
    return np.stack([2.0 * right, (gold == 1) * 1.0 + (predicted == 1)], axis=1), _share


def _share(sums: Array) -> Array:
    return np.divide(sums[:, 0], sums[:, 1], out=np.zeros(len(sums)), where=sums[:, 1] > 0)


def _mcc(values: Sequence[Any]) -> tuple[Array, Metric] | None:
    """Confusion matrix per item; Matthews' correlation of several classes (Gorodkin 2004)."""
    gold, predicted = (np.array(column) for column in zip(*values, strict=True))
    classes = np.unique(np.concatenate([gold, predicted]))
    count = len(classes)
    if count > _MOST_CLASSES:
        return None
    cells = np.searchsorted(classes, gold) * count + np.searchsorted(classes, predicted)

    def metric(sums: Array) -> Array:
        matrix = sums.reshape(len(sums), count, count)
        true, made = matrix.sum(axis=2), matrix.sum(axis=1)
        items = true.sum(axis=1)
        covariance: Array = np.trace(matrix, axis1=1, axis2=2) * items - (true * made).sum(axis=1)
        spread: Array = (items**2 - (true**2).sum(axis=1)) * (items**2 - (made**2).sum(axis=1))
        found: Array = np.divide(covariance, np.sqrt(spread), out=np.zeros(len(sums)), where=spread > 0)
        return found

    return np.eye(count * count)[cells], metric


def _brier(values: Sequence[Any]) -> tuple[Array, Metric]:
    gold, shares = zip(*values, strict=True)
    made = np.array(shares, dtype=np.float64)
    return _numbers(np.sum((made - np.eye(made.shape[1])[list(gold)]) ** 2, axis=1)), _mean


def _texts(values: Sequence[Any]) -> tuple[list[str], list[list[str]]]:
    """Predictions, and the streams of references, as sacrebleu takes them."""
    references = [[item[0]] if isinstance(item[0], str) else list(item[0]) for item in values]
    predictions = [item[1] if isinstance(item[1], str) else item[1][0] for item in values]
    return predictions, [list(stream) for stream in zip(*references, strict=True)]


def _bleu(values: Sequence[Any]) -> tuple[Array, Metric]:
    from sacrebleu.metrics.bleu import BLEU

    # `force` only leaves out a warning about texts that look tokenised.
    records = BLEU(force=True)._extract_corpus_statistics(*_texts(values))
    return np.array(records, dtype=np.float64), _bleu_of


def _bleu_of(sums: Array) -> Array:
    """Corpus BLEU with the "exp" smoothing of Chen & Cherry 2014, from lengths and n-gram counts, shape (r, 10)."""
    made, wanted, matches, counts = sums[:, 0], sums[:, 1], sums[:, 2:6], sums[:, 6:10]
    some = counts > 0
    missed = (matches == 0) & some
    smoothed = np.divide(1.0, np.exp2(np.cumsum(missed, axis=1)) * counts, out=np.zeros_like(counts), where=some)
    precision = np.where(missed, smoothed, np.divide(matches, counts, out=np.zeros_like(counts), where=some))
    logs = np.log(np.maximum(precision, 1e-300)).mean(axis=1)
    short = np.divide(wanted, made, out=np.full(len(sums), np.inf), where=made > 0)
    penalty = np.exp(np.minimum(0.0, 1.0 - short))
    defined = (matches > 0).any(axis=1) & (counts > 0).all(axis=1)
    return np.where(defined, 100.0 * penalty * np.exp(logs), 0.0)


def _chrf(word_order: int) -> Callable[[Sequence[Any]], tuple[Array, Metric]]:
    def records(values: Sequence[Any]) -> tuple[Array, Metric]:
        from sacrebleu.metrics.chrf import CHRF

        return np.array(
            CHRF(word_order=word_order)._extract_corpus_statistics(*_texts(values)), dtype=np.float64
        ), _chrf_of

    return records


def _chrf_of(sums: Array) -> Array:
    """ChrF with beta 2 from the n-gram counts of hypothesis, reference and match per order, shape (r, 3 orders)."""
    made, wanted, matches = sums[:, 0::3], sums[:, 1::3], sums[:, 2::3]
    both = (made > 0) & (wanted > 0)
    orders = np.maximum(1, both.sum(axis=1))
    precision: Array = np.divide(matches, made, out=np.zeros_like(made), where=both).sum(axis=1) / orders
    recall: Array = np.divide(matches, wanted, out=np.zeros_like(made), where=both).sum(axis=1) / orders
    denominator = 4 * precision + recall
    return np.divide(500 * precision * recall, denominator, out=np.zeros(len(sums)), where=denominator > 0)


def _ter(values: Sequence[Any]) -> tuple[Array, Metric]:
    from sacrebleu.metrics.ter import TER

    return np.array(TER()._extract_corpus_statistics(*_texts(values)), dtype=np.float64), _ter_of


def _ter_of(sums: Array) -> Array:
    """Translation edit rate from edits and mean reference length, shape (r, 2)."""
    edits, length = sums[:, 0], sums[:, 1]
    rate = np.divide(100 * edits, length, out=np.zeros(len(sums)), where=length > 0)
    return np.where((length <= 0) & (edits > 0), 100.0, rate)


_RECORDS: Mapping[str | None, Callable[[Sequence[Any]], tuple[Array, Metric] | None]] = {
    "perplexity": lambda values: (_numbers(values), _perplexity),
    "weighted_perplexity": lambda values: (_pairs(values), _perplexity),
    "bits_per_byte": lambda values: (_pairs(values), _bits),
    "f1": _f1,
    "matthews_corrcoef": _mcc,
    "brier_score": _brier,
    "bleu": _bleu,
    "chrf": _chrf(0),
    "chrf++": _chrf(2),
    "ter": _ter,
}
