"""A merge is the same bytes whatever the files, threads, order and process that make it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from evomerge.inference.live import LiveModel
from evomerge.kernels import threads
from evomerge.materialise.folder import write_folder
from evomerge.materialise.merger import Merger
from evomerge.methods import METHODS
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.open import open_models
from evomerge.recipe.group import Group
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference, Sources
from evomerge.study.merge import merge
from evomerge.testing.models import tiny_family

IN_ANOTHER_PROCESS = """
import sys
from evomerge.recipe.recipe import Recipe
from evomerge.study.merge import merge
for recipe in sys.argv[2:]:
    merge(recipe, f"{sys.argv[1]}/{recipe.rpartition('/')[2]}", shard_size="20KB")
"""


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """The same models twice: each in one file, and in files of three tensors in the opposite order."""
    folder = tmp_path_factory.mktemp("families")
    whole = tiny_family(folder / "whole", experts="abc", dtype="bfloat16")
    parted = tiny_family(folder / "parted", experts="abc", dtype="bfloat16")
    for model in parted.values():
        tensors = load_file(model / "model.safetensors")
        (model / "model.safetensors").unlink()
        names = sorted(tensors, reverse=True)
        files = {name: f"model-{index // 3:05}-of-00099.safetensors" for index, name in enumerate(names)}
        for file in set(files.values()):
            save_file({name: tensors[name] for name in names if files[name] == file}, model / file)
        (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return {"whole": whole, "parted": parted}


@pytest.fixture(scope="module")
def live(families: dict[str, dict[str, Path]]) -> LiveModel:
    """A model to merge into."""
    return LiveModel.build(Checkpoint.open(families["parted"]["base"]), dtype=torch.bfloat16)


def recipe_of(folders: dict[str, Path], method: str) -> Recipe:
    found = METHODS.get(method)
    halves = {parameter.name: (parameter.low + parameter.high) / 2 for parameter in found.parameters}
    return Recipe(
        base=ModelReference(path=str(folders["base"])),
        experts={name: ModelReference(path=str(folders[name])) for name in "abc"[: found.max_experts]},
        method=method,
        seed=3,
        groups=(Group(name="all", coefficients=halves),),
    )


def digests(tensors: dict[str, Tensor]) -> dict[str, str]:
    return {
        name: hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, tensor in tensors.items()
    }


def written(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS.names())
def test_files_threads_and_order_change_no_byte(
    method: str,
    families: dict[str, dict[str, Path]],
    live: LiveModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipes = {form: recipe_of(folders, method) for form, folders in families.items()}
    expected = digests(written(write_folder(recipes["whole"], tmp_path / "whole", shard_size="5GB")))
    before = torch.get_num_threads()
    # Parts of a tensor are merged side by side, even of these small ones.
    monkeypatch.setattr(threads, "MIN_PART", 4096)
    torch.set_num_threads(3)
    try:
        assert digests(written(write_folder(recipes["parted"], tmp_path / "parted", shard_size="20KB"))) == expected
        merger = Merger(open_models(Sources(base=recipes["parted"].base, experts=recipes["parted"].experts)))
        for tensor in live.targets.values():
            tensor.fill_(torch.nan)
        merger.write(merger.bind(recipes["parted"]), dict(reversed(live.targets.items())))
        assert digests(dict(live.targets)) == expected
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_another_process_with_other_hashes_writes_the_same_bytes(
    families: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    methods = [*METHODS.names()]
    (tmp_path / "recipes").mkdir()
    for method in methods:
        (tmp_path / "recipes" / method).write_text(recipe_of(families["whole"], method).to_yaml())
    files = [str(tmp_path / "recipes" / method) for method in methods]
    # Not the seed of this process, should it have been given one.
    seed = "1" if os.environ.get("PYTHONHASHSEED") == "2" else "2"
    environment = {**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "2"}
    out = tmp_path / "there"
    subprocess.run([sys.executable, "-c", IN_ANOTHER_PROCESS, str(out), *files], check=True, env=environment)
    for method, file in zip(methods, files, strict=True):
        here = merge(file, tmp_path / "here" / method, shard_size="20KB")
        assert digests(written(here)) == digests(written(out / method)) != {}, method
