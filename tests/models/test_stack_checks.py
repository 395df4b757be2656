"""Slices that do not fit the models, and layers that cannot stand in the base."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.errors import CheckpointError, RecipeError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.stack import stack
from evomerge.recipe.sources import Slice
from evomerge.testing.models import tiny_checkpoint, tiny_family
from helpers.stacks import DEPTH, opened


@pytest.mark.parametrize(
    ("slices", "message"),
    [
        ([{"base": (0, 4)}], r"slices\[0\]\.base: layers 0 to 4, but it has layers 0 to 3"),
        ([{"base": (0, 1)}, {"a": (0, 1), "b": (1, 1)}], r"slices\[1\]: .* as many of each: a 2, b 1"),
        ([{"c": (0, 1)}], r"slices\[0\]: unknown model 'c'"),
        ([{}], r"slices\[0\]: .*: no model"),
        ([], "at least one slice"),
    ],
)
def test_slices_that_do_not_fit_the_models_are_refused(
    family: dict[str, Path], slices: list[Slice], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        stack(*opened(family), slices)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"intermediate_size": 48}, r"a: .*other shapes than the base's: model\.layers\.0\.mlp\.down_proj"),
        ({"attention_bias": True}, r"a: .*its layers have self_attn\.\w_proj\.bias.*, which the base's haven't"),
        ({"vocab_size": 400}, r"other shapes than in the base.*lm_head\.weight 400×32 \(base 384×32\)"),
        ({"architecture": "mistral"}, r"a: .*is a mistral, the base a llama"),
    ],
)
def test_layers_that_cannot_stand_in_the_base_are_refused(
    other: dict[str, object], message: str, tmp_path: Path
) -> None:
    base = tiny_checkpoint(tmp_path / "base", tied=False)
    expert = tiny_checkpoint(tmp_path / "a", tied=False, **other)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=message):
        stack(Checkpoint.open(base), {"a": Checkpoint.open(expert)}, [{"base": (0, 1)}, {"a": (0, 1)}])


def test_layers_of_different_kinds_are_not_merged_with_each_other(tmp_path: Path) -> None:
    kinds = ["sliding_attention", "full_attention"] * 2
    family = tiny_family(tmp_path, "qwen2", layers=DEPTH, layer_types=kinds, use_sliding_window=True, sliding_window=4)
    base, experts = opened(family)
    stack(base, experts, [{"base": (0, 1), "a": (2, 3)}])
    with pytest.raises(
        CheckpointError, match=r"slices\[1\]: layer 0 of base and layer 1 of a are of different kinds .*layer_types"
    ):
        stack(base, experts, [{"b": (0, 0)}, {"base": (0, 1), "a": (1, 2)}])
