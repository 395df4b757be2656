"""Where a model is: a folder, the cache of the hub, or nowhere."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.hub import whereabouts
from evomerge.recipe.sources import ModelReference, located


def test_folders_that_are_no_model_are_refused(copy_of: Callable[[Path], Path], tiny_llama: dict[str, Path]) -> None:
    folder = copy_of(tiny_llama["base"])
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="holds no weights"):
        Checkpoint.open(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        Checkpoint.open(folder)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="LoRA adapter"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all", "~/nowhere-at-all/x/y", "merg.yaml", "merges/a.yml"])
def test_a_path_that_isnt_there_is_no_hub_id(path: str) -> None:
    with pytest.raises(CheckpointError, match="no such folder; give a model folder or a hub id"):
        Checkpoint.open(path)


def test_a_file_in_place_of_a_folder_is_refused(tiny_llama: dict[str, Path]) -> None:
    with pytest.raises(CheckpointError, match="is a file; give the folder"):
        Checkpoint.open(tiny_llama["base"] / "config.json")


@pytest.mark.parametrize("taken", [False, True])
def test_a_recipe_in_place_of_a_folder_is_refused_with_the_command_that_makes_it(tmp_path: Path, taken: bool) -> None:
    file = tmp_path / "my merge.yaml"
    file.write_text("merge_method: linear")
    made = tmp_path / "my merge"
    if taken:
        made.mkdir()
        made = tmp_path / "my merge-merged"
    remedy = f"is a file; if it is of a merge, make that with `evomerge merge '{file}' '{made}'`, and give its folder, "
    reference = ModelReference(path=str(file))
    assert whereabouts(reference) == ("impossible", None, f"{file}: {remedy}{made}")
    with pytest.raises(CheckpointError, match=re.escape(f"{file}: {remedy}{made}")):
        Checkpoint.open(reference)


def test_an_unreachable_hub_says_what_to_do() -> None:
    reference = ModelReference(path="some-org/some-model", revision="v1")
    with pytest.raises(CheckpointError, match=r"some-org/some-model at revision 'v1': .*HF_HUB_OFFLINE"):
        Checkpoint.open(reference)


def test_whereabouts_tells_folder_cache_and_unresolved_without_raising(
    tiny_llama: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "models--org--tiny"
    snapshot = cached / "snapshots" / ("0" * 40)
    shutil.copytree(tiny_llama["base"], snapshot)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert whereabouts(ModelReference(path=str(tiny_llama["base"]))).kind == "folder"
    assert whereabouts(ModelReference(path="org/tiny"))[:2] == ("cache", snapshot)
    assert whereabouts(ModelReference(path="org/tiny", revision="v2")).kind == "unresolved"
    assert whereabouts(ModelReference(path="org/other")).kind == "unresolved"
    nowhere = "./nowhere: no such folder; give a model folder or a hub id such as org/name"
    assert whereabouts(ModelReference(path="./nowhere")) == ("impossible", None, nowhere)
    assert Checkpoint.open("org/tiny").folder == snapshot
    (snapshot / "model.safetensors").unlink()
    assert whereabouts(ModelReference(path="org/tiny")).kind == "unresolved"


def test_what_begins_with_a_folder_here_is_a_path_unless_the_cache_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "experts").mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    assert located("experts/none", tmp_path) == str(tmp_path / "experts" / "none")
    assert located("org/none", tmp_path) == "org/none"
    monkeypatch.chdir(tmp_path)
    assert whereabouts(ModelReference(path="experts/none")).kind == "impossible"
    assert whereabouts(ModelReference(path="experts")).kind == "folder"
    with pytest.raises(CheckpointError, match="experts/none: no such folder; give a model folder or a hub id"):
        Checkpoint.open("experts/none")
    (tmp_path / "cache" / "models--experts--none").mkdir(parents=True)
    assert located("experts/none", tmp_path) == "experts/none"
    assert whereabouts(ModelReference(path="experts/none")).kind == "unresolved"
