"""Merged models as folders: complete, loadable, or not there at all."""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from evomerge.errors import CheckpointError, ExportError, MergeError, RecipeError
from evomerge.files.fresh_folder import fresh_folder
from evomerge.inference.live import LiveModel
from evomerge.materialise.folder import write_folder
from evomerge.materialise.merger import Merger
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.open import Models
from evomerge.recipe.recipe import Recipe
from evomerge.study.merge import merge
from evomerge.testing.models import ARCHITECTURES, tiny_checkpoint, tiny_family
from helpers.commands import run
from helpers.folders import recipe_of, weight_bytes

pytestmark = pytest.mark.usefixtures("stand_ins")


def live_model(recipe: Recipe) -> LiveModel:
    base = Checkpoint.open(recipe.base)
    merger = Merger(Models(base, {name: Checkpoint.open(model) for name, model in recipe.experts.items()}))
    live = LiveModel.build(base, dtype=merger.bind(recipe).dtype)
    merger.write(merger.bind(recipe), live.targets)
    return live


def assert_same_model(folder: Path, live: LiveModel) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    expected, found = live.model.state_dict(), loaded.state_dict()
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name
    tokens = torch.arange(1, 30)[None]
    assert torch.equal(loaded(tokens).logits, live.model(tokens).logits)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("dtype", "shard_size"), [("float32", "5GB"), ("bfloat16", "20KB")])
def test_the_folder_loads_as_the_model_that_was_scored_bit_for_bit(
    tmp_path: Path, architecture: str, dtype: str, shard_size: str
) -> None:
    recipe = recipe_of(tiny_family(tmp_path, architecture, dtype=dtype))
    out = write_folder(recipe, tmp_path / "merged", shard_size=shard_size)
    assert (len(list(out.glob("*.safetensors"))) > 1) == (shard_size != "5GB")
    assert_same_model(out, live_model(recipe))


@pytest.mark.parametrize("architecture", ["llama", "gemma", "gpt2"])
def test_a_redundant_head_of_a_tied_base_is_not_written_and_the_model_stays_tied(
    tmp_path: Path, architecture: str
) -> None:
    folders = tiny_family(tmp_path, architecture, tied=True)
    tensors = load_file(folders["base"] / "model.safetensors")
    embedding = next(name for name in tensors if name.endswith(("embed_tokens.weight", "wte.weight")))
    tensors["lm_head.weight"] = tensors[embedding].clone()
    save_file(tensors, folders["base"] / "model.safetensors", {"format": "pt"})
    recipe = recipe_of(folders)
    out = write_folder(recipe, tmp_path / "merged")
    assert "lm_head.weight" not in load_file(out / "model.safetensors")
    assert_same_model(out, live_model(recipe))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_recipes_dtype_is_that_of_the_weights_and_the_config(tmp_path: Path, dtype: str) -> None:
    recipe = recipe_of(tiny_family(tmp_path), dtype=dtype)
    out = write_folder(recipe, tmp_path / "merged")
    assert json.loads((out / "config.json").read_text())["dtype"] == dtype
    assert_same_model(out, live_model(recipe))


def test_every_key_that_states_the_dtype_is_updated(tmp_path: Path) -> None:
    folders = tiny_family(tmp_path)
    config = folders["base"] / "config.json"
    stated = json.loads(config.read_text()) | {"torch_dtype": "float32", "text_config": {"torch_dtype": "float32"}}
    config.write_text(json.dumps(stated))
    out = write_folder(recipe_of(folders, dtype="bfloat16"), tmp_path / "merged")
    written = json.loads((out / "config.json").read_text())
    assert (written["dtype"], written["torch_dtype"], written["text_config"]["dtype"]) == ("bfloat16",) * 3
    assert {key for key in stated if stated[key] != written[key]} == {"dtype", "torch_dtype", "text_config"}


