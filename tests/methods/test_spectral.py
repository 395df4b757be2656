"""Merging of singular vectors: TSV-Merge and isotropic merging, as their papers compute them."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.kernels.rounding import round_once
from evomerge.methods.spectral.base import MatrixMethod
from evomerge.methods.spectral.singular import IsoC, IsoCts, TsvMerge
from evomerge.streams import stream
from evomerge.testing.inputs import make_inputs, merged, options_of
from helpers.matrices import Matrix, inputs_of, prepared, task_vectors

SHAPES = ((12, 12), (30, 9), (9, 30), (13, 20))


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
