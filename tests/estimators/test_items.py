"""Orders of items: permutations, of which any number from the front is what it promises to be."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from evomerge.estimators.items import ORDERS, anchors, order_of
from evomerge.testing.estimator_laws import simulated


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("items", [1, 2, 31, 90])
def test_every_order_is_a_permutation_and_the_same_for_the_same_seed(name: str, items: int) -> None:
    scores = simulated(0)[0].scores[:, :items]
    order = order_of(name, scores, 3)
    assert sorted(order) == list(range(items))
    assert order.tolist() == order_of(name, scores.copy(), 3).tolist()


@pytest.mark.parametrize("name", ORDERS)
def test_before_anybody_has_answered_items_come_in_random_order(name: str) -> None:
    nothing = np.full((2, 40), np.nan)
    assert order_of(name, nothing, 5).tolist() == order_of("random", nothing, 5).tolist()


def test_any_number_from_the_front_of_a_stratified_order_is_as_hard_as_the_whole() -> None:
    scores = simulated(1)[0].scores[:18]
    difficulty = scores.mean(axis=0)
    off = {}
    for name in ("random", "stratified"):
        fronts = [difficulty[order_of(name, scores, seed)[:10]].mean() for seed in range(60)]
        off[name] = np.sqrt(np.mean((np.array(fronts) - difficulty.mean()) ** 2))
    assert off["stratified"] < 0.5 * off["random"]


def test_with_a_stratified_order_each_item_comes_first_about_as_often() -> None:
    scores = simulated(2)[0].scores[:18, :16]
    first = np.bincount([order_of("stratified", scores, seed)[0] for seed in range(800)], minlength=16)
    assert first.min() > 20
    assert first.max() < 100


def test_entropy_begins_with_items_that_half_of_the_models_have_right() -> None:
    scores = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 0], [1, 0, 1, 0]], dtype=np.float64)
    assert order_of("entropy", scores, 0)[0] == 1
    assert order_of("entropy", scores, 0)[1] == 2


def test_information_prefers_items_that_separate_good_models_from_bad_ones() -> None:
    generator = np.random.default_rng(0)
    ability = generator.normal(size=(80, 1))
    telling = generator.random((80, 10)) < special.expit(2.5 * (ability - 0.5))
    chance = generator.random((80, 10)) < 0.5
    solved = np.ones((80, 10), dtype=bool)
    order = order_of("information", np.hstack([chance, telling, solved]).astype(np.float64), 0)
    assert set(order[:10]) == set(range(10, 20))
    assert not set(order[:10]) & set(range(20, 30))
    assert len(set(order[10:20]) & set(range(20, 30))) < 5


def test_anchors_stand_for_all_items_once_and_one_for_each_is_no_choice() -> None:
    scores = simulated(3)[0].scores
    found = anchors(scores, 12)
    assert len(set(found.items)) == len(found.items) <= 12
    assert found.weights.sum() == pytest.approx(1.0)
    every = anchors(scores[:, :9], 9)
    assert sorted(every.items) == list(range(9))
    assert np.allclose(every.weights, 1 / 9)


def test_weighted_anchors_are_as_hard_as_all_items() -> None:
    scores = simulated(4)[0].scores[:18]
    found = anchors(scores, 30)
    errors = scores[:, found.items] @ found.weights - scores.mean(axis=1)
    assert abs(errors.mean()) < 0.03


def test_an_unknown_order_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"unknown order of items 'entropie'. Did you mean 'entropy'"):
        order_of("entropie", np.ones((2, 2)), 0)
