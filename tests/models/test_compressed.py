"""Compressed experts wherever a model can be an expert: merges, checks and searches."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.config.config import Config
from evomerge.errors import CheckpointError
from evomerge.materialise.folder import write_folder
from evomerge.methods import METHODS
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.compress import compress
from evomerge.models.compressed import CompressedExpert
from evomerge.models.open import open_expert, open_models
from evomerge.recipe.group import Group
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference, Sources
from evomerge.study.check import check
from evomerge.study.export import export
from evomerge.study.search import search
from evomerge.testing.models import tiny_family
from helpers.search import write_config, write_task

UP = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A 16-bit base with two experts, one of them also compressed, and written out again as a whole model."""
    folder = tmp_path_factory.mktemp("family")
    found = tiny_family(folder, experts=("a", "b"), dtype="bfloat16")
    compress(found["base"], found["a"], folder / "small", method="svd", rank=4)
    opened = CompressedExpert.open(folder / "small")
    shutil.copytree(found["a"], folder / "restored")
    save_file(
        {name: opened.tensor(name).clone() for name in opened.names},
        folder / "restored" / "model.safetensors",
        metadata={"format": "pt"},
    )
    return {**found, "small": folder / "small", "restored": folder / "restored"}


def recipe_of(family: dict[str, Path], experts: dict[str, str], method: str = "task_arithmetic", **rest: Any) -> Recipe:
    return Recipe(
        base=ModelReference(path=str(family["base"])),
        experts={name: ModelReference(path=str(family[folder])) for name, folder in experts.items()},
        method=method,
        groups=(Group(name="all"),),
        **rest,
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["task_arithmetic", "linear", "ties", "dare_ties", "multi_slerp", "tsv_merge"])
def test_a_merge_is_bit_for_bit_that_of_the_restored_expert(
    family: dict[str, Path], tmp_path: Path, method: str
) -> None:
    assert method in METHODS
    merged = []
    for folder in ("small", "restored"):
        out = write_folder(recipe_of(family, {"a": folder, "b": "b"}, method, dtype="float32"), tmp_path / folder)
        merged.append(load_file(out / "model.safetensors"))
    assert merged[0].keys() == merged[1].keys()
    assert all(torch.equal(tensor, merged[1][name]) for name, tensor in merged[0].items())
    assert not torch.equal(merged[0][UP].bfloat16(), load_file(family["base"] / "model.safetensors")[UP])


def test_a_compressed_expert_says_what_it_is_and_what_it_takes(family: dict[str, Path]) -> None:
    base, experts = open_models(
        Sources(base=ModelReference(path=str(family["base"])), experts={"a": ModelReference(path=str(family["small"]))})
    )
    opened = experts["a"]
    assert isinstance(opened, CompressedExpert)
    assert opened.base is base
    stored = sum(tensor.nbytes for file in family["small"].glob("*.safetensors") for tensor in load_file(file).values())
    assert opened.size_bytes == stored < Checkpoint.open(family["a"]).size_bytes
    assert "compressed by svd (rank 4)" in opened.notes[0]
    copy = pickle.loads(pickle.dumps(opened))
    assert torch.equal(copy.tensor(UP), opened.tensor(UP))


def test_a_compressed_expert_is_no_base(family: dict[str, Path]) -> None:
    with pytest.raises(CheckpointError, match="is a compressed expert, not a whole model; it can be an expert, but no"):
        Checkpoint.open(family["small"])


def test_a_merge_over_another_base_is_refused(family: dict[str, Path], tmp_path: Path) -> None:
    recipe = recipe_of({**family, "base": family["b"]}, {"a": "small"})
    with pytest.raises(CheckpointError, match=r"was compressed over another base than .*/b; give the one"):
        write_folder(recipe, tmp_path / "out")
    assert not any(tmp_path.iterdir())


def damage(folder: Path, kind: str) -> None:
    """Damage factors as a bad copy or a bad hand might."""
    file = folder / "factors-00001.safetensors"
    tensors = load_file(file)
    manifest = json.loads((folder / "compressed.json").read_text())
    if kind == "cut short":
        file.write_bytes(file.read_bytes()[:-10])
    elif kind == "of shape":
        tensors[f"{UP}.left"] = tensors[f"{UP}.left"][:, :2].contiguous()
        save_file(tensors, file)
    elif kind == "is missing":
        del tensors[f"{UP}.values"]
        save_file(tensors, file)
    else:
        manifest["tensors"][UP]["rank"] = 0
        (folder / "compressed.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("kind", ["cut short", "of shape", "is missing", "factors of rank 0"])
def test_damaged_factors_are_refused_when_opened(family: dict[str, Path], tmp_path: Path, kind: str) -> None:
    folder = Path(shutil.copytree(family["small"], tmp_path / "copy"))
    damage(folder, kind)
    with pytest.raises(CheckpointError, match=kind) as caught:
        open_expert(ModelReference(path=str(folder)), Checkpoint.open(family["base"]))
    assert kind == "cut short" or UP in str(caught.value)


@pytest.mark.slow
def test_a_search_over_a_compressed_expert_ends_in_an_export(family: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    models = {"base": family["base"], "a": family["small"], "b": family["b"]}
    settings = {"evaluations": 4, "population": 2, "scan": 2, "shortlist": 1}
    file = write_config(tmp_path / "config.yaml", models, write_task(tmp_path / "tasks"), search=settings)
    config = Config.from_file(file)
    found = check(config)
    small = CompressedExpert.open(family["small"])
    assert found.models[1].size_bytes == small.size_bytes
    assert found.prepared_bytes == small.computed_bytes > 0
    assert [note.partition(":")[0] for note in found.notes] == ["expert 'a'", "tensors"]
    search(config, tmp_path / "run")
    AutoModelForCausalLM.from_pretrained(export(tmp_path / "run", tmp_path / "out"))


def test_a_compressed_expert_without_its_base_here_is_only_listed(family: dict[str, Path], tmp_path: Path) -> None:
    models = {"base": Path("org/elsewhere"), "a": family["small"], "b": family["b"]}
    found = check(Config.from_file(write_config(tmp_path / "config.yaml", models, write_task(tmp_path / "tasks"))))
    assert [model.size_bytes is None for model in found.models] == [True, True, False]
