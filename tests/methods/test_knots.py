"""KnOTS-TIES against the authors' procedure in numpy, and its laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evomerge.methods.base import TensorInputs
from evomerge.methods.spectral import decompose
from evomerge.methods.spectral.knots import KnotsTies
from evomerge.streams import stream
from evomerge.testing.inputs import merged, options_of
from helpers.matrices import Matrix, prepared


def low_rank(shape: tuple[int, int], count: int, rank: int = 3, seed: int = 0) -> list[Matrix]:
    generator = stream(seed, "adapters", *shape)
    return [
        generator.standard_normal((shape[0], rank)) @ generator.standard_normal((rank, shape[1])) * 0.01
        for _ in range(count)
    ]


def plain_knots_ties(tau: list[Matrix], density: float, scaled: bool) -> Matrix:
    left, values, right = np.linalg.svd(np.hstack(tau), full_matrices=False)
    kept = values > 1e-5 * values[0]
    left, values, right = left[:, kept], values[kept], right[kept]
    blocks = np.stack(np.split(right, len(tau), axis=1))
    measured = np.abs(values[:, None] * blocks if scaled else blocks)
    count = int(density * blocks[0].size)
    for block, magnitude in zip(blocks, measured, strict=True):
        block[magnitude < np.sort(magnitude, axis=None)[-count]] = 0.0
    sign = np.sign(blocks.sum(axis=0))
    agreeing = (blocks * sign) > 0
    mean = (blocks * agreeing).sum(axis=0) / np.maximum(agreeing.sum(axis=0), 1)
    return left @ np.diag(values) @ mean


@pytest.mark.parametrize("density", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("trim", ["scaled", "directions"])
@pytest.mark.parametrize("shape", [(20, 15), (15, 20), (12, 50)], ids=str)
def test_equal_weights_give_what_the_authors_procedure_does(shape: tuple[int, int], trim: str, density: float) -> None:
    for count in (1, 2, 3):
        tau = low_rank(shape, count)
        expected = plain_knots_ties(tau, density, trim == "scaled")
        np.testing.assert_allclose(sum(prepared(KnotsTies, tau, trim=trim, density=density)), expected, atol=1e-15)


def test_full_rank_task_vectors_are_merged_alike() -> None:
    generator = stream(1, "full")
    tau = [generator.standard_normal((9, 14)) for _ in range(3)]
    np.testing.assert_allclose(sum(prepared(KnotsTies, tau, density=0.3)), plain_knots_ties(tau, 0.3, True), atol=1e-13)


def test_one_expert_untrimmed_is_returned() -> None:
    tau = low_rank((8, 11), 1)
    np.testing.assert_allclose(prepared(KnotsTies, tau)[0], tau[0], atol=1e-16)


def test_equal_experts_give_themselves() -> None:
    tau = low_rank((8, 11), 1)[0]
    np.testing.assert_allclose(sum(prepared(KnotsTies, [tau, tau, tau])), tau, atol=1e-16)


def test_opposite_experts_elect_nothing_and_cancel() -> None:
    tau = low_rank((8, 11), 1)[0]
    first, second = prepared(KnotsTies, [tau, -tau])
    np.testing.assert_allclose(first, tau / 2, atol=1e-16)
    np.testing.assert_allclose(second, -tau / 2, atol=1e-16)


def test_the_signs_of_singular_vectors_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    tau = [*low_rank((14, 11), 2), -low_rank((14, 11), 1)[0]]
    expected = prepared(KnotsTies, tau, density=0.4)
    generator = stream(3, "signs")
    plain = decompose._singular_values

    def flipped(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        left, values, right = plain(matrix)
        signs = torch.from_numpy(generator.choice([-1.0, 1.0], len(values)))
        return left * signs, values, right * signs[:, None]

    monkeypatch.setattr(decompose, "_singular_values", flipped)
    for found, part in zip(prepared(KnotsTies, tau, density=0.4), expected, strict=True):
        np.testing.assert_allclose(found, part, atol=1e-15)


def test_task_vectors_may_be_joined_along_rows() -> None:
    tau = low_rank((10, 13), 2)
    turned = prepared(KnotsTies, [vector.T for vector in tau], along="columns", density=0.5)
    for found, part in zip(prepared(KnotsTies, tau, along="rows", density=0.5), turned, strict=True):
        np.testing.assert_allclose(found, part.T, atol=1e-16)


def test_weights_act_after_the_election_and_linearly() -> None:
    tau = low_rank((10, 13), 3)
    parts = prepared(KnotsTies, tau, density=0.5)
    inputs = TensorInputs(
        name="layer.weight",
        base=torch.ones(10, 13, dtype=torch.float64),
        experts=tuple(torch.from_numpy(1.0 + vector) for vector in tau),
    )
    weight = np.array([0.2, 1.4, 0.0])
    options = options_of(KnotsTies, density=0.5, stored_as="float64")
    found = merged(KnotsTies, inputs, {"weight": weight}, options=options).numpy()
    np.testing.assert_allclose(found, 1.0 + sum(w * part for w, part in zip(weight, parts, strict=True)), atol=1e-12)


def test_a_density_that_keeps_less_than_an_entry_keeps_one() -> None:
    tau = low_rank((6, 7), 2)
    assert np.linalg.matrix_rank(prepared(KnotsTies, tau, density=0.0)[0]) <= 1
    assert sum(prepared(KnotsTies, tau, density=0.0)).any()


def test_zero_task_vectors_take_no_part() -> None:
    tau = low_rank((6, 7), 1)[0]
    first, second = prepared(KnotsTies, [tau, np.zeros((6, 7))])
    np.testing.assert_allclose(first, tau, atol=1e-16)
    assert not second.any()
    assert not sum(prepared(KnotsTies, [np.zeros((6, 7))] * 2)).any()
