"""Corpus metrics from summed records equal lm-eval's own functions, on all items and on any choice of them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import sacrebleu
from lm_eval.api import metrics
from lm_eval.api.registry import get_aggregation
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.significance import PairedTest

from evomerge.estimate.corpus_metrics import samples_of
from evomerge.estimate.intervals import Mean, Totals, Whole, compare_scores, score_interval, value

WORDS = (
    *("the", "river", "rises", "in", "hills", "and", "runs", "past", "a", "market", "town", "down", "to", "sea"),
    *(".", "mvua", "ilinyesha", "usiku"),
)


def texts(seed: int, items: int = 30, wrong: float = 0.3) -> list[tuple[str, str]]:
    generator = random.Random(0)
    references = [" ".join(generator.choices(WORDS, k=generator.randrange(1, 14))) for _ in range(items)]
    generator = random.Random(seed)

    def spoilt(text: str) -> str:
        words = [generator.choice(WORDS) if generator.random() < wrong else word for word in text.split()]
        return " ".join(words[: generator.randrange(1, len(words) + 2)])

    return [(reference, spoilt(reference)) for reference in references]


def labels(seed: int, classes: int, items: int = 60) -> list[tuple[int, int]]:
    generator = random.Random(seed)
    gold = [generator.randrange(classes) for _ in range(items)]
    return [(one, one if generator.random() < 0.6 else generator.randrange(classes)) for one in gold]


def shares(seed: int, items: int = 40) -> list[tuple[int, list[float]]]:
    generator = np.random.default_rng(seed)
    return [(int(generator.integers(3)), generator.dirichlet(np.ones(3)).tolist()) for _ in range(items)]


def weighted(seed: int, items: int = 40) -> list[tuple[float, int]]:
    generator = np.random.default_rng(seed)
    return [(-float(generator.gamma(5)), int(generator.integers(1, 50))) for _ in range(items)]


CASES: dict[str, list[list[Any]]] = {
    "bleu": [texts(1), texts(2, wrong=0.5)],
    "chrf": [texts(1), texts(2, wrong=0.5)],
    "chrf++": [texts(1), texts(2, wrong=0.5)],
    "ter": [texts(1, 12), texts(2, 12, wrong=0.5)],
    "f1": [labels(1, 2), labels(2, 2)],
    "matthews_corrcoef": [labels(1, 4), labels(2, 3)],
    "perplexity": [[-0.5, -2.0, -7.25, -0.125], [-1.5, -2.0, -3.0, -0.25]],
    "weighted_perplexity": [weighted(1), weighted(2)],
    "bits_per_byte": [weighted(1), weighted(2)],
    "brier_score": [shares(1), shares(2)],
}


@pytest.mark.parametrize("name", CASES)
def test_sums_of_records_give_lm_evals_value_for_any_choice_of_items(name: str) -> None:
    function = get_aggregation(name)
    samples = samples_of(CASES[name], function, name, sign=1.0)
    generator = np.random.default_rng(0)
    for column, sample in zip(CASES[name], samples, strict=True):
        assert isinstance(sample, Totals)
        assert value(sample) == pytest.approx(function(column), rel=1e-9)
        for _ in range(10):
            chosen = generator.integers(len(column), size=len(column))
            expected = function([column[index] for index in chosen])
            found = sample.metric(sample.records[chosen].sum(axis=0)[None])[0]
            assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", ["bleu", "chrf", "ter"])
@pytest.mark.parametrize("made", ["", "zzzz", "zz zz zz zz zz zz", "the goat rises mto sea a hill", "river the sea"])
def test_texts_with_few_matches_or_none_score_as_in_sacrebleu(name: str, made: str) -> None:
    column = [("the river rises to sea", made), ("to the sea and a hill", made)]
    (sample,) = samples_of([column], get_aggregation(name), name, sign=1.0)
    assert isinstance(sample, Totals)


def test_several_references_are_followed() -> None:
    column = [(["the river rises", "a river is rising"], "a river rises"), (["to the sea", "into the sea"], "to sea")]
    (sample,) = samples_of([column], metrics.chrf, "chrf", sign=1.0)
    assert isinstance(sample, Totals)
    references = [[item[0][0] for item in column], [item[0][1] for item in column]]
    assert value(sample) == pytest.approx(sacrebleu.corpus_chrf([item[1] for item in column], references).score)


def test_intervals_and_p_of_bleu_agree_with_sacrebleus_own_significance_tests() -> None:
    first, second = texts(1, 60), texts(2, 60, wrong=0.36)
    one, other = samples_of([first, second], metrics.bleu, "bleu", sign=1.0)
    references = [[reference for reference, _ in first]]
    named = [("b", [text for _, text in second]), ("a", [text for _, text in first])]
    _, ar = PairedTest(named, {"BLEU": BLEU(references=references)}, references, "ar", 4000)()
    _, bs = PairedTest(named, {"BLEU": BLEU(references=references)}, references, "bs", 2000)()
    found = compare_scores({"t": one}, {"t": other}, {"t": 1.0})
    assert found.p == pytest.approx(ar["BLEU"][1].p_value, abs=0.03)
    low, high = score_interval({"t": one}, {"t": 1.0})
    assert (low + high) / 2 == pytest.approx(bs["BLEU"][1].mean, abs=0.7)
    assert (high - low) / 2 == pytest.approx(bs["BLEU"][1].ci, abs=0.7)


def test_a_mean_of_numbers_keeps_its_values() -> None:
    (sample,) = samples_of([[1.0, 0.0, 1.0]], metrics.mean, "mean", sign=-1.0)
    assert isinstance(sample, Mean)
    assert sample.values.tolist() == [-1.0, 0.0, -1.0]


@pytest.mark.parametrize(
    ("name", "function", "column"),
    [
        ("median", metrics.median, [1.0, 5.0, 2.0]),
        (None, lambda items: max(items), [1.0, 5.0, 2.0]),
        ("f1", lambda items: 0.5, labels(1, 2)),
    ],
)
def test_any_other_function_is_called_on_whole_items(name: str | None, function: Any, column: list[Any]) -> None:
    (sample,) = samples_of([column], function, name, sign=1.0)
    assert isinstance(sample, Whole)
    assert value(sample) == function(column)
