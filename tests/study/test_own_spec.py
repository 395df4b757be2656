"""A spec of one's own in alignments: on the command line, in searches, in recipes; its content is part of the merge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from evomerge.config.config import Config
from evomerge.errors import AlignmentError, ConfigError, RecipeError
from evomerge.models.open import open_models
from evomerge.recipe.recipe import Recipe
from evomerge.study.align import align
from evomerge.study.merge import merge
from evomerge.testing.models import tiny_checkpoint
from helpers.search import write_config, write_task

HIDDEN = "model.layers.{layer}.mlp.hidden"
SPEC: dict[str, Any] = {
    "labels": {HIDDEN: "signed"},
    "tensors": {
        "model.layers.{layer}.mlp.gate_proj.weight": [f"{HIDDEN}:gain", None],
        "model.layers.{layer}.mlp.up_proj.weight": [HIDDEN, None],
        "model.layers.{layer}.mlp.down_proj.weight": [None, HIDDEN],
        "model.embed_tokens.weight": "fixed",
        "model.norm.weight": "fixed",
        "lm_head.weight": "fixed",
        "model.layers.{layer}.self_attn.*": "fixed",
        "model.layers.{layer}.input_layernorm.weight": "fixed",
        "model.layers.{layer}.post_attention_layernorm.weight": "fixed",
    },
}


@pytest.fixture
def apart(tmp_path: Path) -> dict[str, Path]:
    """A base and an expert that have nothing in common."""
    return {name: tiny_checkpoint(tmp_path / name, seed=seed) for seed, name in enumerate(("base", "a"))}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(SPEC))
    return path


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_it_moves_what_the_architectures_spec_moves_where_both_say_the_same(
    tmp_path: Path, apart: dict[str, Path], file: Path
) -> None:
    align(apart["base"], [apart["a"]], tmp_path / "own", spec=file)
    (built_in,) = align(
        apart["base"], [apart["a"]], tmp_path / "built-in", residual="none", heads=False, rotations=False
    )
    assert built_in.moved > 0
    assert weights(tmp_path / "own" / "a") == weights(built_in.folder) != weights(apart["a"])


def test_a_folder_is_made_again_from_its_recipe_when_the_file_has_changed(
    tmp_path: Path, apart: dict[str, Path], file: Path
) -> None:
    (written,) = align(apart["base"], [apart["a"]], tmp_path / "own", spec=file)
    file.unlink()
    assert weights(merge(written.folder / "recipe.yaml", tmp_path / "again")) == weights(written.folder)


def test_what_it_says_is_part_of_a_merge_and_of_a_run(tmp_path: Path, apart: dict[str, Path], file: Path) -> None:
    config = yaml.safe_load(write_config(tmp_path / "c.yaml", apart, write_task(tmp_path / "tasks")).read_text())
    config["models"]["align"] = {"spec": str(file)}
    one = Config.from_data(config)
    assert one.models.sources().align is not None
    moved = open_models(one.models.sources()).experts["a"]
    assert moved.computes("model.layers.0.mlp.up_proj.weight")
    assert not moved.computes("model.layers.0.self_attn.q_proj.weight")
    recipe = Recipe.from_data({"evomerge": 1, "models": config["models"], "method": "linear"})
    file.write_text(yaml.safe_dump({**SPEC, "labels": {HIDDEN: "permutation"}}))
    assert Config.from_data(config).identity() != one.identity()
    assert Recipe.from_data({"evomerge": 1, "models": config["models"], "method": "linear"}).key() != recipe.key()
    assert Recipe.from_data(recipe.to_data()) == recipe


@pytest.mark.parametrize("settings", [{"residual": "signed"}, {"heads": False}])
def test_symmetries_beside_it_are_refused(
    tmp_path: Path, apart: dict[str, Path], file: Path, settings: dict[str, Any]
) -> None:
    (name,) = settings
    message = f"{name}: a spec of one's own says itself which maps may act"
    with pytest.raises(AlignmentError, match=message):
        align(apart["base"], [apart["a"]], tmp_path / "out", spec=file, **settings)
    models = {"base": str(apart["base"]), "experts": {"a": str(apart["a"])}, "align": {"spec": str(file), **settings}}
    with pytest.raises(ConfigError, match=message):
        Config.from_data({"models": models, "benchmark": {"tasks": ["x"]}})
    with pytest.raises(RecipeError, match=message):
        Recipe.from_data({"evomerge": 1, "models": models, "method": "linear"})


def test_one_that_leaves_a_tensor_out_or_is_not_there_is_refused(
    tmp_path: Path, apart: dict[str, Path], file: Path
) -> None:
    tensors = {name: axes for name, axes in SPEC["tensors"].items() if name != "lm_head.weight"}
    with pytest.raises(AlignmentError, match=r"says nothing about lm_head\.weight"):
        align(apart["base"], [apart["a"]], tmp_path / "out", spec={**SPEC, "tensors": tensors})
    with pytest.raises(AlignmentError, match=r"absent\.yaml"):
        align(apart["base"], [apart["a"]], tmp_path / "out", spec=tmp_path / "absent.yaml")
