"""Items in clusters: simulations with a known truth, closed forms, and another library's standard errors."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from evomerge.estimate.clusters import clustered_comparison, clustered_error, clustered_interval
from evomerge.estimate.intervals import Mean, Totals, compare_scores, score_interval

ROOT = Path(__file__).resolve().parents[2]
ONE = {"t": 1.0}
Array = NDArray[np.float64]
OF_INDEPENDENT_ITEMS = {f"evomerge.estimate.{name}" for name in ("comparisons", "intervals", "proportions")}
HARMLESS = {"holm", "resamples", "size", "value", "weighted_mean"}
"""Functions there that say nothing of how well a score is known."""


def names(groups: int, each: int) -> list[str]:
    return [f"c{number}" for number in range(groups) for _ in range(each)]


def translations(generator: np.random.Generator, groups: int, each: int, lead: float) -> tuple[Array, Array]:
    """Two models that are right on most or none of a question's translations, the first on more by `lead`."""
    own = np.repeat(generator.random((2, groups)), each, axis=1)
    other = generator.random((2, groups * each))
    scores = (np.where(generator.random(own.shape) < 0.8, own, other) < np.array([[0.5 + lead], [0.5]])).astype(float)
    return scores[0], scores[1]


def test_intervals_and_tests_hold_for_clusters_where_those_of_independent_items_do_not() -> None:
    generator = np.random.default_rng(0)
    repeats, groups, each = 200, 40, 5
    held = {"clustered": 0, "independent": 0}
    alone = {"clustered": 0, "independent": 0}
    rejected = 0
    clusters = {"t": names(groups, each)}
    for _ in range(repeats):
        first, second = ({"t": Mean(values)} for values in translations(generator, groups, each, 0.0))
        clustered = clustered_comparison(first, second, ONE, clusters)
        independent = compare_scores(first, second, ONE)
        held["clustered"] += clustered.interval.low <= 0 <= clustered.interval.high
        held["independent"] += independent.interval.low <= 0 <= independent.interval.high
        rejected += clustered.p < 0.05
        for name, interval in (
            ("clustered", clustered_interval(first, ONE, clusters)),
            ("independent", score_interval(first, ONE)),
        ):
            alone[name] += interval.low <= 0.5 <= interval.high
    # Two standard errors of a share of 0.95 among 200 are 0.031.
    assert min(held["clustered"], alone["clustered"]) / repeats >= 0.919
    assert max(held["independent"], alone["independent"]) / repeats < 0.85
    assert rejected / repeats <= 0.081


def test_without_a_cluster_of_several_items_nothing_differs() -> None:
    generator = np.random.default_rng(1)
    first, second = ({"t": Mean((generator.random(60) < 0.5).astype(float))} for _ in range(2))
    for clusters in (None, {"t": names(60, 1)}):
        assert clustered_interval(first, ONE, clusters) == score_interval(first, ONE)
        assert clustered_comparison(first, second, ONE, clusters) == compare_scores(first, second, ONE)


def test_copies_of_each_item_add_nothing() -> None:
    generator = np.random.default_rng(2)
    once = (generator.random(100) < 0.6).astype(float)
    less = (generator.random(100) < 0.4).astype(float)
    copied = [{"t": Mean(np.repeat(values, 6))} for values in (once, less)]
    single = compare_scores({"t": Mean(once)}, {"t": Mean(less)}, ONE)
    found = clustered_comparison(*copied, ONE, {"t": names(100, 6)})
    naive = compare_scores(*copied, ONE)
    width = single.interval.high - single.interval.low
    assert found.interval.high - found.interval.low == pytest.approx(width, rel=0.05)
    assert naive.interval.high - naive.interval.low < 0.5 * width
    assert found.p == pytest.approx(single.p, abs=0.02)


