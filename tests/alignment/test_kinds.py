"""Laws of maps and their solvers: groups, exact solutions, saving and reading back."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations, product
from math import factorial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evomerge.alignment.kinds import Heads, Kind, Map, Orthogonal, Permutation, SignedPermutation
from evomerge.errors import AlignmentError

KINDS: dict[str, Kind] = {
    "permutation": Permutation(5),
    "signed": SignedPermutation(5),
    "orthogonal": Orthogonal(5),
    "orthogonal, mean kept": Orthogonal(5, keeps_mean=True),
    "heads": Heads(groups=2, queries=3, head_dim=4),
    "heads with ALiBi": Heads(groups=2, queries=3, head_dim=4, value_rotations=True, ordered=True),
    "heads with a norm": Heads(groups=3, queries=2, head_dim=6, inside="signs", rotary=4, value_rotations=True),
    "heads with RoPE": Heads(groups=2, queries=2, head_dim=4, inside="rotations", rotary=4, value_rotations=True),
    "heads, partly rotary": Heads(
        groups=2,
        queries=4,
        head_dim=6,
        value_dim=3,
        inside="rotations",
        rotary=4,
        interleaved=True,
        value_rotations=True,
    ),
}
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
seeds = st.integers(0, 2**32 - 1)


def matrices(kind: Kind, generator: np.random.Generator) -> dict[str, Tensor]:
    """A matrix for each role; gains under a rotation are all alike."""
    found = {role: torch.from_numpy(generator.standard_normal((size, 3))) for role, size in kind.sizes.items()}
    if isinstance(kind, Orthogonal):
        found["gain"] = found["gain"][:1].repeat(kind.n, 1)
    return found


def products(kind: Kind, generator: np.random.Generator) -> dict[str, Tensor]:
    return {
        role: torch.from_numpy(generator.standard_normal((size, size))).float() for role, size in kind.sizes.items()
    }


def same(kind: Kind, one: Map, two: Map, generator: np.random.Generator) -> bool:
    return all(
        torch.allclose(one.act(role, matrix), two.act(role, matrix), atol=1e-10)
        for role, matrix in matrices(kind, generator).items()
    )


@kinds
@given(seed=seeds)
@settings(max_examples=8, deadline=None)
def test_maps_of_a_kind_are_a_group(kind: Kind, seed: int) -> None:
    generator = np.random.default_rng(seed)
    one, two, three = (kind.random(generator) for _ in range(3))
    identity = kind.identity()
    assert same(kind, one.inverse().after(one), identity, generator)
    assert same(kind, one.after(one.inverse()), identity, generator)
    assert same(kind, one.after(identity), one, generator)
    assert same(kind, three.after(two.after(one)), three.after(two).after(one), generator)
    for role, matrix in matrices(kind, generator).items():
        assert torch.allclose(two.after(one).act(role, matrix), two.act(role, one.act(role, matrix)), atol=1e-10)
        assert torch.equal(identity.act(role, matrix), matrix)


@kinds
@given(seed=seeds)
@settings(max_examples=8, deadline=None)
def test_a_saved_map_is_read_back_as_it_was(kind: Kind, seed: int) -> None:
    generator = np.random.default_rng(seed)
    saved = kind.random(generator)
    read = kind.load(saved.arrays())
    assert saved.arrays().keys() == read.arrays().keys()
    assert all(torch.equal(array, read.arrays()[name]) for name, array in saved.arrays().items())
    assert kind.load(saved.after(saved).arrays())


@kinds
def test_a_damaged_map_is_refused(kind: Kind) -> None:
    arrays = kind.random(np.random.default_rng(0)).arrays()
    for name, array in arrays.items():
        with pytest.raises(AlignmentError):
            kind.load({**arrays, name: torch.zeros_like(array)})
        with pytest.raises(AlignmentError):
            kind.load({**arrays, name: array[:-1]})
        with pytest.raises(AlignmentError):
            kind.load({other: array for other, array in arrays.items() if other != name})


def test_maps_outside_a_kinds_group_are_refused() -> None:
    rotated = Heads(groups=2, queries=1, head_dim=4, inside="rotations", rotary=0).random(np.random.default_rng(0))
    with pytest.raises(AlignmentError, match="leaves its layer's function unchanged"):
        Heads(groups=2, queries=1, head_dim=4, inside="rotations", rotary=4).load(rotated.arrays())
    moved = Heads(groups=2, queries=2, head_dim=4).random(np.random.default_rng(1))
    with pytest.raises(AlignmentError, match="leaves its layer's function unchanged"):
        Heads(groups=2, queries=2, head_dim=4, ordered=True).load(moved.arrays())
    with pytest.raises(AlignmentError, match=r"map \(1, \.\.\., 1\) to itself"):
        Orthogonal(4, keeps_mean=True).load(Orthogonal(4).random(np.random.default_rng(0)).arrays())


@kinds
@given(seed=seeds)
@settings(max_examples=8, deadline=None)
def test_the_value_of_a_map_is_the_inner_product_of_one_model_and_the_other_mapped(kind: Kind, seed: int) -> None:
    generator = np.random.default_rng(seed)
    map_ = kind.random(generator)
    ones, twos = matrices(kind, generator), matrices(kind, generator)
    if isinstance(kind, Orthogonal):
        ones, twos = {"unit": ones["unit"]}, {"unit": twos["unit"]}
    cross = {role: ones[role] @ twos[role].T for role in ones}
    expected = sum(float((ones[role] * map_.act(role, twos[role])).sum()) for role in ones)
    assert kind.value(map_, cross) == pytest.approx(expected, abs=1e-8)


@kinds
@given(seed=seeds)
@settings(max_examples=8, deadline=None)
def test_no_random_map_is_better_than_the_best(kind: Kind, seed: int) -> None:
    generator = np.random.default_rng(seed)
    cross = products(kind, generator)
    best = kind.value(kind.best(cross), cross)
    assert all(kind.value(kind.random(generator), cross) <= best + 1e-4 for _ in range(20))


@kinds
@given(seed=seeds)
@settings(max_examples=8, deadline=None)
def test_a_map_that_was_applied_is_found_and_undone(kind: Kind, seed: int) -> None:
    generator = np.random.default_rng(seed)
    model = {
        role: torch.from_numpy(generator.standard_normal((size, size)))
        for role, size in kind.sizes.items()
        if role not in ("gain", "key_gain", "query_gain", "head")
    }
    planted = kind.random(generator)
    cross = {role: matrix @ planted.act(role, matrix).T for role, matrix in model.items()}
    assert same(kind, kind.best(cross).after(planted), kind.identity(), generator)


def best_by_trying(kind: Kind, cross: Mapping[str, Tensor], orders: list[Map]) -> float:
    return max(kind.value(order, cross) for order in orders)


@given(seed=seeds)
@settings(max_examples=8, deadline=None)
def test_signed_permutations_are_solved_exactly(seed: int) -> None:
    kind = SignedPermutation(4)
    cross = products(kind, np.random.default_rng(seed))
    every = [
        kind.load({"order": torch.tensor(order), "signs": torch.tensor(signs, dtype=torch.int8)})
        for order in permutations(range(4))
        for signs in product((-1, 1), repeat=4)
    ]
    assert kind.value(kind.best(cross), cross) == pytest.approx(best_by_trying(kind, cross, every), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("groups", "queries"), [(3, 1), (3, 2), (2, 3)])
@pytest.mark.parametrize("inside", ["none", "signs", "rotations"])
@given(seed=seeds)
@settings(max_examples=5, deadline=None)
def test_heads_are_solved_exactly(groups: int, queries: int, inside: str, seed: int) -> None:
    """Against all orders of heads, each with the turns that are best for it, found by a kind whose heads stay."""
    turns = {"inside": inside, "rotary": 2, "value_rotations": inside == "rotations"}
    kind = Heads(groups=groups, queries=queries, head_dim=3, **turns)
    still = Heads(groups=groups, queries=queries, head_dim=3, ordered=True, **turns)
    plain = Heads(groups=groups, queries=queries, head_dim=3)
    cross = products(kind, np.random.default_rng(seed))
    found = []
    for order in permutations(range(groups)):
        for inner in product(permutations(range(queries)), repeat=groups):
            moved = plain.load({"groups": torch.tensor(order), "queries": torch.tensor(inner)})
            undone = {role: moved.act(role, matrix.T).T.contiguous() for role, matrix in cross.items()}
            found.append(still.value(still.best(undone), undone))
    assert len(found) == factorial(groups) * factorial(queries) ** groups
    assert kind.value(kind.best(cross), cross) == pytest.approx(max(found), abs=1e-4)


def test_turns_of_queries_and_keys_pass_rotary_embeddings_and_those_of_values_the_output() -> None:
    """Attention of one layer, written out, is the same to its output, whatever map of heads acts on its weights."""
    generator = np.random.default_rng(3)
    groups, queries, size, width, length = 2, 2, 6, 5, 4
    kind = Heads(groups=groups, queries=queries, head_dim=size, inside="rotations", rotary=4, value_rotations=True)
    roles = ("query", "key", "value", "output")
    weights = {role: torch.from_numpy(generator.standard_normal((kind.sizes[role], width))) for role in roles}
    stream = torch.from_numpy(generator.standard_normal((length, width)))

    def rotated(heads: Tensor) -> Tensor:
        angles = torch.arange(length)[:, None] * torch.tensor([0.7, 0.1])
        one, two = heads[..., :2], heads[..., 2:4]
        turned = [one * angles.cos() - two * angles.sin(), two * angles.cos() + one * angles.sin()]
        return torch.cat([*turned, heads[..., 4:]], dim=-1)

    def attention(weights: Mapping[str, Tensor]) -> Tensor:
        query, key, value = (stream @ weights[role].T for role in roles[:3])
        query = rotated(query.view(length, groups, queries, size).permute(1, 2, 0, 3))
        key = rotated(key.view(length, groups, size).transpose(0, 1))
        value = value.view(length, groups, size).transpose(0, 1)
        scores = torch.softmax(query @ key[:, None].mT, dim=-1) @ value[:, None]
        return scores.permute(2, 0, 1, 3).reshape(length, -1) @ weights["output"]

    map_ = kind.random(generator)
    mapped = {role: map_.act(role, matrix) for role, matrix in weights.items()}
    assert not torch.allclose(mapped["query"], weights["query"])
    assert torch.allclose(attention(mapped), attention(weights), atol=1e-10)


def test_a_fused_axis_is_mapped_as_its_parts() -> None:
    kind = Heads(groups=3, queries=2, head_dim=4, value_dim=2, inside="rotations", value_rotations=True)
    generator = np.random.default_rng(0)
    map_ = kind.random(generator)
    parts = {
        role: torch.from_numpy(generator.standard_normal((kind.sizes[role], 2))) for role in ("query", "key", "value")
    }

    def fused(parts: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([part.view(3, -1, 2) for part in parts.values()], dim=1).reshape(-1, 2)

    acted = {role: map_.act(role, matrix) for role, matrix in parts.items()}
    assert torch.allclose(map_.act("query_key_value", fused(parts)), fused(acted))


def test_a_rotation_refuses_gains_that_differ() -> None:
    rotation = Orthogonal(4).random(np.random.default_rng(0))
    assert torch.equal(rotation.act("gain", torch.ones(4, 1)), torch.ones(4, 1))
    with pytest.raises(AlignmentError, match="fold them into the tensors that read the stream"):
        rotation.act("gain", torch.arange(4.0)[:, None])


@kinds
def test_products_that_are_not_numbers_are_refused(kind: Kind) -> None:
    cross = {role: torch.full((size, size), float("nan")) for role, size in kind.sizes.items() if role != "gain"}
    with pytest.raises(AlignmentError, match="aren't finite numbers"):
        kind.best(cross)
