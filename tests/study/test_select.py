"""Shortlist and summary: what may win, and what result.json says."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.errors import RunError
from evomerge.estimate.intervals import Mean
from evomerge.run.evaluation import Evaluation
from evomerge.run.trial import Trial, TrialKind, TrialState
from evomerge.study.select import Scored, best_uniform, best_validated, not_clearly_worse, shortlist, summary


def trial(number: int, kind: str = "candidate", key: str | None = None) -> Trial:
    return Trial(
        number=number,
        kind=TrialKind(kind),
        name=f"{kind} {number}",
        generation=None,
        parameters={},
        recipe_key=key or str(number),
        state=TrialState.COMPLETE,
        score=None,
    )


def evaluations(scores: dict[int, float | None]) -> dict[int, Evaluation]:
    return {number: Evaluation(trial=number, split="search", score=score) for number, score in scores.items()}


def test_the_shortlist_holds_the_best_the_newest_mean_and_the_best_uniform() -> None:
    trials = [
        trial(0, "base"),
        trial(1, "expert"),
        trial(2, "uniform"),
        trial(3, "uniform"),
        *(trial(number) for number in range(4, 9)),
        trial(9, "mean"),
        trial(10, "mean"),
    ]
    scores = {0: 0.99, 1: 0.98, 2: 0.2, 3: 0.3, 4: 0.5, 5: 0.7, 6: None, 7: 0.6, 8: 0.1, 9: 0.65, 10: 0.05}
    found = shortlist(trials, evaluations(scores), 2, best_uniform(trials, evaluations(scores), 1))
    assert [item.number for item in found] == [5, 7, 3, 10]
    assert [
        item.number for item in shortlist(trials, evaluations(scores), 2, best_uniform(trials, evaluations(scores), 2))
    ] == [5, 7, 3, 2, 10]


def test_the_uniform_merge_to_compare_with_is_the_best_on_validation_of_those_best_in_the_search() -> None:
    trials = [trial(number, "uniform") for number in range(4)]
    best = best_uniform(trials, evaluations({0: 0.5, 1: 0.9, 2: 0.8, 3: None}), 2)
    assert [item.number for item in best] == [1, 2]
    assert best_validated(best, evaluations({1: 0.3, 2: 0.7})).number == 2
    assert best_validated(best, evaluations({1: 0.7, 2: 0.7})).number == 1
    assert best_validated(best, {1: None, 2: evaluations({2: 0.1})[2]}).number == 2
    assert best_validated(best, {**evaluations({1: None}), 2: None}).number == 1


def test_the_same_recipe_is_listed_once_and_the_earlier_of_equals_comes_first() -> None:
    trials = [trial(0, key="a"), trial(1, key="b"), trial(2, key="a"), trial(3, key="c")]
    found = shortlist(trials, evaluations({0: 0.5, 1: 0.5, 2: 0.5, 3: 0.4}), 2, [])
    assert [item.number for item in found] == [0, 1]


def test_when_every_merge_failed_there_is_no_winner() -> None:
    with pytest.raises(RunError, match="every candidate failed"):
        shortlist([trial(0, "base"), trial(1)], evaluations({0: 0.5, 1: None}), 3, [])
    assert best_uniform([trial(0, "uniform")], evaluations({0: None}), 3) == []


def test_a_summary_compares_the_winner_with_each_rival_on_the_same_items() -> None:
    def scored(number: int, kind: str, values: list[float]) -> Scored:
        items = np.array(values)
        return Scored(trial=number, name=kind, kind=kind, score=float(items.mean()), items={"t": Mean(items)})

    found = summary(
        [scored(0, "base", [0.0] * 20), scored(1, "uniform", [1.0] * 10 + [0.0] * 10), scored(2, "winner", [1.0] * 20)],
        {"t": 1.0},
    )
    assert [model["kind"] for model in found["models"]] == ["base", "uniform", "winner"]
    assert [row["winner_vs"] for row in found["comparisons"]] == ["base", "uniform"]
    assert found["comparisons"][1]["difference"] == pytest.approx(0.5)
    assert found["comparisons"][1]["p"] == pytest.approx(2 * 0.5**10)
    assert found["comparisons"][1]["p_holm"] >= found["comparisons"][1]["p"]
    low, high = found["models"][1]["interval"]
    assert low < 0.5 < high


def test_a_uniform_merge_that_the_search_items_show_to_be_worse_is_not_validated() -> None:
    shares = {0: 60, 1: 55, 2: 30}
    items = [{"t": Mean(np.array([1.0] * right + [0.0] * (100 - right)))} for right in shares.values()]
    trials = [trial(number, "uniform") for number in shares]
    assert [kept.number for kept in not_clearly_worse(trials, items, {"t": 1.0})] == [0]
    mixed = [{"t": Mean(np.roll(one["t"].values, 37 * number))} for number, one in enumerate(items)]
    assert [kept.number for kept in not_clearly_worse(trials, mixed, {"t": 1.0})] == [0, 1]


def test_items_of_a_cluster_are_not_that_many_proofs_of_what_is_worse() -> None:
    items = [
        {"t": Mean(np.repeat(right, 5))}
        for right in ([1.0, 1.0, 1.0, 1.0, 0.0, 0.0] * 2, [1.0, 1.0, 1.0, 0.0, 0.0, 0.0] * 2)
    ]
    trials = [trial(number, "uniform") for number in range(2)]
    assert [kept.number for kept in not_clearly_worse(trials, items, {"t": 1.0})] == [0]
    clusters = {"t": [str(place // 5) for place in range(60)]}
    one_each = [{"t": Mean(one["t"].values[::5])} for one in items]
    expected = [kept.number for kept in not_clearly_worse(trials, one_each, {"t": 1.0})]
    assert [kept.number for kept in not_clearly_worse(trials, items, {"t": 1.0}, clusters)] == expected == [0, 1]


def test_a_uniform_merge_that_won_is_not_compared_with_itself() -> None:
    items = {"t": Mean(np.array([0.0, 1.0, 1.0]))}
    kinds = {0: "base", 4: "uniform"}
    models = [Scored(trial=number, name=kind, kind=kind, score=0.5, items=items) for number, kind in kinds.items()]
    models.append(Scored(trial=4, name="winner", kind="winner", score=0.5, items=items))
    found = summary(models, {"t": 1.0})
    assert [row["winner_vs"] for row in found["comparisons"]] == ["base"]
    assert [model["kind"] for model in found["models"]] == ["base", "uniform", "winner"]