def test_no_interval_is_of_zero_width_and_items_that_agree_count_once_a_cluster() -> None:
    same = {"t": Mean(np.ones(60))}
    clusters = {"t": names(12, 5)}
    difference = clustered_comparison(same, same, ONE, clusters)
    independent = compare_scores(same, same, ONE)
    assert difference.p == 1.0
    ratio = difference.interval.high / independent.interval.high
    assert ratio == pytest.approx(5**0.5 * 2.2010 / 1.95996, rel=1e-3)
    alone = clustered_interval(same, ONE, clusters)
    assert alone.low < score_interval(same, ONE).low
    assert alone.high == pytest.approx(1.0)
    real = {"t": Mean(np.full(60, 0.25))}
    equal = clustered_comparison(real, real, ONE, clusters)
    assert equal.interval.low < 0 < equal.interval.high


def test_the_standard_error_is_the_textbooks() -> None:
    generator = np.random.default_rng(3)
    values, clusters = generator.normal(size=90), [f"c{number}" for number in generator.integers(0, 14, 90)]
    members = {name: [value for value, own in zip(values, clusters, strict=True) if own == name] for name in clusters}
    sums = [sum(value - values.mean() for value in own) for own in members.values()]
    count = len(members)
    expected = (count / (count - 1) * sum(each**2 for each in sums)) ** 0.5 / 90
    assert clustered_error(values, clusters) == pytest.approx(expected, rel=1e-12)


def test_the_standard_error_is_that_of_statsmodels() -> None:
    linear = pytest.importorskip("statsmodels.regression.linear_model")
    generator = np.random.default_rng(4)
    values, clusters = generator.normal(size=90), generator.integers(0, 14, 90)
    fitted = linear.OLS(values, np.ones((90, 1))).fit(cov_type="cluster", cov_kwds={"groups": clusters})
    # Its correction for one coefficient, (n - 1) / (n - 1), is none.
    assert clustered_error(values, [str(number) for number in clusters]) == pytest.approx(float(fitted.bse[0]))


def test_translations_in_several_tasks_are_one_cluster() -> None:
    generator = np.random.default_rng(5)
    first, second = ((generator.random(80) < share).astype(float) for share in (0.6, 0.4))
    own = [f"q{number}" for number in range(80)]
    tasks = {"en": 1.0, "sw": 1.0}
    twice = [{"en": Mean(values), "sw": Mean(values.copy())} for values in (first, second)]
    together = clustered_comparison(*twice, tasks, {"en": own, "sw": own})
    apart = clustered_comparison(*twice, tasks, {"en": own, "sw": [f"other {name}" for name in own]})
    single = compare_scores({"en": Mean(first)}, {"en": Mean(second)}, {"en": 1.0})
    assert together.interval.high - together.interval.low == pytest.approx(
        single.interval.high - single.interval.low, rel=0.05
    )
    assert apart.interval.high - apart.interval.low < 0.8 * (together.interval.high - together.interval.low)


def test_a_metric_of_sums_is_compared_by_whole_clusters_as_its_mean_is() -> None:
    generator = np.random.default_rng(6)
    pairs = translations(generator, 30, 4, 0.2)

    def ratio(sums: Array) -> Array:
        return sums[:, 0] / sums[:, 1]

    clusters = {"t": names(30, 4)}
    means = clustered_comparison(*({"t": Mean(values)} for values in pairs), ONE, clusters)
    sums = [{"t": Totals(np.stack([values, np.ones(120)], axis=1), ratio)} for values in pairs]
    totals = clustered_comparison(*sums, ONE, clusters)
    assert totals.difference == pytest.approx(means.difference)
    assert totals.p == pytest.approx(means.p, abs=0.02)
    assert totals.interval == pytest.approx(means.interval, abs=0.03)


def test_no_other_room_takes_intervals_and_comparisons_of_independent_items() -> None:
    """Else items in clusters count as independent in one figure and not in the next."""
    for path in sorted((ROOT / "evomerge").rglob("*.py")):
        if path.is_relative_to(ROOT / "evomerge" / "estimate"):
            continue
        taken = {
            alias.name
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom) and node.module in OF_INDEPENDENT_ITEMS
            for alias in node.names
        }
        assert {name for name in taken if name[0].islower()} <= HARMLESS, path
