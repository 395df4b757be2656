"""TIES, DARE, DELLA, Breadcrumbs: laws and edges beyond those that every method keeps."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.methods import METHODS
from evomerge.methods.base import TensorInputs
from evomerge.testing.inputs import make_inputs, merged, options_of

ELECTING = ("ties", "dare_ties", "della", "breadcrumbs_ties")
SUMMING = ("dare_linear", "della_linear", "breadcrumbs")
SPARSE = (*ELECTING, *SUMMING)


def run(name: str, inputs: TensorInputs, options: dict[str, Any] | None = None, seed: int = 0, **values: Any) -> Any:
    method = METHODS.get(name)
    count = len(inputs.experts)
    coefficients = {
        parameter.name: np.broadcast_to(
            np.asarray(values.get(parameter.name, parameter.default), dtype=np.float64),
            (count,) if parameter.per_expert else (),
        )
        for parameter in method.parameters
    }
    return merged(method, inputs, coefficients, options=options_of(method, **(options or {})), seed=seed)


def inputs_of(base: list[float], *experts: list[float], dtype: torch.dtype = torch.float32) -> TensorInputs:
    return TensorInputs(
        name="weight",
        base=torch.tensor(base, dtype=dtype),
        experts=tuple(torch.tensor(expert, dtype=dtype) for expert in experts),
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", SPARSE)
def test_one_expert_at_weight_and_density_one_is_returned(name: str) -> None:
    inputs = make_inputs(METHODS.get(name), (6, 8), experts=1)
    result = run(name, inputs, weight=1.0, density=1.0, gamma=0.3)
    assert torch.equal(result.float(), inputs.experts[0])


@pytest.mark.parametrize("name", SPARSE)
def test_density_zero_leaves_the_base(name: str) -> None:
    inputs = make_inputs(METHODS.get(name), (6, 8))
    assert inputs.base is not None
    assert torch.equal(run(name, inputs, density=0.0).float(), inputs.base)


@pytest.mark.parametrize("name", SPARSE)
def test_density_zero_of_experts_leaves_them_out(name: str) -> None:
    inputs = make_inputs(METHODS.get(name), (6, 8), experts=3)
    alone = dataclasses.replace(inputs, experts=inputs.experts[1:2])
    all_three = run(name, inputs, density=[0.0, 1.0, 0.0], weight=[0.9, 0.7, 0.8])
    assert torch.equal(all_three, run(name, alone, density=1.0, weight=0.7))


@pytest.mark.parametrize("name", SPARSE)
@pytest.mark.parametrize("rescale", ["none", "l1"])
def test_task_vectors_of_zero_leave_the_base(name: str, rescale: str) -> None:
    base = make_inputs(METHODS.get(name), (6, 8)).base
    assert base is not None
    inputs = TensorInputs(name="weight", base=base, experts=(base.clone(), base.clone(), base.clone()))
    options = {} if name == "ties" else {"rescale": rescale}
    assert torch.equal(run(name, inputs, options, density=0.5).float(), base)


@pytest.mark.parametrize("name", [*SUMMING, *ELECTING])
def test_a_density_too_small_for_the_tensor_keeps_the_largest_entry_or_none_at_random(name: str) -> None:
    inputs = inputs_of([0.0, 0.0, 0.0], [1.0, -3.0, 2.0])
    result = run(name, inputs, {} if name == "ties" else {"rescale": "none"}, density=0.01, weight=1.0, gamma=0.0)
    if name in ("ties", "breadcrumbs", "breadcrumbs_ties"):
        assert result.tolist() == [0.0, -3.0, 0.0]
    else:
        assert set(result.tolist()) <= {0.0, 1.0, -3.0, 2.0}


def test_ties_at_density_one_trims_nothing() -> None:
    inputs = inputs_of([0.0] * 4, [1e-6, 2.0, -1.0, 3.0], [1e-6, 1.0, -2.0, 1.0])
    assert run("ties", inputs, density=1.0).tolist() == pytest.approx([1e-6, 1.5, -1.5, 2.0])


def test_ties_keeps_every_entry_that_ties_with_the_last_kept() -> None:
    inputs = inputs_of([0.0] * 5, [1.0, -1.0, 1.0, 0.5, 2.0])
    assert run("ties", inputs, density=0.4, weight=1.0).tolist() == [1.0, -1.0, 1.0, 0.0, 2.0]


def test_ties_counts_a_vote_of_zero_as_positive() -> None:
    inputs = inputs_of([0.0, 0.0], [1.0, -2.0], [-1.0, 2.0])
    assert run("ties", inputs, density=1.0).tolist() == [1.0, 2.0]


def test_equal_weights_do_not_tip_an_exact_tie() -> None:
    # 0.1 + 0.2 - 0.3 isn't zero in floating point, though the task vectors cancel.
    inputs = inputs_of([0.0], [1.0], [2.0], [-3.0])
    options = {"normalize": False}
    assert run("ties", inputs, options, density=1.0, weight=0.1).item() == pytest.approx(0.3)
    negative = dataclasses.replace(inputs, experts=tuple(-expert for expert in inputs.experts))
    assert run("ties", negative, options, density=1.0, weight=0.1).item() == pytest.approx(0.3)


def test_elections_with_and_without_weights_may_differ() -> None:
    inputs = inputs_of([0.0], [1.0], [-2.0])
    weights = {"density": 1.0, "weight": [1.0, 0.1]}
    assert run("ties", inputs, {"election": "weighted"}, **weights).item() == 1.0
    assert run("ties", inputs, {"election": "unweighted"}, **weights).item() == -2.0


def test_weights_that_cancel_among_those_that_agree_leave_the_sum_undivided() -> None:
    inputs = inputs_of([0.0], [1.0], [3.0])
    options = {"election": "unweighted"}
    assert run("ties", inputs, options, density=1.0, weight=[0.5, -0.5]).item() == -1.0


def test_dare_keeps_more_with_a_larger_density_and_never_loses_what_it_kept() -> None:
    inputs = inputs_of([0.0] * 1000, [1.0] * 1000)
    kept = [
        run("dare_linear", inputs, {"rescale": "none"}, density=density, weight=1.0) > 0
        for density in (0.1, 0.3, 0.7, 1.0)
    ]
    for less, more in itertools.pairwise(kept):
        assert bool((more | ~less).all())
    assert [round(float(mask.double().mean()), 1) for mask in kept] == [0.1, 0.3, 0.7, 1.0]


def test_dare_preserves_the_mean_by_probability_and_the_norm_by_l1() -> None:
    inputs = inputs_of([0.0] * 20_000, [1.0] * 20_000)
    by_probability = run("dare_linear", inputs, density=0.25, weight=1.0)
    assert set(by_probability.unique().tolist()) == {0.0, 4.0}
    assert float(by_probability.mean()) == pytest.approx(1.0, abs=0.05)
    by_norm = run("dare_linear", inputs, {"rescale": "l1"}, density=0.25, weight=1.0)
    assert float(by_norm.abs().sum()) == pytest.approx(20_000, rel=1e-12)


def test_random_masks_depend_on_seed_expert_and_tensor_alone() -> None:
    inputs = inputs_of([0.0] * 200, [1.0] * 200, [1.0] * 200)
    first = run("dare_linear", inputs, density=0.5, weight=[1.0, 0.0])
    assert not torch.equal(first, run("dare_linear", inputs, density=0.5, weight=[0.0, 1.0]))
    assert not torch.equal(first, run("dare_linear", inputs, density=0.5, weight=[1.0, 0.0], seed=1))
    other = dataclasses.replace(inputs, name="another")
    assert not torch.equal(first, run("dare_linear", other, density=0.5, weight=[1.0, 0.0]))
    matrix = TensorInputs(
        name="weight",
        base=torch.zeros(10, 20),
        experts=tuple(expert.view(10, 20) for expert in inputs.experts),
    )
    assert torch.equal(first, run("dare_linear", matrix, density=0.5, weight=[1.0, 0.0]).view(-1))


def test_della_keeps_large_entries_more_often_and_divides_each_by_its_probability() -> None:
    size = 20_000
    inputs = inputs_of([0.0] * size, list(np.arange(1, size + 1) / size))
    result = run("della_linear", inputs, density=0.5, weight=1.0, epsilon=0.15)
    kept = (result > 0).double()
    assert float(kept[: size // 10].mean()) == pytest.approx(0.365, abs=0.04)
    assert float(kept[-size // 10 :].mean()) == pytest.approx(0.635, abs=0.04)
    assert float(result.mean()) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("density", "kept"), [(1.0, 1.0), (0.95, 0.95), (0.05, 0.05)])
def test_della_narrows_its_spread_where_probabilities_would_leave_the_unit_interval(
    density: float, kept: float
) -> None:
    inputs = inputs_of([0.0] * 20_000, list(np.arange(1.0, 20_001.0)))
    result = run("della_linear", inputs, density=density, weight=1.0, epsilon=0.15)
    assert float((result != 0).double().mean()) == pytest.approx(kept, abs=0.01)


def test_della_gives_rows_of_one_entry_and_rows_of_ties_the_density_itself() -> None:
    for shape in ((3000, 1), (30, 100)):
        inputs = TensorInputs(name="weight", base=torch.zeros(shape), experts=(torch.ones(shape),))
        result = run("della_linear", inputs, density=0.5, weight=1.0, epsilon=0.15)
        values = sorted(set(result.view(-1).tolist()))
        assert values[0] == 0.0
        assert values[1:] == pytest.approx([2.0], rel=0.002)


def test_breadcrumbs_drops_the_largest_and_the_smallest() -> None:
    inputs = inputs_of([0.0] * 10, [1.0, -2.0, 3.0, -4.0, 5.0, -6.0, 7.0, -8.0, 9.0, -10.0])
    result = run("breadcrumbs", inputs, density=0.5, gamma=0.2, weight=1.0)
    assert result.tolist() == [0.0, 0.0, 0.0, -4.0, 5.0, -6.0, 7.0, -8.0, 0.0, 0.0]


def test_breadcrumbs_without_gamma_drops_nothing_at_the_top() -> None:
    inputs = inputs_of([0.0] * 4, [1.0, 2.0, 3.0, 4.0])
    assert run("breadcrumbs", inputs, density=0.5, gamma=0.0, weight=1.0).tolist() == [0.0, 0.0, 3.0, 4.0]


def test_breadcrumbs_prefers_the_density_where_it_leaves_no_room_for_gamma() -> None:
    inputs = inputs_of([0.0] * 4, [1.0, 2.0, 3.0, 4.0])
    assert run("breadcrumbs", inputs, density=0.75, gamma=0.5, weight=1.0).tolist() == [1.0, 2.0, 3.0, 0.0]


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(
        st.lists(st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0]), min_size=4, max_size=4),
        min_size=1,
        max_size=4,
    ),
    st.floats(0.01, 1.0),
)
def test_ties_never_leaves_the_range_of_the_entries_it_averages(experts: list[list[float]], density: float) -> None:
    result = run("ties", inputs_of([0.0] * 4, *experts), density=density).numpy()
    stacked = np.array([[0.0] * 4, *experts])
    assert (result <= stacked.max(axis=0) + 1e-12).all()
    assert (result >= stacked.min(axis=0) - 1e-12).all()
