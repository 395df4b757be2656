"""Paths through layers as slices, and scales of their inputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from evomerge.errors import RecipeError
from evomerge.materialise.folder import write_folder
from evomerge.recipe.layer_path import from_path, scaled_groups
from evomerge.testing.models import tiny_checkpoint
from helpers.stacks import recipe


@given(st.lists(st.tuples(st.sampled_from(["base", "a"]), st.integers(0, 5)), min_size=1, max_size=12))
def test_slices_of_a_path_are_that_path(path: list[tuple[str, int]]) -> None:
    slices = from_path(path)
    walked = [
        (name, layer) for part in slices for name, (first, last) in part.items() for layer in range(first, last + 1)
    ]
    assert walked == path
    # As few slices as there can be.
    ends = [(name, last) for part in slices for name, (_, last) in part.items()]
    starts = [(name, first) for part in slices for name, (first, _) in part.items()]
    assert all((name, last + 1) != start for (name, last), start in zip(ends, starts[1:], strict=False))


def test_an_empty_path_is_refused() -> None:
    with pytest.raises(RecipeError, match="at least one layer"):
        from_path([])


def test_scaled_inputs_of_layers_are_divided_outputs(family: dict[str, Path], tmp_path: Path) -> None:
    path = [("a", 0), ("b", 2), ("a", 1), ("a", 1)]
    scales = [0.5, 3.0, 1.0, 0.25]
    folders = {name: tmp_path / name for name in ("a", "b", "plain", "scaled")}
    for name in ("a", "b"):
        # Without the norms' epsilon, which alone tells lengths apart.
        tiny_checkpoint(folders[name], layers=3, tied=False, seed=len(name) + ord(name), rms_norm_eps=0.0)
    models = {"base": folders["a"], "a": folders["a"], "b": folders["b"]}
    made = replace(recipe(models, from_path(path), "passthrough"), options={"model": "base"}, dtype="float64")
    write_folder(made, folders["plain"])
    write_folder(replace(made, method="scaled", groups=scaled_groups(scales)), folders["scaled"])
    plain, scaled = (
        AutoModelForCausalLM.from_pretrained(folders[name], dtype=torch.float64).eval() for name in ("plain", "scaled")
    )
    tokens = torch.tensor([[1, 40, 41, 300, 7]])
    with torch.no_grad():
        unscaled = plain(tokens).logits
    for layer, scale in zip(plain.model.layers, scales, strict=True):
        layer.register_forward_pre_hook(lambda module, given, scale=scale: (given[0] * scale, *given[1:]))
    with torch.no_grad():
        expected = plain(tokens).logits
        # Llama's norms round to single precision, whatever the model's.
        torch.testing.assert_close(scaled(tokens).logits, expected, rtol=0, atol=2e-6)
    assert (unscaled - expected).abs().max() > 1e-2


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_scales_that_dividing_outputs_cannot_give_are_refused(scale: float) -> None:
    with pytest.raises(RecipeError, match=r"input_scales\[1\]"):
        scaled_groups([1.0, scale])
