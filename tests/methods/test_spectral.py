"""TSV-Merge, Iso-C and Iso-CTS against the papers' procedures in numpy, and their laws."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from evomerge.errors import MergeError
from evomerge.kernels.rounding import round_once
from evomerge.methods.base import MergeMethod, TensorInputs
from evomerge.methods.spectral import decompose as decomposing
from evomerge.methods.spectral.base import MatrixMethod
from evomerge.methods.spectral.decompose import MatrixPool, decompose, polar
from evomerge.methods.spectral.singular import IsoC, IsoCts, TsvMerge
from evomerge.streams import stream
from evomerge.testing.inputs import make_inputs, merged, options_of

Matrix = NDArray[np.float64]

SHAPES = ((12, 12), (30, 9), (9, 30), (13, 20))


def task_vectors(shape: tuple[int, int], count: int, seed: int = 0) -> list[Matrix]:
    generator = stream(seed, "tau", *shape)
    return [generator.standard_normal(shape) * 0.01 for _ in range(count)]


def inputs_of(tau: list[Matrix], *, name: str = "layer.weight", dtype: torch.dtype = torch.float64) -> TensorInputs:
    """A base of zeros, so that experts are their task vectors exactly."""
    return TensorInputs(
        name=name,
        base=torch.zeros(tau[0].shape, dtype=dtype),
        experts=tuple(torch.from_numpy(vector).to(dtype) for vector in tau),
    )


def prepared(method: type[MatrixMethod], tau: list[Matrix], **options: object) -> list[Matrix]:
    names = tuple(f"expert_{index}" for index in range(len(tau)))
    instance = method(options_of(method, **{"stored_as": "float64", **options}), experts=names, seed=0)
    state = instance.prepare(inputs_of(tau))
    assert state is not None
    return [part.numpy() for part in state]


def plain_polar(matrix: Matrix) -> Matrix:
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    return left @ right


def plain_tsv(tau: list[Matrix]) -> Matrix:
    count = min(tau[0].shape) // len(tau)
    lefts, sizes, rights = [], [], []
    for vector in tau:
        left, values, right = np.linalg.svd(vector, full_matrices=False)
        lefts.append(left[:, :count])
        sizes.append(values[:count])
        rights.append(right[:count])
    return plain_polar(np.hstack(lefts)) @ np.diag(np.concatenate(sizes)) @ plain_polar(np.vstack(rights))


def plain_iso_c(tau: list[Matrix]) -> Matrix:
    left, values, right = np.linalg.svd(np.sum(tau, axis=0), full_matrices=False)
    return values.mean() * left @ right


def plain_iso_cts(tau: list[Matrix], common_fraction: float = 0.8) -> Matrix:
    side, count = min(tau[0].shape), len(tau)
    common = side - min(side // count, round((side - int(side * common_fraction)) / count)) * count
    each = (side - common) // count
    left, values, right = np.linalg.svd(np.sum(tau, axis=0), full_matrices=False)
    left, values, right = left[:, :common], values[:common], right[:common]
    lefts, sizes, rights = [], [], []
    for vector in tau:
        own_left, own_values, own_right = np.linalg.svd(vector - left @ left.T @ vector, full_matrices=False)
        lefts.append(own_left[:, :each])
        sizes.append(own_values[:each])
        rights.append(own_right[:each])
    u, v = plain_polar(np.hstack([*lefts, left])), plain_polar(np.vstack([*rights, right]))
    return np.concatenate([*sizes, values]).mean() * u @ v


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("method", "plain"),
    [(TsvMerge, plain_tsv), (IsoC, plain_iso_c), (IsoCts, plain_iso_cts)],
    ids=lambda it: it.__name__,
)
def test_the_sum_of_prepared_parts_is_what_the_paper_computes(
    method: type[MatrixMethod], plain: Callable[[list[Matrix]], Matrix], shape: tuple[int, int], count: int
) -> None:
    tau = task_vectors(shape, count)
    np.testing.assert_allclose(sum(prepared(method, tau)), plain(tau), rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("stored_as", "unit"), [("float64", 2.0**-52), ("float32", 2.0**-24), ("bfloat16", 2.0**-8)])
def test_what_is_kept_of_the_parts_is_rounded_once_to_the_stored_dtype(
    dtype: torch.dtype, stored_as: str, unit: float
) -> None:
    inputs = make_inputs(TsvMerge, (17, 23), dtype)
    assert inputs.base is not None
    base = inputs.base.double().numpy()
    weight = np.array([0.4, 1.3, 0.9])
    instance = TsvMerge(options_of(TsvMerge, stored_as="float64"), experts=("a", "b", "c"), seed=0)
    exact = instance.prepare(inputs)
    assert exact is not None
    expected = base + sum(w * part.numpy() for w, part in zip(weight, exact, strict=True))
    allowed = unit * sum(w * np.abs(part.numpy()) for w, part in zip(weight, exact, strict=True)) + 1e-16
    options = options_of(TsvMerge, stored_as=stored_as)
    found = merged(TsvMerge, inputs, {"weight": weight}, options=options, names=("a", "b", "c"))
    assert (np.abs(found.numpy() - expected) <= allowed).all()
    rounded = merged(TsvMerge, inputs, {"weight": weight}, options=options, names=("a", "b", "c"), dtype=dtype)
    assert torch.equal(rounded, round_once(found, dtype))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_one_expert_alone_is_returned_bit_for_bit(shape: tuple[int, int], dtype: torch.dtype) -> None:
    inputs = make_inputs(TsvMerge, shape, dtype, experts=1)
    assert torch.equal(merged(TsvMerge, inputs, {"weight": np.ones(1)}, dtype=dtype), inputs.experts[0])


def test_parts_of_different_experts_are_orthogonal_on_both_sides() -> None:
    first, second, third = prepared(TsvMerge, task_vectors((20, 31), 3))
    for one, two in ((first, second), (first, third), (second, third)):
        assert np.abs(one.T @ two).max() < 1e-15
        assert np.abs(one @ two.T).max() < 1e-15


def test_experts_that_are_orthogonal_already_keep_their_task_vectors() -> None:
    generator = stream(1, "orthogonal")
    left, _ = np.linalg.qr(generator.standard_normal((12, 12)))
    right, _ = np.linalg.qr(generator.standard_normal((15, 12)))
    tau = [(left[:, part] * [3.0, 2.0, 1.0, 0.5]) @ right[:, part].T for part in (slice(0, 4), slice(4, 8))]
    for part, vector in zip(prepared(TsvMerge, tau), tau, strict=True):
        np.testing.assert_allclose(part, vector, atol=1e-13)


def test_parts_do_not_depend_on_the_coefficients_so_that_merging_is_linear_in_them() -> None:
    inputs = make_inputs(TsvMerge, (11, 14))
    assert inputs.base is not None
    base = inputs.base.double()
    one, two = np.array([0.3, 0.0, 1.0]), np.array([0.1, 0.7, 0.0])
    apart = [merged(TsvMerge, inputs, {"weight": weight}) - base for weight in (one, two)]
    together = merged(TsvMerge, inputs, {"weight": 2.0 * one - two}) - base
    torch.testing.assert_close(together, 2.0 * apart[0] - apart[1], rtol=0, atol=1e-16)


def test_equal_experts_give_their_leading_directions_once_and_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    tau = task_vectors((16, 10), 1)[0]
    left, values, right = np.linalg.svd(tau, full_matrices=False)
    with caplog.at_level(logging.WARNING):
        found = prepared(TsvMerge, [tau, tau])
    np.testing.assert_allclose(sum(found), (left[:, :5] * values[:5]) @ right[:5], atol=1e-15)
    assert "5 of the experts' 10 directions coincide" in caplog.text


def test_the_warning_of_coinciding_experts_comes_once_for_a_model(caplog: pytest.LogCaptureFixture) -> None:
    tau = task_vectors((16, 10), 1)[0]
    instance = TsvMerge(options_of(TsvMerge), experts=("a", "b"), seed=0)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            instance.prepare(inputs_of([tau, tau]))
    assert len(caplog.records) == 1


def test_nearly_equal_experts_differ_only_above_the_tolerance() -> None:
    tau, other = task_vectors((16, 10), 2)
    near = [tau, tau + 1e-9 * other]
    once = prepared(TsvMerge, [tau, tau])
    np.testing.assert_allclose(sum(prepared(TsvMerge, near)), sum(once), atol=1e-10)
    assert np.abs(sum(prepared(TsvMerge, near, tolerance=0.0)) - sum(once)).max() > 1e-4


@pytest.mark.parametrize("method", [TsvMerge, IsoC, IsoCts])
def test_low_rank_experts_get_no_directions_that_they_have_not(method: type[MatrixMethod]) -> None:
    generator = stream(2, "low rank")
    tau = [generator.standard_normal((20, 2)) @ generator.standard_normal((2, 15)) for _ in range(3)]
    columns = np.linalg.svd(np.hstack(tau))[0][:, :6]
    total = sum(prepared(method, tau))
    assert np.linalg.matrix_rank(total) <= 6
    np.testing.assert_allclose(columns @ (columns.T @ total), total, atol=1e-12)


@pytest.mark.parametrize("method", [TsvMerge, IsoC, IsoCts])
def test_zero_task_vectors_take_no_part(method: type[MatrixMethod]) -> None:
    tau = [*task_vectors((9, 12), 1), np.zeros((9, 12))]
    assert np.isfinite(sum(prepared(method, tau))).all()
    if method is TsvMerge:
        assert not prepared(method, tau)[1].any()
    assert not sum(prepared(method, [np.zeros((9, 12))] * 2)).any()


def test_the_signs_of_singular_vectors_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    tau = task_vectors((14, 11), 3)
    before = {method: sum(prepared(method, tau)) for method in (TsvMerge, IsoC, IsoCts)}
    generator = stream(3, "signs")
    plain = decomposing._singular_values

    def flipped(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        left, values, right = plain(matrix)
        signs = torch.from_numpy(generator.choice([-1.0, 1.0], len(values)))
        return left * signs, values, right * signs[:, None]

    monkeypatch.setattr(decomposing, "_singular_values", flipped)
    for method, expected in before.items():
        np.testing.assert_allclose(sum(prepared(method, tau)), expected, atol=1e-15)


@pytest.mark.parametrize("method", [TsvMerge, IsoC, IsoCts])
def test_prepared_bytes_do_not_depend_on_the_experts_order(method: type[MatrixMethod]) -> None:
    inputs = make_inputs(method, (70, 67), torch.bfloat16)
    turned = dataclasses.replace(inputs, experts=tuple(inputs.experts[index] for index in (1, 2, 0)))
    options = options_of(method, stored_as="float64")
    first = method(options, experts=("a", "b", "c"), seed=0).prepare(inputs)
    second = method(options, experts=("b", "c", "a"), seed=0).prepare(turned)
    assert first is not None
    assert second is not None
    order = (1, 2, 0) if method.one_each else (0,)
    assert all(torch.equal(first[index], part) for index, part in zip(order, second, strict=True))


@settings(max_examples=15, deadline=None)
@given(factor=st.floats(1e-6, 1e6), seed=st.integers(0, 1000), turned=st.booleans())
@pytest.mark.parametrize("method", [TsvMerge, IsoC, IsoCts])
def test_parts_scale_and_transpose_with_the_task_vectors(
    method: type[MatrixMethod], factor: float, seed: int, turned: bool
) -> None:
    tau = task_vectors((8, 11), 2, seed)
    expected = factor * sum(prepared(method, tau))
    if method is IsoCts or not turned:
        found = sum(prepared(method, [factor * vector for vector in tau]))
    else:
        found = sum(prepared(method, [factor * vector.T for vector in tau])).T
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * np.abs(expected).max())


def test_a_direction_is_not_lost_to_rounding() -> None:
    tau = task_vectors((98, 98), 49)
    assert int(98 * (1 / 49)) == 1
    for fraction in (0.0, 1 / 49):
        assert np.linalg.matrix_rank(prepared(TsvMerge, tau, fraction=fraction)[0]) == 2


def test_more_directions_than_there_is_room_for_stay_finite() -> None:
    tau = task_vectors((6, 8), 3)
    total = sum(prepared(TsvMerge, tau, fraction=1.0))
    assert np.isfinite(total).all()
    assert np.abs(total).max() < 10 * np.abs(tau).max()


def test_iso_c_has_equal_singular_values_and_the_nuclear_norm_of_the_sum() -> None:
    tau = task_vectors((10, 16), 3)
    found = np.linalg.svd(prepared(IsoC, tau)[0], compute_uv=False)
    np.testing.assert_allclose(found, np.linalg.svd(sum(tau), compute_uv=False).mean(), rtol=1e-12)
    low = [vector[:, :3] @ vector[:3, :] for vector in task_vectors((12, 12), 2)]
    nuclear = np.linalg.svd(prepared(IsoC, low)[0], compute_uv=False).sum()
    np.testing.assert_allclose(nuclear, np.linalg.svd(sum(low), compute_uv=False).sum(), rtol=1e-12)


def test_iso_cts_with_all_directions_in_common_is_iso_c() -> None:
    tau = task_vectors((10, 16), 3)
    np.testing.assert_allclose(prepared(IsoCts, tau, common=1.0)[0], prepared(IsoC, tau)[0], atol=1e-15)


@pytest.mark.parametrize("common", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_iso_cts_divides_the_directions_whatever_their_number(common: float, count: int) -> None:
    for side in (1, 2, 4, 5, 7):
        tau = task_vectors((side, 8), count)
        np.testing.assert_allclose(prepared(IsoCts, tau, common=common)[0], plain_iso_cts(tau, common), atol=1e-14)


@pytest.mark.parametrize("method", [IsoC, IsoCts])
def test_isotropy_goes_from_the_weighted_sum_to_equal_singular_values(method: type[MatrixMethod]) -> None:
    tau = task_vectors((7, 9), 3)
    flat = prepared(method, tau)[0]
    weight = np.array([0.5, 1.0, 1.5])
    plain = sum(w * vector for w, vector in zip(weight, tau, strict=True))
    for isotropy in (0.0, 0.25, 1.0):
        coefficients = {"scale": np.asarray(1.5), "isotropy": np.asarray(isotropy), "weight": weight}
        found = merged(method, inputs_of(tau), coefficients, options=options_of(method, stored_as="float64"))
        np.testing.assert_allclose(found.numpy(), 1.5 * ((1 - isotropy) * plain + isotropy * flat), atol=1e-15)


COEFFICIENTS = {"scale": np.asarray(1.0), "isotropy": np.asarray(0.5)}
NAMES = (
    "model.embed_tokens.weight",
    "lm_head.weight",
    "transformer.wte.weight",
    "transformer.wpe.weight",
    "gpt_neox.embed_in.weight",
    "embed_out.weight",
    "output.weight",
    "score.weight",
    "visual.text_projection",
    "backbone.layers.0.mixer.conv1d.weight",
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", [TsvMerge, IsoC])
def test_tables_and_heads_get_the_mean_of_the_task_vectors(method: type[MergeMethod], name: str) -> None:
    tau = task_vectors((6, 8), 2)
    weight = np.array([1.0, 0.5])
    found = merged(method, inputs_of(tau, name=name), {**COEFFICIENTS, "weight": weight})
    np.testing.assert_allclose(found.numpy(), (tau[0] + 0.5 * tau[1]) / 2, atol=1e-17)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.11.mlp.down_proj.weight",
        "encoder.layer.3.attention.output.dense.weight",
        "transformer.h.1.attn.c_attn.weight",
        "model.layers.0.mlp.gate.weight",
    ],
)
def test_linear_layers_are_taken_as_matrices(name: str) -> None:
    instance = TsvMerge(options_of(TsvMerge), experts=("a", "b"), seed=0)
    assert instance.prepare(inputs_of(task_vectors((6, 8), 2), name=name)) is not None


def test_which_names_are_averaged_can_be_chosen() -> None:
    tau = task_vectors((6, 8), 2)
    everything = TsvMerge(options_of(TsvMerge, averaged=""), experts=("a", "b"), seed=0)
    assert everything.prepare(inputs_of(tau, name="lm_head.weight")) is not None
    chosen = TsvMerge(options_of(TsvMerge, averaged=r"\.mlp\."), experts=("a", "b"), seed=0)
    assert chosen.prepare(inputs_of(tau, name="layers.0.mlp.up_proj.weight")) is None
    with pytest.raises(MergeError, match="averaged: no regular expression"):
        TsvMerge(options_of(TsvMerge, averaged="("), experts=("a", "b"), seed=0)


@pytest.mark.parametrize("method", [TsvMerge, IsoC, IsoCts])
def test_a_stack_of_matrices_is_merged_slice_by_slice(method: type[MatrixMethod]) -> None:
    stacks = [np.stack(task_vectors((6, 8), 4, seed)) for seed in range(2)]
    found = prepared(method, stacks)
    for index in range(4):
        alone = prepared(method, [stack[index] for stack in stacks])
        assert all((part[index] == other).all() for part, other in zip(found, alone, strict=True))
    instance = method(options_of(method, stacks=False), experts=("a", "b"), seed=0)
    assert instance.prepare(inputs_of(stacks)) is None
    assert instance.prepared_bytes((4, 6, 8), 2) == 0


def test_a_slice_that_is_not_finite_spoils_that_slice_alone() -> None:
    stacks = [np.stack(task_vectors((6, 8), 3, seed)) for seed in range(2)]
    stacks[1][1, 2, 3] = np.nan
    for part in prepared(TsvMerge, stacks):
        assert np.isnan(part[1]).all()
        assert np.isfinite(part[[0, 2]]).all()


def test_the_stated_size_is_that_of_the_prepared_matrices() -> None:
    for stored_as, size in (("float64", 8), ("float32", 4), ("bfloat16", 2)):
        many = TsvMerge(options_of(TsvMerge, stored_as=stored_as), experts=("a", "b", "c"), seed=0)
        assert many.prepared_bytes((10, 20), 3) == 3 * 200 * size
        one = IsoC(options_of(IsoC, stored_as=stored_as), experts=("a", "b", "c"), seed=0)
        assert one.prepared_bytes((10, 20), 3) == 200 * size
        assert one.prepared_bytes((20,), 3) == 0


def test_float32_decompositions_come_near_those_in_float64() -> None:
    tau = task_vectors((20, 30), 3)
    for method in (TsvMerge, IsoC, IsoCts):
        rough, fine = sum(prepared(method, tau, precision="float32")), sum(prepared(method, tau))
        assert 0 < np.abs(rough - fine).max() < 1e-4 * np.abs(fine).max()


def test_decompositions_keep_what_can_be_told_from_zero() -> None:
    generator = stream(4, "rank")
    for shape in ((5, 40), (40, 5), (20, 20), (1, 7), (7, 1)):
        matrix = torch.from_numpy(generator.standard_normal(shape))
        left, values, right = decompose(matrix)
        assert len(values) == min(shape)
        torch.testing.assert_close((left * values) @ right, matrix, rtol=0, atol=1e-13)
        torch.testing.assert_close(left.T @ left, torch.eye(min(shape), dtype=torch.float64), rtol=0, atol=1e-13)
        torch.testing.assert_close(right @ right.T, torch.eye(min(shape), dtype=torch.float64), rtol=0, atol=1e-13)
    assert len(decompose(torch.ones(4, 6, dtype=torch.float64)).values) == 1
    assert len(decompose(torch.zeros(4, 6, dtype=torch.float64)).values) == 0
    assert decompose(torch.zeros(4, 0, dtype=torch.float64)).left.shape == (4, 0)


def test_a_decomposition_that_fails_is_tried_on_the_transpose_and_then_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = torch.linalg.svd, []

    def failing(matrix: torch.Tensor, full_matrices: bool) -> object:
        calls.append(matrix.shape)
        if len(calls) == 1 or always:
            raise torch.linalg.LinAlgError("no convergence")
        return real(matrix, full_matrices=full_matrices)

    monkeypatch.setattr(torch.linalg, "svd", failing)
    always = False
    matrix = torch.from_numpy(task_vectors((6, 7), 1)[0])
    left, values, right = decompose(matrix)
    torch.testing.assert_close((left * values) @ right, matrix)
    always = True
    with pytest.raises(MergeError, match=r"layer\.weight: singular values don't converge"):
        prepared(TsvMerge, task_vectors((6, 7), 2))


def test_polar_factors_are_partial_isometries() -> None:
    generator = stream(5, "polar")
    matrix = torch.from_numpy(generator.standard_normal((9, 5)))
    found, dropped = polar(matrix)
    assert dropped == 0
    torch.testing.assert_close(found.T @ found, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-14)
    doubled, dropped = polar(torch.cat([matrix, matrix], dim=1), 1e-9)
    assert dropped == 4  # of min(9, 10) directions five are there
    torch.testing.assert_close(doubled, torch.cat([found, found], dim=1) / 2**0.5, rtol=0, atol=1e-14)


def test_a_pool_gives_results_in_order_and_leaves_torch_its_threads() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with decomposing.matrix_pool(torch.device("cpu")) as side_by_side:
            assert side_by_side.count == 2
            assert torch.get_num_threads() == 1
            assert side_by_side.map(lambda item: (item, torch.get_num_threads()), range(5)) == [
                (i, 1) for i in range(5)
            ]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert MatrixPool(1).map(str, [1, 2]) == ["1", "2"]
