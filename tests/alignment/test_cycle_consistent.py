"""C2M3: models in one common place, against brute force, planted maps and derivatives worked out otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise, permutations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evomerge.alignment.base import Alignment, Method
from evomerge.alignment.cycle_consistent import CycleConsistent
from evomerge.alignment.kinds import Heads, Kind, Map, Orthogonal, Permutation, SignedPermutation
from evomerge.alignment.kinds.permutation import Order
from evomerge.alignment.spec import Axis, Spec, composed, inverse
from evomerge.alignment.universe import Mixture, Universe, towards
from evomerge.alignment.weight_matching import WeightMatching
from evomerge.errors import AlignmentError
from evomerge.streams import stream

pytestmark = pytest.mark.slow

Model = dict[str, Tensor]


def dense(kind: type[Permutation] | type[SignedPermutation] | type[Orthogonal], *sizes: int) -> Spec:
    """A network whose hidden layers are labels of one kind; its first and last axes are fixed."""
    inputs, *hidden, _ = sizes
    labels: dict[str, Kind] = {f"hidden{place}": kind(size) for place, size in enumerate(hidden)}
    axes = [None, *(Axis(label) for label in labels), None]
    tensors: dict[str, tuple[Axis | None, ...]] = {}
    for place, (before, after) in enumerate(pairwise(axes)):
        tensors[f"{place}.weight"] = (after, before)
        tensors[f"{place}.bias"] = (after,)
    assert inputs
    return Spec(labels=labels, tensors=tensors)


def random_model(*sizes: int, seed: int) -> Model:
    generator = torch.Generator().manual_seed(seed)
    model = {}
    for place, (before, after) in enumerate(pairwise(sizes)):
        model[f"{place}.weight"] = torch.randn(after, before, generator=generator)
        model[f"{place}.bias"] = torch.randn(after, generator=generator)
    return model


def moved(spec: Spec, maps: Mapping[str, Map], model: Model, noise: float = 0.0, seed: int = 0) -> Model:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: spec.apply(maps, name, tensor) + noise * torch.randn(tensor.shape, generator=generator)
        for name, tensor in model.items()
    }


def align(spec: Spec, models: Sequence[Model], method: Method | None = None) -> Alignment:
    return (method or CycleConsistent()).align(spec, models, reference=0, generator=stream(0, "align"))


def objective(spec: Spec, models: Sequence[Model], maps: Sequence[Mapping[str, Map]]) -> float:
    """Σ_{p<q} ⟨U_p, U_q⟩, pair by pair in float64."""
    flat = [
        torch.cat([spec.apply(own, name, tensor).flatten().double() for name, tensor in model.items()])
        for own, model in zip(maps, models, strict=True)
    ]
    return sum(float(flat[p] @ flat[q]) for q in range(len(flat)) for p in range(q))


@pytest.mark.parametrize("kind", [Permutation, SignedPermutation, Orthogonal])
@pytest.mark.parametrize("count", [2, 5])
def test_planted_maps_are_found(kind: type[Permutation], count: int) -> None:
    sizes = (20, 12, 9, 14)
    spec = dense(kind, *sizes)
    model = random_model(*sizes, seed=1)
    planted = [spec.random(stream(seed, "planted")) for seed in range(count)]
    models = [moved(spec, maps, model, noise=0.02, seed=seed) for seed, maps in enumerate(planted)]
    back = align(spec, models).onto(0)
    for own, other in zip(back, models, strict=True):
        for name in model:
            torch.testing.assert_close(spec.apply(own, name, other[name]), models[0][name], atol=0.2, rtol=0)
    for label in spec.labels:
        if kind is not Orthogonal:
            for own, maps in zip(back, planted, strict=True):
                found, wanted = own[label], planted[0][label].after(maps[label].inverse())
                assert {key: value.tolist() for key, value in found.arrays().items()} == {
                    key: value.tolist() for key, value in wanted.arrays().items()
                }


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), signed=st.booleans())
def test_two_models_with_one_label_are_matched_as_well_as_can_be(seed: int, signed: bool) -> None:
    sizes = (3, 4, 2)
    kind = SignedPermutation if signed else Permutation
    spec = dense(kind, *sizes)
    models = [random_model(*sizes, seed=seed), random_model(*sizes, seed=seed + 1)]
    every = [
        {"hidden0": Order(torch.tensor(order), torch.tensor(signs, dtype=torch.int8) if signed else None)}
        for order in permutations(range(4))
        for signs in (product((1, -1), repeat=4) if signed else [None])
    ]
    best = max(objective(spec, models, [spec.identity(), maps]) for maps in every)
    assert objective(spec, models, align(spec, models).maps) == pytest.approx(best, rel=1e-5)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_no_other_map_of_any_one_label_and_model_is_better(seed: int) -> None:
    sizes = (3, 3, 4, 2)
    spec = dense(Permutation, *sizes)
    models = [random_model(*sizes, seed=seed + place) for place in range(3)]
    found = align(spec, models)
    reached = objective(spec, models, found.maps)
    for model, (label, kind) in product(range(3), spec.labels.items()):
        for order in permutations(range(kind.sizes["unit"])):
            changed = [dict(maps) for maps in found.maps]
            changed[model][label] = Order(torch.tensor(order))
            assert objective(spec, models, changed) <= reached + 1e-4 * abs(reached)


def test_three_noisy_copies_reach_the_best_of_all_triples() -> None:
    sizes = (5, 3, 4)
    spec = dense(Permutation, *sizes)
    every = [{"hidden0": Order(torch.tensor(order))} for order in permutations(range(3))]
    for seed in range(5):
        model = random_model(*sizes, seed=seed)
        models = [moved(spec, every[(seed + 2 * place) % 6], model, noise=0.5, seed=place) for place in range(3)]
        best = max(objective(spec, models, [every[0], *rest]) for rest in product(every, repeat=2))
        assert objective(spec, models, align(spec, models).maps) == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("kind", [Permutation, SignedPermutation])
def test_ways_round_a_cycle_return_every_unit_exactly(kind: type[Permutation]) -> None:
    sizes = (4, 20, 4)
    spec = dense(kind, *sizes)
    maps = align(spec, [random_model(*sizes, seed=seed) for seed in range(4)]).maps
    around: Mapping[str, Map] = spec.identity()
    for start, end in ((0, 2), (2, 1), (1, 3), (3, 0)):
        around = composed(composed(inverse(maps[end]), maps[start]), around)
    assert torch.equal(around["hidden0"].arrays()["order"], torch.arange(20))
    if "signs" in around["hidden0"].arrays():
        assert torch.equal(around["hidden0"].arrays()["signs"], torch.ones(20, dtype=torch.int8))


@pytest.mark.parametrize("method", [WeightMatching(), CycleConsistent()])
def test_matching_pair_by_pair_does_not_return_every_unit(method: Method) -> None:
    sizes = (4, 20, 4)
    spec = dense(Permutation, *sizes)
    models = [random_model(*sizes, seed=seed) for seed in range(3)]
    around: Mapping[str, Map] = spec.identity()
    for start, end in ((0, 1), (1, 2), (2, 0)):
        around = composed(align(spec, [models[end], models[start]], method).onto(0)[1], around)
    assert not torch.equal(around["hidden0"].arrays()["order"], torch.arange(20))


def heads_spec() -> Spec:
    heads = Heads(groups=2, queries=2, head_dim=4, inside="rotations", rotary=4, value_rotations=True)
    return Spec(
        labels={"heads": heads, "stream": SignedPermutation(6)},
        tensors={
            "embed": (None, Axis("stream")),
            "gain": (Axis("stream", "gain"),),
            "q": (Axis("heads", "query"), Axis("stream")),
            "k": (Axis("heads", "key"), Axis("stream")),
            "v": (Axis("heads", "value"), Axis("stream")),
            "o": (Axis("stream"), Axis("heads", "output")),
        },
    )


def attention(seed: int) -> Model:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"embed": (30, 6), "gain": (6,), "q": (16, 6), "k": (8, 6), "v": (8, 6), "o": (6, 16)}
    return {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}


def test_heads_that_were_moved_and_turned_are_found_with_the_stream_they_read() -> None:
    spec = heads_spec()
    for seed in range(4):
        planted = [spec.random(stream(seed, model)) for model in range(3)]
        models = [moved(spec, maps, attention(seed), noise=0.01, seed=model) for model, maps in enumerate(planted)]
        best = objective(spec, models, [inverse(maps) for maps in planted])
        assert objective(spec, models, align(spec, models).maps) >= 0.999 * best


def mixtures(spec: Spec, universe: Universe, seed: int, count: int) -> list[dict[str, Mixture]]:
    """For each model the combination of three random maps of each label."""
    found = []
    for model in range(count):
        corners = [
            {label: universe.mixture(label, map_) for label, map_ in spec.random(stream(seed, model, place)).items()}
            for place in range(3)
        ]
        mixed = towards(towards(corners[0], corners[1], 0.4), corners[2], 0.3)
        found.append({label: part for label, part in mixed.items() if isinstance(part, Mixture)})
    return found


@pytest.mark.parametrize("normalise", [False, True])
def test_the_gradient_is_that_of_the_objective_worked_out_pair_by_pair(normalise: bool) -> None:
    spec = heads_spec()
    models = [attention(seed) for seed in range(3)]
    universe = Universe(spec, models, normalise=normalise)
    maps = mixtures(spec, universe, 1, 3)
    found = universe.gradients(maps, list(spec.labels))
    leaves = [
        {label: {role: matrix.clone().requires_grad_() for role, matrix in part.matrices.items()}
         for label, part in own.items()}
        for own in maps
    ]  # fmt: skip
    total = torch.zeros(())
    for name in models[0]:
        mapped = [
            spec.apply({label: Mixture(parts) for label, parts in own.items()}, name, model[name])
            for own, model in zip(leaves, models, strict=True)
        ]
        scale = 3 / sum(float(model[name].square().sum()) for model in models) if normalise else 1.0
        total = total + scale * sum((mapped[p] * mapped[q]).sum() for q in range(3) for p in range(q))
    total.backward()
    for own, wanted in zip(found, leaves, strict=True):
        for label, roles in wanted.items():
            assert set(own[label]) == set(roles)
            for role, leaf in roles.items():
                torch.testing.assert_close(own[label][role], leaf.grad, atol=1e-3, rtol=1e-3)
    assert universe.objective(maps) == pytest.approx(float(total.detach()), rel=1e-4)


def test_the_line_search_finds_the_highest_point_of_the_line() -> None:
    spec = heads_spec()
    models = [attention(seed) for seed in range(3)]
    universe = Universe(spec, models)
    inside = 0
    for seed in range(8):
        maps, ends = mixtures(spec, universe, seed, 3), mixtures(spec, universe, seed + 50, 3)
        step, gain = universe.line_search(maps, ends)
        line = [
            universe.objective([towards(own, end, float(at)) for own, end in zip(maps, ends, strict=True)])
            for at in (0.0, step, *np.linspace(0, 1, 101))
        ]
        assert line[1] >= max(line) - 1e-4 * abs(max(line))
        assert gain == pytest.approx((line[1] - line[0]) / abs(line[0]), rel=1e-2, abs=1e-4)
        inside += 0 < step < 1
    assert inside > 0


def test_identical_models_stay_as_they_are() -> None:
    sizes = (4, 8, 7, 3)
    for kind in (Permutation, SignedPermutation):
        spec = dense(kind, *sizes)
        model = random_model(*sizes, seed=0)
        for own in align(spec, [model, model, model]).onto(1):
            for label, kind_ in spec.labels.items():
                assert own[label].arrays()["order"].tolist() == list(range(kind_.sizes["unit"]))


def test_normalised_tensors_count_alike_whatever_their_size() -> None:
    sizes = (6, 10, 3)
    spec = dense(Permutation, *sizes)
    models = [random_model(*sizes, seed=seed) for seed in range(3)]
    larger = [{**model, "0.bias": model["0.bias"] * 1000} for model in models]
    method = CycleConsistent(normalise=True)
    orders = [[own["hidden0"].arrays()["order"].tolist() for own in align(spec, each, method).maps]
              for each in (models, larger)]  # fmt: skip
    assert orders[0] == orders[1]
    plain = [own["hidden0"].arrays()["order"].tolist() for own in align(spec, larger).maps]
    assert plain != orders[1]


def test_unmatched_tensors_are_mapped_and_do_not_count() -> None:
    sizes = (6, 8, 3)
    plain = dense(Permutation, *sizes)
    spec = Spec(labels=plain.labels, tensors={**plain.tensors, "running": (Axis("hidden0"),)}, unmatched=("running",))
    models = [random_model(*sizes, seed=seed) for seed in range(3)]
    with_statistics = [{**model, "running": torch.randn(8) * 1e4} for model in models]
    for one, other in zip(align(plain, models).maps, align(spec, with_statistics).maps, strict=True):
        assert torch.equal(one["hidden0"].arrays()["order"], other["hidden0"].arrays()["order"])


def test_weights_that_are_not_numbers_are_refused() -> None:
    sizes = (4, 5, 3)
    spec = dense(Permutation, *sizes)
    models = [random_model(*sizes, seed=seed) for seed in range(2)]
    models[1]["0.weight"][0, 0] = torch.nan
    for method in (CycleConsistent(), CycleConsistent(normalise=True)):
        with pytest.raises(AlignmentError, match="finite"):
            align(spec, models, method)