def test_mixed_dtypes_stay_and_every_tensor_is_aligned(tmp_path: Path) -> None:
    folders = tiny_family(tmp_path, dtype="bfloat16")
    for folder in folders.values():
        tensors = load_file(folder / "model.safetensors")
        tensors = {name: tensor.float() if "norm" in name else tensor for name, tensor in tensors.items()}
        tensors["model.layers.0.mlp.flags"] = torch.tensor([True, False, True])
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    out = write_folder(recipe_of(folders), tmp_path / "merged", shard_size="30KB")
    stored = load_file(folders["base"] / "model.safetensors")
    written: dict[str, torch.Tensor] = {}
    for file in out.glob("*.safetensors"):
        data = file.read_bytes()
        size = int.from_bytes(data[:8], "little")
        for name, entry in json.loads(data[8 : 8 + size]).items():
            if name != "__metadata__":
                assert (8 + size + entry["data_offsets"][0]) % stored[name].element_size() == 0
        written |= load_file(file)
    assert {name: tensor.dtype for name, tensor in written.items()} == {n: t.dtype for n, t in stored.items()}
    assert torch.equal(written["model.layers.0.mlp.flags"], stored["model.layers.0.mlp.flags"])


def test_the_folder_is_complete_and_tells_how_it_was_made(tiny_llama: dict[str, Path], tmp_path: Path) -> None:
    recipe = recipe_of(tiny_llama)
    out = write_folder(recipe, tmp_path / "new" / "merged", files={"README.md": "# A merge\n"})
    assert {path.name for path in tiny_llama["base"].iterdir()} | {"recipe.yaml", "README.md"} == {
        path.name for path in out.iterdir()
    }
    assert Recipe.from_file(out / "recipe.yaml") == recipe
    assert (out / "README.md").read_text() == "# A merge\n"
    base, merged = (AutoTokenizer.from_pretrained(folder) for folder in (tiny_llama["base"], out))
    assert merged.get_vocab() == base.get_vocab()
    assert merged.chat_template == base.chat_template
    assert GenerationConfig.from_pretrained(out).eos_token_id == 2


def test_a_merge_can_be_made_again_from_its_own_recipe_file(tiny_llama: dict[str, Path], tmp_path: Path) -> None:
    first = write_folder(recipe_of(tiny_llama), tmp_path / "first")
    second = merge(first / "recipe.yaml", tmp_path / "second")
    digests = [hashlib.sha256((out / "model.safetensors").read_bytes()).digest() for out in (first, second)]
    assert digests[0] == digests[1]


def test_a_merge_may_be_merged_again(tiny_llama: dict[str, Path], tmp_path: Path) -> None:
    first = write_folder(recipe_of(tiny_llama), tmp_path / "first", shard_size="40KB")
    out = write_folder(recipe_of({**tiny_llama, "base": first}), tmp_path / "second")
    AutoModelForCausalLM.from_pretrained(out)


