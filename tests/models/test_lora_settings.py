"""Adapters that are no plain low-rank sum, or of another base, are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.lora import Adapter
from evomerge.testing.models import tiny_checkpoint
from helpers.adapters import changed, write_adapter

# PEFT still reads a property that transformers has renamed, and tells of weights that are stored transposed.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_dora": True}, r"lora_B and lora_magnitude_vector belong together, .* are stored \(DoRA\)"),
        ({"bias": "all"}, "bias 'all'"),
        ({"peft_type": "LOHA"}, r"hada_w1_a and .* belong together, and lora_A and lora_B are stored \(LoHa\)"),
        ({"peft_type": "LOKR"}, "adapter of type LOKR"),
        ({"lora_alpha": "8"}, "lora_alpha is '8'; it must be a number"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa' changes the base too"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
        ({"target_parameters": ["experts.gate_up_proj"]}, "target_parameters"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"a_setting_of_tomorrow": 3}, "a_setting_of_tomorrow isn't supported"),
        ({"r": 8}, r"down_proj\.weight: its factors have rank 4, while adapter_config\.json says 8"),
    ],
)
def test_what_is_no_plain_low_rank_sum_is_refused_by_name(
    tmp_path: Path, llama: Path, adapter: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        Adapter.open(changed(tmp_path, adapter, **settings), Checkpoint.open(llama))


def test_an_adapter_of_another_base_is_refused(tmp_path: Path, adapter: Path) -> None:
    wide = Checkpoint.open(tiny_checkpoint(tmp_path / "wide", hidden=64))
    with pytest.raises(
        CheckpointError, match=r"doesn't fit the base .*wide: .*down_proj\.weight 4×64 and 32×4 \(base 64×128\)"
    ):
        Adapter.open(adapter, wide)
    other = Checkpoint.open(tiny_checkpoint(tmp_path / "other", "gpt_neox"))
    with pytest.raises(CheckpointError, match=r"changes tensors that the base .*other hasn't: model\.layers\.0\.mlp"):
        Adapter.open(adapter, other)
    shallow = Checkpoint.open(tiny_checkpoint(tmp_path / "shallow", layers=1))
    with pytest.raises(CheckpointError, match=r"hasn't: model\.layers\.1"):
        Adapter.open(adapter, shallow)


def test_an_adapter_that_grew_the_vocabulary_is_refused(tmp_path: Path, llama: Path) -> None:
    folder = write_adapter(tmp_path / "adapter", llama, modules_to_save=["lm_head", "embed_tokens"])
    stored = load_file(folder / "adapter_model.safetensors")
    key = next(key for key in stored if "embed_tokens" in key)
    stored[key] = torch.cat([stored[key], stored[key][:2]])
    save_file(stored, folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.embed_tokens\.weight 386×32 \(base 384×32\).*its vocabulary"):
        Adapter.open(folder, Checkpoint.open(llama))


def test_an_adapted_embedding_of_a_tied_model_is_refused(tmp_path: Path) -> None:
    base = tiny_checkpoint(tmp_path / "base", tied=True)
    folder = write_adapter(tmp_path / "adapter", base, target_modules=["q_proj", "embed_tokens"])
    with pytest.raises(CheckpointError, match=r"changes model\.embed_tokens\.weight, to which the base ties its head"):
        Adapter.open(folder, Checkpoint.open(base))


def test_half_an_update_and_pickled_adapters_are_refused(tmp_path: Path, llama: Path, adapter: Path) -> None:
    folder = changed(tmp_path, adapter)
    stored = load_file(folder / "adapter_model.safetensors")
    save_file(dict(list(stored.items())[1:]), folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="belong together, and only one of them"):
        Adapter.open(folder, Checkpoint.open(llama))
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="pickled adapters can run code"):
        Adapter.open(folder, Checkpoint.open(llama))


def test_an_adapter_is_no_base(adapter: Path) -> None:
    with pytest.raises(CheckpointError, match="is a LoRA adapter, not a whole model; it can be an expert, but no base"):
        Checkpoint.open(adapter)


def test_another_name_of_the_base_is_only_noted(tmp_path: Path, llama: Path, adapter: Path) -> None:
    named = changed(tmp_path, adapter, base_model_name_or_path="org/something-else")
    notes = Adapter.open(named, Checkpoint.open(llama)).notes
    assert "was trained for org/something-else" in notes[1]
    same = Adapter.open(adapter, Checkpoint.open(llama)).notes
    assert len(same) == 1
