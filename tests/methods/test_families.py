"""Closed forms and edges of the linear, spherical and mask-free families."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.errors import MergeError
from evomerge.methods import METHODS
from evomerge.methods.base import TensorInputs
from evomerge.methods.sparse.sce import divide_with_numpy, divide_with_torch
from evomerge.testing.inputs import make_inputs, merged, options_of


def run(name: str, base: Tensor, *experts: Tensor, options: dict[str, Any] | None = None, **values: Any) -> Tensor:
    method = METHODS.get(name)
    coefficients = {
        parameter.name: np.broadcast_to(
            np.asarray(values.get(parameter.name, parameter.default), dtype=np.float64),
            (len(experts),) if parameter.per_expert else (),
        )
        for parameter in method.parameters
    }
    inputs = TensorInputs(name="weight", base=base, experts=experts)
    return merged(method, inputs, coefficients, options=options_of(method, **(options or {})))


def vector(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32)


ZERO = vector(0.0, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["linear", "task_arithmetic", "multi_slerp", "karcher", "magmax", "ram", "ram_plus"],
)
def test_one_expert_at_weight_one_is_returned(name: str) -> None:
    inputs = make_inputs(METHODS.get("ties"), (6, 8), experts=1)
    assert inputs.base is not None
    result = run(name, inputs.base, *inputs.experts, weight=1.0, options={"epsilon": 0.0} if "ram" in name else {})
    assert torch.equal(result.float(), inputs.experts[0])


def test_task_arithmetic_at_zero_is_the_base_and_at_the_default_the_mean_of_two() -> None:
    inputs = make_inputs(METHODS.get("task_arithmetic"), (6, 8), experts=2)
    assert inputs.base is not None
    assert torch.equal(run("task_arithmetic", inputs.base, *inputs.experts, weight=0.0).float(), inputs.base)
    mean = (inputs.experts[0].double() + inputs.experts[1].double()) / 2
    torch.testing.assert_close(run("task_arithmetic", inputs.base, *inputs.experts), mean, rtol=1e-14, atol=0)


def test_linear_refuses_to_normalise_weights_that_cancel() -> None:
    with pytest.raises(MergeError, match=r"linear: weights \[1.0, -1.0\] add up to 0"):
        run("linear", ZERO, vector(1.0, 2.0), vector(3.0, 4.0), weight=[1.0, -1.0])
    result = run("linear", ZERO, vector(1.0, 2.0), vector(3.0, 4.0), weight=[1.0, -1.0], options={"normalize": False})
    assert result.tolist() == [-2.0, -2.0]


@pytest.mark.parametrize("name", ["multi_slerp", "karcher"])
def test_spherical_means_refuse_weights_without_a_sum(name: str) -> None:
    with pytest.raises(MergeError, match=f"{name}: weights .* add up to 0"):
        run(name, ZERO, vector(1.0, 2.0), vector(3.0, 4.0), weight=0.0)


@pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 1.0])
def test_slerp_of_perpendicular_vectors_walks_the_quarter_circle(t: float) -> None:
    result = run("slerp", ZERO, vector(1.0, 0.0), vector(0.0, 1.0), t=t)
    assert result.tolist() == pytest.approx([math.cos(t * math.pi / 2), math.sin(t * math.pi / 2)], abs=1e-15)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (vector(1.0, 0.0), vector(2.0, 0.0)),
        (vector(1.0, 0.0), vector(-1.0, 0.0)),
        (ZERO, vector(3.0, 4.0)),
        (ZERO, ZERO),
        (vector(1.0, 0.0), vector(1.0, 1e-3)),
    ],
    ids=["parallel", "opposite", "one zero", "both zero", "nearly parallel"],
)
def test_slerp_is_linear_where_the_arc_is_undefined_or_straight(first: Tensor, second: Tensor) -> None:
    result = run("slerp", ZERO, first, second, t=0.25)
    torch.testing.assert_close(result, 0.75 * first.double() + 0.25 * second.double(), rtol=1e-15, atol=0)


def test_slerp_bends_above_its_threshold() -> None:
    first, second = vector(1.0, 0.0), vector(math.cos(0.02), math.sin(0.02))
    lengths = [
        float(run("slerp", ZERO, first, second, t=0.5, options={"threshold": threshold}).norm())
        for threshold in (0.9995, 1.0)
    ]
    assert lengths[0] < 1.0 - 1e-5
    assert lengths[1] == pytest.approx(1.0, abs=1e-7)


def test_nuslerp_adds_the_arc_of_task_vectors_to_the_base() -> None:
    base = vector(5.0, 5.0)
    result = run("nuslerp", base, base + vector(1.0, 0.0), base + vector(0.0, 1.0), weight=[1.0, 1.0])
    assert result.tolist() == pytest.approx([5.0 + math.sqrt(0.5)] * 2)


def test_nuslerp_takes_the_middle_where_weights_cancel() -> None:
    result = run("nuslerp", ZERO, vector(1.0, 0.0), vector(0.0, 1.0), weight=[0.5, -0.5])
    assert result.tolist() == pytest.approx([math.sqrt(0.5)] * 2)


def test_nuslerp_by_rows_turns_each_row_by_itself() -> None:
    first = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    second = torch.tensor([[0.0, 1.0], [4.0, 0.0]])
    result = run("nuslerp", torch.zeros(2, 2), first, second, options={"along": "rows"})
    expected = torch.tensor([[math.sqrt(0.5), math.sqrt(0.5)], [3.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(result, expected)
    turned = run("nuslerp", torch.zeros(2, 2), first.T, second.T, options={"along": "columns"})
    torch.testing.assert_close(turned, expected.T)


@pytest.mark.parametrize("name", ["multi_slerp", "karcher"])
def test_spherical_means_of_two_perpendicular_experts_lie_between_them(name: str) -> None:
    result = run(name, ZERO, vector(2.0, 0.0), vector(0.0, 2.0))
    assert result.tolist() == pytest.approx([math.sqrt(2.0)] * 2)


@pytest.mark.parametrize("name", ["multi_slerp", "karcher"])
def test_spherical_means_average_linearly_where_directions_cancel(name: str) -> None:
    result = run(name, ZERO, vector(3.0, 0.0), vector(-1.0, 0.0), weight=1.0)
    assert result.tolist() == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize("name", ["multi_slerp", "karcher"])
def test_spherical_means_leave_zero_vectors_out_but_count_their_share(name: str) -> None:
    result = run(name, ZERO, vector(2.0, 0.0), ZERO)
    assert result.tolist() == pytest.approx([1.0, 0.0])
    assert run(name, ZERO, ZERO, ZERO).tolist() == [0.0, 0.0]


def test_karcher_balances_the_angles() -> None:
    angles = np.array([0.0, 0.3, 1.2])
    experts = [vector(math.cos(angle), math.sin(angle)) for angle in angles]
    result = run("karcher", ZERO, *experts, options={"max_iterations": 100, "tolerance": 0.0})
    # On a circle the mean of directions is the mean of angles.
    assert math.atan2(result[1], result[0]) == pytest.approx(angles.mean(), abs=1e-6)


def test_model_stock_of_equal_task_vectors_is_the_expert_and_of_perpendicular_ones_the_base() -> None:
    base = vector(1.0, 1.0)
    expert = base + vector(0.5, 0.25)
    assert run("model_stock", base, expert, expert).tolist() == pytest.approx(expert.tolist())
    assert run("model_stock", base, base + vector(1.0, 0.0), base + vector(0.0, 1.0)).tolist() == [1.0, 1.0]


def test_model_stock_never_steps_backwards_unless_asked() -> None:
    experts = (vector(1.0, 0.0), vector(-0.4, 0.3))
    assert run("model_stock", ZERO, *experts).tolist() == [0.0, 0.0]
    step = 2 * -0.8 / (1 - 0.8)
    unclamped = run("model_stock", ZERO, *experts, options={"clamp": False})
    assert unclamped.tolist() == pytest.approx([step * 0.3, step * 0.15], rel=1e-6)
    opposite = run("model_stock", ZERO, vector(1.0, 0.0), vector(-1.0, 0.0), options={"clamp": False})
    assert opposite.tolist() == [0.0, 0.0]


def test_model_stock_with_a_task_vector_of_zero_stays_at_the_base() -> None:
    assert run("model_stock", ZERO, vector(1.0, 0.0), ZERO).tolist() == [0.0, 0.0]


def test_magmax_takes_the_larger_magnitude_and_of_opposites_the_positive() -> None:
    result = run("magmax", vector(1.0, 1.0, 1.0), vector(2.0, -1.0, 0.0), vector(0.5, 2.0, 2.0))
    assert result.tolist() == [2.0, -1.0, 2.0]


def test_consensus_drops_what_serves_one_expert_alone() -> None:
    # The first entry is large for one expert only; both experts want the second.
    result = run("consensus_ta", ZERO, vector(1.0, 0.5), vector(0.0, 0.5), weight=1.0)
    assert result.tolist() == [0.0, 1.0]


def test_tall_mask_finds_an_expert_in_the_sum() -> None:
    experts = (vector(1.0, 0.01), vector(0.01, 1.0))
    assert run("tall_mask", ZERO, *experts, options={"model": "expert_1"}).tolist() == pytest.approx([0.0, 1.01])
    assert run("tall_mask", ZERO, *experts).tolist() == pytest.approx([1.01, 0.0])
    with pytest.raises(MergeError, match="unknown expert 'expert_7'"):
        run("tall_mask", ZERO, *experts, options={"model": "expert_7"})


def test_ram_keeps_lone_changes_whole_and_averages_shared_ones() -> None:
    experts = (vector(1.0, 1.0, 0.0), vector(0.0, 3.0, 0.0))
    zero = torch.zeros(3)
    assert run("ram", zero, *experts).tolist() == [1.0, 2.0, 0.0]
    # The first expert shares one entry and has one of its own, the second has none: ratios 1 and huge.
    assert run("ram_plus", zero, *experts, r=0.5, alpha=0.2).tolist() == pytest.approx([1.1, 2.0, 0.0])


@pytest.mark.parametrize("size", [1, 1000, 5000])
def test_sce_divides_a_level_alike_on_every_device(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    where = torch.arange(size) * 3
    variance = torch.randint(0, 50, (size,), generator=generator).float()
    tau = torch.randn(3, size, generator=generator, dtype=torch.float64)
    for rank in {0, size // 2, size - 1}:
        dropped, squares = divide_with_numpy(where.numpy(), variance.numpy(), tau.numpy(), rank)
        on_gpu, squares_on_gpu = divide_with_torch(where, variance, tau, rank)
        least = variance.sort().values[rank]
        assert torch.equal(on_gpu, where[variance < least])
        np.testing.assert_array_equal(dropped, on_gpu)
        np.testing.assert_array_equal(squares_on_gpu, squares)
        np.testing.assert_allclose(squares, (tau[:, variance >= least] ** 2).sum(dim=1), rtol=1e-12)


def test_sce_ignores_entries_on_which_experts_agree_and_weighs_by_energy() -> None:
    experts = (vector(1.0, 3.0, 1.0, 1.0), vector(1.0, -1.0, 1.0, 1.0))
    result = run("sce", torch.zeros(4), *experts, density=0.5)
    assert result.tolist() == [0.0, 3.0, 0.0, 0.0]
    everything = run("sce", torch.zeros(4), *experts, density=1.0)
    assert everything.tolist() == pytest.approx([1.0, 3.0, 1.0, 1.0])
    assert run("sce", torch.zeros(4), *experts, density=0.0).tolist() == [0.0] * 4


def test_nearswap_steps_at_most_t() -> None:
    result = run("nearswap", vector(0.0, 0.0, 0.0), vector(1.0, -0.25, 0.0), t=0.5)
    assert result.tolist() == [0.5, -0.25, 0.0]


def test_arcee_fusion_takes_important_changes_whole() -> None:
    inputs = make_inputs(METHODS.get("arcee_fusion"), (30, 40))
    assert inputs.base is not None
    base, expert = inputs.base.double(), inputs.experts[0].double()
    result = run("arcee_fusion", inputs.base, inputs.experts[0])
    taken, left = result == expert, result == base
    assert bool((taken | left).all())
    assert 0.0 < float(taken.double().mean()) < 0.25
    everything = run("arcee_fusion", inputs.base, inputs.experts[0], selectivity=-1e6)
    torch.testing.assert_close(everything, expert, rtol=1e-14, atol=1e-17)


@pytest.mark.parametrize("model", ["base", "expert_0", "expert_1"])
def test_passthrough_copies_every_bit(model: str) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    tensors = [torch.roll(every, shift).view(torch.bfloat16) for shift in range(3)]
    method = METHODS.get("passthrough")
    out = torch.empty(2**16, dtype=torch.bfloat16)
    inputs = TensorInputs(name="weight", base=tensors[0], experts=tuple(tensors[1:]))
    merged(method, inputs, {}, options={"model": model}, out=out)
    source = tensors[("base", "expert_0", "expert_1").index(model)]
    assert torch.equal(out.view(torch.int16), source.view(torch.int16))


def test_passthrough_refuses_a_model_that_is_not_there() -> None:
    with pytest.raises(MergeError, match=r"unknown model 'expert_9'.*Did you mean"):
        METHODS.get("passthrough")({"model": "expert_9"}, experts=("expert_0", "expert_1"), seed=0)
