"""What a folder stores, read from headers, and files that are cut short, misnamed or no safetensors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe.sources import ModelReference
from evomerge.testing.models import ARCHITECTURES, tiny_checkpoint


def edit_index(folder: Path, change: Callable[[dict[str, str]], None]) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_headers_and_tensors_are_those_that_safetensors_reads(tmp_path: Path, architecture: str, dtype: str) -> None:
    folder = tiny_checkpoint(tmp_path / "model", architecture, dtype=dtype)
    expected = load_file(folder / "model.safetensors")
    checkpoint = Checkpoint.open(ModelReference(path=str(folder)))
    assert set(checkpoint.names) == set(expected)
    for name, tensor in expected.items():
        info = checkpoint.tensors[name]
        assert (info.shape, info.dtype, info.size_bytes) == (tuple(tensor.shape), tensor.dtype, tensor.nbytes)
        assert torch.equal(checkpoint.tensor(name), tensor)
    assert checkpoint.dtype == getattr(torch, dtype)
    assert checkpoint.model_type == architecture
    assert checkpoint.size_bytes == sum(tensor.nbytes for tensor in expected.values())
    assert checkpoint.num_parameters == sum(tensor.numel() for tensor in expected.values())
    assert checkpoint.layout.depth == 2


def test_shards_hold_together(sharded: Path) -> None:
    expected: dict[str, torch.Tensor] = {}
    for file in sorted(sharded.glob("*.safetensors")):
        expected |= load_file(file)
    assert len(list(sharded.glob("*.safetensors"))) > 2
    checkpoint = Checkpoint.open(str(sharded))
    assert set(checkpoint.names) == set(expected)
    assert all(torch.equal(checkpoint.tensor(name), tensor) for name, tensor in expected.items())


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(part=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_refused_by_name(tiny_llama: dict[str, Path], tmp_path: Path, part: float) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(tiny_llama["base"], folder, dirs_exist_ok=True)
    weights = folder / "model.safetensors"
    whole = (tiny_llama["base"] / "model.safetensors").read_bytes()
    weights.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: .*(cut short|damaged)"):
        Checkpoint.open(folder)


def test_a_file_cut_in_its_data_names_the_first_tensors_lost(
    copy_of: Callable[[Path], Path], tiny_llama: dict[str, Path]
) -> None:
    folder = copy_of(tiny_llama["base"])
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-4])
    with pytest.raises(CheckpointError, match=r"so model\.norm\.weight can't be read"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("junk", [b"", b"\x00" * 7, b"\xff" * 64, b"<html>not found</html>" * 9])
def test_a_file_that_is_no_safetensors_is_refused(
    copy_of: Callable[[Path], Path], tiny_llama: dict[str, Path], junk: bytes
) -> None:
    folder = copy_of(tiny_llama["base"])
    (folder / "model.safetensors").write_bytes(junk)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        Checkpoint.open(folder)


def test_missing_shards_are_named(copy_of: Callable[[Path], Path], sharded: Path) -> None:
    folder = copy_of(sharded)
    gone = sorted(folder.glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(CheckpointError, match=rf"are missing: {gone.name}"):
        Checkpoint.open(folder)


def test_a_tensor_in_the_index_but_in_no_shard_is_named(copy_of: Callable[[Path], Path], sharded: Path) -> None:
    folder = copy_of(sharded)
    edit_index(folder, lambda index: index.update({"model.layers.9.lost": next(iter(index.values()))}))
    with pytest.raises(CheckpointError, match=r"aren't in their shards: model\.layers\.9\.lost"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("file", ["../model.safetensors", "/etc/passwd", "a/../../b", "..\\b", "C:\\b", ""])
def test_an_index_that_leaves_its_folder_is_refused(copy_of: Callable[[Path], Path], sharded: Path, file: str) -> None:
    folder = copy_of(sharded)
    edit_index(folder, lambda index: index.update({"model.norm.weight": file}))
    with pytest.raises(CheckpointError, match="outside its folder"):
        Checkpoint.open(folder)


def test_a_tensor_in_two_shards_is_refused(copy_of: Callable[[Path], Path], sharded: Path) -> None:
    folder = copy_of(sharded)
    first, second = sorted(folder.glob("*.safetensors"))[:2]
    save_file(load_file(second) | dict(list(load_file(first).items())[:1]), second)
    with pytest.raises(CheckpointError, match="stored twice"):
        Checkpoint.open(folder)


def test_pickled_weights_are_refused_with_the_remedy(
    copy_of: Callable[[Path], Path], tiny_llama: dict[str, Path]
) -> None:
    folder = copy_of(tiny_llama["base"])
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"only pickled weights \(pytorch_model\.bin\).*save_pretrained"):
        Checkpoint.open(folder)
