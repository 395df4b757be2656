"""Laws of every registered alignment method, and of those that go label by label."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.alignment import ALIGNMENTS
from evomerge.alignment.base import Alignment, Method, made
from evomerge.alignment.merge_many import MergeMany
from evomerge.alignment.spec import from_arrays, to_arrays
from evomerge.alignment.weight_matching import WeightMatching
from evomerge.errors import AlignmentError
from helpers.alignment import MLP, MLP_SHAPES, agreement, decoder_spec, distance, mapped, random_weights

pytestmark = pytest.mark.slow

SPEC = decoder_spec()
methods = pytest.mark.parametrize("name", ALIGNMENTS.names())


def aligned(method: Method, models: list[dict[str, torch.Tensor]], seed: int = 0, reference: int = 0) -> Alignment:
    return method.align(SPEC, models, reference=reference, generator=np.random.default_rng(seed))


@methods
def test_models_that_are_maps_of_one_are_brought_together(name: str) -> None:
    generator = np.random.default_rng(7)
    model = random_weights(SPEC, 1)
    models = [model, *(mapped(SPEC, SPEC.random(generator), model) for _ in range(2))]
    together = aligned(made(ALIGNMENTS.get(name), {}), models).onto(0)
    assert distance(models) > 1
    assert distance([mapped(SPEC, maps, one) for maps, one in zip(together, models, strict=True)]) < 1e-4


@methods
def test_the_reference_stays_and_all_maps_are_of_the_spec(name: str) -> None:
    models = [random_weights(SPEC, seed) for seed in range(3)]
    found = aligned(made(ALIGNMENTS.get(name), {}), models, reference=1)
    for maps in found.onto(1):
        assert maps.keys() == SPEC.labels.keys()
        from_arrays(SPEC, to_arrays(maps))
    assert distance([models[1], mapped(SPEC, found.onto(1)[1], models[1])]) < 1e-6


@methods
def test_alignment_brings_models_closer_than_they_were(name: str) -> None:
    models = [random_weights(SPEC, seed) for seed in range(3)]
    found = aligned(made(ALIGNMENTS.get(name), {}), models)
    after = [mapped(SPEC, maps, model) for maps, model in zip(found.onto(0), models, strict=True)]
    pairs = ((0, 1), (0, 2), (1, 2))
    assert sum(agreement(after[a], after[b]) for a, b in pairs) > sum(agreement(models[a], models[b]) for a, b in pairs)


@methods
def test_identical_models_keep_the_identity(name: str) -> None:
    model = random_weights(SPEC, 3)
    found = aligned(made(ALIGNMENTS.get(name), {}), [model, dict(model)])
    assert found.history == ()
    for maps in found.onto(0):
        assert distance([model, mapped(SPEC, maps, model)]) == 0


@methods
def test_the_same_seed_finds_the_same_maps(name: str) -> None:
    models = [random_weights(SPEC, seed) for seed in range(3)]
    one, two = (aligned(made(ALIGNMENTS.get(name), {}), models, seed=5) for _ in range(2))
    assert one.history == two.history
    for a, b in zip(one.maps, two.maps, strict=True):
        assert all(torch.equal(array, to_arrays(b)[key]) for key, array in to_arrays(a).items())


@methods
def test_numbers_that_are_not_finite_are_named(name: str) -> None:
    models = [random_weights(SPEC, seed) for seed in range(2)]
    models[1]["1.up"][0, 0] = float("nan")
    with pytest.raises(AlignmentError, match=r"1\.up: holds numbers that aren't finite"):
        aligned(made(ALIGNMENTS.get(name), {}), models)


@methods
def test_progress_ends_with_nothing_left(name: str) -> None:
    seen: list[tuple[int, int]] = []
    models = [random_weights(SPEC, seed) for seed in range(2)]
    method = made(ALIGNMENTS.get(name), {})
    method.align(
        SPEC,
        models,
        reference=0,
        generator=np.random.default_rng(0),
        progress=lambda done, every: seen.append((done, every)),
    )
    assert seen
    assert all(0 < done <= every for done, every in seen)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1]


@given(seed=st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_no_order_of_one_layer_improves_on_weight_matching_and_no_orders_at_all_on_the_best(
    seed: int,
) -> None:
    one, two = (random_weights(MLP, number, MLP_SHAPES) for number in (seed, seed + 1))

    def value(orders: tuple[tuple[int, ...], tuple[int, ...]]) -> float:
        maps = {
            label: MLP.labels[label].load({"order": torch.tensor(order)})
            for label, order in zip(("one", "two"), orders, strict=True)
        }
        return agreement(one, mapped(MLP, maps, two))

    def found(orders: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        method = WeightMatching(orders=orders, tolerance=1e-9)
        maps = method.align(MLP, [one, two], reference=0, generator=np.random.default_rng(seed)).maps[1]
        first, second = (tuple(maps[label].arrays()["order"].tolist()) for label in ("one", "two"))
        return first, second

    first, second = found(1)
    near = [
        *((order, second) for order in permutations(range(4))),
        *((first, order) for order in permutations(range(3))),
    ]
    assert max(map(value, near)) == pytest.approx(value((first, second)), abs=1e-4)
    every = [(a, b) for a in permutations(range(4)) for b in permutations(range(3))]
    assert value((first, second)) <= value(found(4)) + 1e-4 <= max(map(value, every)) + 2e-4


def test_labels_that_were_matched_by_all_their_tensors_are_not_looked_at_again() -> None:
    looks: list[int] = []
    model = random_weights(SPEC, 1)
    other = mapped(SPEC, SPEC.random(np.random.default_rng(7)), model)
    found = WeightMatching().align(
        SPEC,
        [model, other],
        reference=0,
        generator=np.random.default_rng(0),
        progress=lambda done, _: looks.append(done),
    )
    assert distance([model, mapped(SPEC, found.maps[1], other)]) < 1e-4
    # The stream by the embedding first, each layer's labels by all they have, the stream again by all of it.
    assert looks[-1] == len(SPEC.labels) + 1


def test_gains_add_up_to_what_the_agreement_rose_by() -> None:
    models = [random_weights(SPEC, seed) for seed in range(2)]
    for orders in (1, 3):
        found = aligned(WeightMatching(orders=orders), models)
        after = agreement(models[0], mapped(SPEC, found.maps[1], models[1]))
        before = agreement(*models)
        assert sum(step.gain for step in found.history) == pytest.approx(after - before, rel=1e-4)
        assert all(step.gain > 0 and step.model == 1 for step in found.history)


def test_more_orders_never_find_worse() -> None:
    models = [random_weights(SPEC, seed) for seed in range(2)]
    totals = [sum(step.gain for step in aligned(WeightMatching(orders=n), models).history) for n in (1, 2, 4)]
    assert totals == sorted(totals)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": 2}, "unknown option of weight_matching 'order'. Did you mean 'orders'"),
        ({"orders": 0}, "weight_matching: orders has to be at least 1"),
        ({"orders": 2.5}, "orders has to be a int"),
        ({"orders": True}, "orders has to be a int"),
        ({"tolerance": float("nan")}, "tolerance has to be at least 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(AlignmentError, match=message):
        made(WeightMatching, options)
    assert made(WeightMatching, {"tolerance": 0}) == WeightMatching(tolerance=0)
    assert made(MergeMany, {}) == MergeMany()
