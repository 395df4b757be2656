"""Float32 with a proof gives the bytes of float64, also where float32 alone wouldn't."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from evomerge.errors import MergeError
from evomerge.kernels import fuse
from evomerge.kernels.engines import torch_only
from evomerge.kernels.fuse import span
from evomerge.kernels.loops import elementwise, linear, proofs
from evomerge.kernels.loops.compile import compiled
from evomerge.kernels.loops.tuples import column, in_single
from evomerge.kernels.rounding import round_once
from evomerge.methods import METHODS
from evomerge.methods.base import MergeMethod, TensorInputs

pytestmark = pytest.mark.slow

SHAPE = (40, 701)
WITHOUT_ZERO = ("linear", "multi_slerp", "karcher")


def awkward(count: int) -> list[Tensor]:
    """A base and experts with rows that float32 or a proof could get wrong."""
    generator = torch.Generator().manual_seed(3)
    base = torch.randn(SHAPE, generator=generator) * 0.02
    models = [base, *(base + torch.randn(SHAPE, generator=generator) * 0.002 for _ in range(count))]
    for index, model in enumerate(models):
        model[0] = 0.0
        model[1] = base[1]
        model[2] *= 1e-37  # subnormal
        model[3] *= 10.0 ** (9 * index - 18)  # nothing alike: differences aren't exact
        model[4] *= (-1) ** index  # opposite
        model[5] = base[5] + (index - 1) * 2.0**-12  # opposite task vectors, which cancel
        model[6] *= 1e36 if index % 2 else 1e35
        model[7] = 2.0**-8 * (1 + index)
    return [model.bfloat16() for model in models]


def same_bytes(one: Tensor, other: Tensor) -> bool:
    """NaN of any kind count as one."""
    bits = one.view(torch.int16) == other.view(torch.int16)
    return bool((bits | (one.isnan() & other.isnan())).all())


def coefficients(method: type[MergeMethod], count: int, kind: str) -> dict[str, NDArray[np.float64]]:
    generator = np.random.default_rng(1)
    values = {}
    for parameter in method.parameters:
        shape = (count,) if parameter.per_expert else ()
        value = {
            "generic": parameter.default * generator.uniform(0.5, 0.95, shape),
            "halves": np.full(shape, 0.5),
            "zero": np.full(shape, 0.0),
            "signed": parameter.default * generator.uniform(-0.9, 0.9, shape),
        }[kind]
        values[parameter.name] = np.clip(value, parameter.minimum, parameter.maximum)
    return values


@pytest.mark.parametrize("kind", ["generic", "halves", "zero", "signed"])
@pytest.mark.parametrize("name", METHODS.names())
def test_compiled_loops_write_the_bytes_of_torch(name: str, kind: str) -> None:
    method = METHODS.get(name)
    for experts in (3, 5):
        count = min(max(experts, method.min_experts), method.max_experts or experts)
        base, *others = awkward(count)
        instance = method(
            {option.name: option.default for option in method.options}, experts=tuple("abcde"[:count]), seed=7
        )
        inputs = TensorInputs(name="x", base=base if method.base == "required" else None, experts=tuple(others))
        values = coefficients(method, count, kind)
        if kind == "zero" and name in WITHOUT_ZERO:
            with pytest.raises(MergeError):
                instance.merge(inputs, values, instance.prepare(inputs), torch.empty_like(base))
            continue
        written = []
        for torch_alone in (False, True):
            out = torch.empty_like(base)
            if torch_alone:
                with torch_only():
                    finite = instance.merge(inputs, values, instance.prepare(inputs), out)
            else:
                finite = instance.merge(inputs, values, instance.prepare(inputs), out)
            assert finite in (None, bool(out.isfinite().all()))
            written.append(out)
        assert same_bytes(*written), (experts, (written[0] != written[1]).nonzero()[:5])


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["task_arithmetic", "ties", "dare_ties", "della", "sce", "breadcrumbs"])
def test_what_is_not_finite_is_noticed_wherever_it_stands(name: str, poison: float) -> None:
    for place in (0, 511, 512, 1023, 1024, 28039):
        base, *experts = awkward(3)
        base, experts = base[8:], [expert[8:].contiguous() for expert in experts]
        experts[1].view(-1)[min(place, base.numel() - 1)] = poison
        method = METHODS.get(name)
        instance = method({option.name: option.default for option in method.options}, experts=("a", "b", "c"), seed=7)
        inputs = TensorInputs(name="x", base=base, experts=tuple(experts))
        out = torch.empty_like(base)
        assert instance.merge(inputs, coefficients(method, 3, "generic"), instance.prepare(inputs), out) is False


def test_a_mark_promises_the_same_bfloat16_for_all_numbers_within_the_bound() -> None:
    @settings(max_examples=400, deadline=None, derandomize=True)
    @given(
        st.floats(-(2.0**99), 2.0**99, width=32),
        st.sampled_from([0.0, 2.0**-60, 2.0**-30, 2.0**-24, 2.0**-20, 2.0**-9, 2.0**-8, 0.5]),
        st.floats(-1.0, 1.0),
    )
    def check(value: float, relative: float, part: float) -> None:
        error = np.float32(abs(value) * relative)
        bound = np.float32(error + np.float32(1.01 * abs(value) * proofs.UNIT) + proofs.FLOOR)
        high, mark = proofs.rounded(np.float32(value), bound)
        if proofs.unsure(mark):
            return
        exact = torch.tensor([value + part * float(error)], dtype=torch.float64)
        assert int(round_once(exact, torch.bfloat16).view(torch.int16)) == int(np.int32(high) >> 16)

    check()


@compiled
def tried_and_failed(work: Any) -> Any:
    numbers = column(work[5][0], 0, work[0])
    buffers = elementwise.make_buffers(work[0])
    elementwise.run_segment(linear._weighted_sum, 0, work[5][1], work, numbers, in_single(True, numbers), buffers)
    return buffers[4]


def test_a_proof_succeeds_for_nearly_all_sums_of_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    base, *experts = awkward(3)
    models = [model[8:].contiguous() for model in (base, *experts)]
    work: list[Any] = []
    given = fuse._work
    monkeypatch.setattr(fuse, "_work", lambda *arguments: work.append(given(*arguments)) or work[-1])
    out = torch.empty_like(models[0])
    span(models, [-0.4123, 0.5123, 0.4234, 0.4457], out)

    # The loop writes to `out` again, by its address.
    tried, failed = tried_and_failed(work[0])
    assert tried == out.numel()
    assert failed < 0.02 * tried


def test_odd_counts_and_rows_of_coefficients_are_merged_to_the_last_element() -> None:
    generator = torch.Generator().manual_seed(4)
    for count in (1, 2, 3, 1023, 1025, 2047):
        models = [(torch.randn(3 * count, generator=generator) * 0.02).bfloat16() for _ in range(3)]
        weights = np.random.default_rng(count).uniform(-1, 1, (3, 3))
        outs = [torch.empty_like(models[0]) for _ in range(2)]
        span(models, weights, outs[0])
        with torch_only():
            span(models, weights, outs[1])
        assert same_bytes(*outs)


@pytest.mark.parametrize("name", ["task_arithmetic", "ties", "dare_linear", "dare_ties", "della", "breadcrumbs"])
def test_among_a_million_weights_none_is_rounded_otherwise(name: str) -> None:
    generator = torch.Generator().manual_seed(5)
    base = torch.randn(1 << 10, 1 << 10, generator=generator)
    experts = tuple((base + torch.randn(base.shape, generator=generator)).bfloat16() for _ in range(3))
    method = METHODS.get(name)
    instance = method({option.name: option.default for option in method.options}, experts=("a", "b", "c"), seed=7)
    inputs = TensorInputs(name="x", base=base.bfloat16(), experts=experts)
    values = coefficients(method, 3, "generic")
    outs = [torch.empty_like(inputs.experts[0]) for _ in range(2)]
    instance.merge(inputs, values, instance.prepare(inputs), outs[0])
    with torch_only():
        instance.merge(inputs, values, instance.prepare(inputs), outs[1])
    assert same_bytes(*outs)


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_a_vote_that_float32_takes_for_a_tie_is_decided(side: float) -> None:
    base = torch.full((64, 64), 0.02, dtype=torch.bfloat16)
    step = 2.0**-10
    experts = ((base + step).bfloat16(), (base - step).bfloat16())
    method = METHODS.get("ties")
    options = {option.name: option.default for option in method.options}
    instance = method(options, experts=("a", "b"), seed=7)
    inputs = TensorInputs(name="x", base=base, experts=experts)
    values = {
        "weight": np.array([0.7 * (1 + side * 1e-12), 0.7]),
        "density": np.array([1.0, 1.0]),
        "scale": np.asarray(1.0),
    }
    out = torch.empty_like(base)
    instance.merge(inputs, values, instance.prepare(inputs), out)
    assert torch.equal(out, experts[0 if side > 0 else 1])


@pytest.mark.parametrize("spread", [0, 8, 20, 40])
def test_votes_on_a_common_grid_are_decided_as_by_fractions(spread: int) -> None:
    generator = np.random.default_rng(spread)
    mantissas = generator.integers(128, 256, (3, 1 << 15)) * generator.choice([-1, 1], (3, 1 << 15))
    values = np.ldexp(mantissas, -8 - generator.integers(0, spread + 1, mantissas.shape))
    values[2, ::2] = 2.0 * values[0, ::2] - values[1, ::2]  # where it can be told in 8 bits, a tie
    base, *experts = (torch.from_numpy(row).bfloat16().view(128, 256) for row in values)
    method = METHODS.get("ties")
    options = {option.name: option.default for option in method.options} | {"election": "unweighted"}
    instance = method(options, experts=("a", "b"), seed=7)
    inputs = TensorInputs(name="x", base=base, experts=tuple(experts))
    numbers = {"weight": np.array([0.61, 0.83]), "density": np.ones(2), "scale": np.asarray(1.0)}
    out = torch.empty_like(base)
    instance.merge(inputs, numbers, instance.prepare(inputs), out)

    tied = 0
    for start, one, other, merged in zip(*(t.view(-1).tolist() for t in (base, *experts, out)), strict=True):
        vectors = [Fraction(one) - Fraction(start), Fraction(other) - Fraction(start)]
        if vectors[0] * vectors[1] < 0:
            tied += sum(vectors) == 0
            assert merged == (max if sum(vectors) >= 0 else min)(one, other)
    assert tied > (100 if spread == 0 else 0)
