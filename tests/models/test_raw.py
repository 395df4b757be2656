"""Tensors of every kind of checkpoint without torch: the same as with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.compress import compress
from evomerge.models.compressed import CompressedExpert
from evomerge.models.lora import Adapter
from evomerge.models.stack import stack
from helpers.united import opened

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
]


@pytest.fixture
def checkpoints(
    llama: Path, adapter: Path, sharded: Path, tied: dict[str, Path], folders: dict[str, Path], tmp_path: Path
) -> dict[str, Checkpoint]:
    whole, expert = Checkpoint.open(tied["base"]), Checkpoint.open(tied["a"])
    adapted = Adapter.open(adapter, Checkpoint.open(llama))
    compress(tied["base"], tied["a"], tmp_path / "compressed", method="svd", rank=2)
    return {
        "whole": whole,
        "in shards": Checkpoint.open(sharded),
        "adapter": adapted,
        "compressed": CompressedExpert.open(tmp_path / "compressed"),
        "stack": stack(whole, {"a": expert}, ({"base": (0, 0)}, {"a": (0, 1)}))[0],
        "stack with an adapter": stack(Checkpoint.open(llama), {"a": adapted}, ({"a": (0, 1)},))[1]["a"],
        "other vocabulary": opened(folders, "union")[1]["a"],
    }


def of_all(checkpoints: dict[str, Checkpoint]) -> Iterator[tuple[str, Checkpoint, str]]:
    return ((kind, model, name) for kind, model in checkpoints.items() for name in model.names)


def test_a_checkpoint_of_any_kind_has_the_same_tensors_without_torch(checkpoints: dict[str, Checkpoint]) -> None:
    for kind, model, name in of_all(checkpoints):
        raw, tensor = model.raw(name), model.tensor(name)
        assert raw.torch().dtype == tensor.dtype == model.tensors[name].dtype, (kind, name)
        assert torch.equal(raw.torch(), tensor), (kind, name)


def test_a_tensor_that_isnt_there_is_missed_in_the_same_words(checkpoints: dict[str, Checkpoint]) -> None:
    for model in (checkpoints["whole"], checkpoints["stack"]):
        with pytest.raises(CheckpointError) as plain:
            model.tensor("nowhere")
        with pytest.raises(CheckpointError) as raw:
            model.raw("nowhere")
        assert str(plain.value) == str(raw.value)


def test_tensors_that_start_at_odd_bytes_are_read_as_they_are(tmp_path: Path, llama: Path) -> None:
    (tmp_path / "config.json").write_bytes((llama / "config.json").read_bytes())
    stored = load_file(llama / "model.safetensors")
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    data = (tmp_path / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    shifted = (length + 3).to_bytes(8, "little") + data[8 : 8 + length] + b"   " + data[8 + length :]
    (tmp_path / "model.safetensors").write_bytes(shifted)
    model = Checkpoint.open(tmp_path)
    assert any(model.raw(name).data_ptr() % 4 for name in model.names)
    for name in model.names:
        assert torch.equal(model.raw(name).torch(), stored[name])
        assert torch.equal(model.tensor(name).double(), stored[name].double())
