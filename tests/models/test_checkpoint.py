"""A model folder as a checkpoint: its tensors, its dtype, its head, and folders that are none."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.compatible import check_compatible
from evomerge.testing.models import tiny_checkpoint
from helpers.checkpoints import edit_config, edit_tensors, store_head


def test_a_tensor_is_mapped_and_not_copied(tiny_llama: dict[str, Path]) -> None:
    checkpoint = Checkpoint.open(tiny_llama["base"])
    first, second = (checkpoint.tensor("lm_head.weight") for _ in range(2))
    assert first.data_ptr() == second.data_ptr()


def test_a_checkpoint_travels_to_another_process(tiny_llama: dict[str, Path]) -> None:
    checkpoint = Checkpoint.open(tiny_llama["a"])
    before = checkpoint.tensor("model.norm.weight")
    copy = pickle.loads(pickle.dumps(checkpoint))
    assert torch.equal(copy.tensor("model.norm.weight"), before)


def test_the_dtype_is_that_of_most_numbers(copy_of: Callable[[Path], Path], tiny_llama: dict[str, Path]) -> None:
    folder = copy_of(tiny_llama["base"])

    def mix(tensors: dict[str, torch.Tensor]) -> None:
        for name in tensors:
            if "norm" not in name:
                tensors[name] = tensors[name].bfloat16()
        tensors["model.layers.0.steps"] = torch.arange(100_000)

    edit_tensors(folder, mix)
    assert Checkpoint.open(folder).dtype == torch.bfloat16


def test_an_unknown_tensor_is_named(tiny_llama: dict[str, Path]) -> None:
    with pytest.raises(CheckpointError, match="no tensor 'nope'"):
        Checkpoint.open(tiny_llama["base"]).tensor("nope")


def test_a_damaged_config_is_refused(copy_of: Callable[[Path], Path], tiny_llama: dict[str, Path]) -> None:
    folder = copy_of(tiny_llama["base"])
    for text in ("{", "[]"):
        (folder / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"config\.json"):
            Checkpoint.open(folder)


def test_quantised_weights_are_refused(copy_of: Callable[[Path], Path], tiny_llama: dict[str, Path]) -> None:
    folder = copy_of(tiny_llama["base"])
    edit_config(folder, quantization_config={"bits": 4})
    with pytest.raises(CheckpointError, match="quantised"):
        Checkpoint.open(folder)


def test_a_missing_tokenizer_is_an_error_that_says_so(
    copy_of: Callable[[Path], Path], tiny_llama: dict[str, Path]
) -> None:
    folder = copy_of(tiny_llama["base"])
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(CheckpointError, match="tokenizer can't be loaded"):
        Checkpoint.open(folder).tokenizer()


def test_a_tied_models_redundant_head_is_left_out(copy_of: Callable[[Path], Path], tied: dict[str, Path]) -> None:
    folder = copy_of(tied["a"])
    store_head(folder)
    base, expert = Checkpoint.open(tied["base"]), Checkpoint.open(folder)
    assert "lm_head.weight" not in expert.tensors
    assert base.head is None
    check_compatible(base, {"a": expert})


def test_a_config_that_doesnt_say_ties_as_its_architecture_does(
    copy_of: Callable[[Path], Path], tied: dict[str, Path], tmp_path: Path
) -> None:
    gemma = tiny_checkpoint(tmp_path / "gemma", "gemma")
    llama = copy_of(tied["a"])
    for folder in (gemma, llama):
        store_head(folder)
        edit_config(folder, tie_word_embeddings=...)
    assert Checkpoint.open(gemma).head is None
    assert Checkpoint.open(llama).head is not None


def test_a_head_that_differs_isnt_tied_whatever_the_config_says(
    copy_of: Callable[[Path], Path], tied: dict[str, Path]
) -> None:
    folder = copy_of(tied["a"])
    store_head(folder, change=0.5)
    expert = Checkpoint.open(folder)
    assert expert.head is not None
    with pytest.raises(CheckpointError, match="an output head of its own"):
        check_compatible(Checkpoint.open(tied["base"]), {"a": expert})


def test_masks_that_old_releases_stored_are_no_tensors_of_the_model(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "gpt2", "gpt2")
    before = Checkpoint.open(folder).names
    edit_tensors(
        folder, lambda tensors: tensors.update({"transformer.h.0.attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.bool)})
    )
    assert Checkpoint.open(folder).names == before


def test_a_null_quantization_config_says_that_weights_are_not_quantised(
    copy_of: Callable[[Path], Path], tiny_llama: dict[str, Path]
) -> None:
    folder = copy_of(tiny_llama["base"])
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"quantization_config": None}))
    assert Checkpoint.open(folder).names == Checkpoint.open(tiny_llama["base"]).names
    path.write_text(json.dumps(config | {"quantization_config": {"bits": 4}}))
    with pytest.raises(CheckpointError, match="its weights are quantised"):
        Checkpoint.open(folder)
