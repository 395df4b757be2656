"""Which tensors are taken as matrices, and what becomes of the others."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.errors import MergeError
from evomerge.methods.base import MergeMethod
from evomerge.methods.spectral.base import MatrixMethod
from evomerge.methods.spectral.singular import IsoC, IsoCts, TsvMerge
from evomerge.testing.inputs import merged, options_of
from helpers.matrices import inputs_of, prepared, task_vectors

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