def test_progress_counts_bytes_up_to_all_of_them(tiny_llama: dict[str, Path], tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    out = write_folder(recipe_of(tiny_llama), tmp_path / "merged", progress=lambda *at: seen.append(at))
    assert [at for at, _ in seen] == sorted({at for at, _ in seen})
    assert {total for _, total in seen} == {weight_bytes(out)}
    assert seen[-1][0] == seen[-1][1]


def nothing_left(parent: Path) -> bool:
    return not parent.exists() or not list(parent.iterdir())


def test_a_folder_with_files_is_refused_and_untouched(tiny_llama: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "merged"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match="already holds files"):
        write_folder(recipe_of(tiny_llama), out)
    assert [path.name for path in out.iterdir()] == ["notes.txt"]
    with pytest.raises(ExportError, match="is a file"):
        write_folder(recipe_of(tiny_llama), out / "notes.txt")


def test_an_empty_folder_is_taken(tiny_llama: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "merged").mkdir()
    write_folder(recipe_of(tiny_llama), tmp_path / "merged")
    AutoModelForCausalLM.from_pretrained(tmp_path / "merged")


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_disk_that_is_too_small_is_found_before_anything_is_written(
    tiny_llama: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "evomerge.materialise.folder.shutil.disk_usage", lambda path: Usage(10**9, 10**9 - 10**5, 10**5)
    )
    with pytest.raises(ExportError, match=r"merged: needs 0\.17 MB, and its disk has 0\.10 MB free"):
        write_folder(recipe_of(tiny_llama), tmp_path / "out" / "merged")
    assert nothing_left(tmp_path / "out")


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let every write beyond `size` bytes of a file fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_half_way_leaves_nothing(tiny_llama: dict[str, Path], tmp_path: Path) -> None:
    with largest_file(100_000), pytest.raises(ExportError, match=r"can't be written: .*it needs 0\.17 MB.*Nothing was"):
        write_folder(recipe_of(tiny_llama), tmp_path / "out" / "merged")
    assert nothing_left(tmp_path / "out")
    write_folder(recipe_of(tiny_llama), tmp_path / "out" / "merged")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that nobody can write to")
def test_a_place_that_cant_be_written_is_said_to_be_one(tiny_llama: dict[str, Path]) -> None:
    with pytest.raises(ExportError, match="/proc/nowhere/merged: can't be written"):
        write_folder(recipe_of(tiny_llama), "/proc/nowhere/merged")


@pytest.mark.parametrize("error", [KeyboardInterrupt, MergeError("no")])
def test_an_interruption_leaves_nothing(
    tiny_llama: dict[str, Path], tmp_path: Path, error: type[BaseException] | BaseException
) -> None:
    def stop(written: int, total: int) -> None:
        if written > total // 2:
            raise error

    with pytest.raises(error if isinstance(error, type) else type(error)):
        write_folder(recipe_of(tiny_llama), tmp_path / "out" / "merged", progress=stop)
    assert nothing_left(tmp_path / "out")


def test_a_killed_export_leaves_no_folder_of_that_name(tiny_llama: dict[str, Path], tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe_of(tiny_llama).to_yaml())
    script = tmp_path / "killed.py"
    script.write_text(
        "import os, signal, sys\n"
        "from helpers.stand_in_methods import METHODS as stand_ins\n"
        "from evomerge.study.merge import merge\n"
        "from evomerge.methods import METHODS\n"
        "def kill(written, total):\n"
        "    if written > total // 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "with METHODS.extended(stand_ins):\n"
        "    merge(sys.argv[1], sys.argv[2], progress=kill)\n"
    )
    out = tmp_path / "out" / "merged"
    done = run([recipe, out], script=script)
    assert done.returncode == -signal.SIGKILL
    assert not out.exists()
    assert len(list(out.parent.iterdir())) == 1
    merge(recipe, out)
    AutoModelForCausalLM.from_pretrained(out)
    assert [path.name for path in out.parent.iterdir()] == ["merged"]


def test_an_export_leaves_others_at_work_alone(tmp_path: Path) -> None:
    out = tmp_path / "merged"
    with fresh_folder(out) as first:
        with fresh_folder(out) as second:
            assert first.exists()
            (second / "weights").write_text("second")
        assert (out / "weights").read_text() == "second"
        shutil.rmtree(out)
        (first / "weights").write_text("first")
    assert (out / "weights").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


def test_nothing_is_written_for_models_or_recipes_that_dont_work(tiny_llama: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out" / "merged"
    with pytest.raises(RecipeError, match="unknown merge method"):
        write_folder(recipe_of(tiny_llama, method="none"), out)
    deep = tiny_checkpoint(tmp_path / "deep", layers=3)
    with pytest.raises(CheckpointError, match="3 layers"):
        write_folder(recipe_of({**tiny_llama, "b": deep}), out)
    with pytest.raises(ExportError, match="plain name"):
        write_folder(recipe_of(tiny_llama), out, files={"../README.md": ""})
    assert nothing_left(out.parent)
