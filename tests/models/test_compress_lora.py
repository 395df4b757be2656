"""Experts written as LoRA adapters: PEFT on the base gives the model with the truncated task vector."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from evomerge.errors import ExportError, MergeError
from evomerge.methods.spectral.compress import Truncation
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.compress_lora import compress_to_lora
from evomerge.models.lora import Adapter
from evomerge.testing.models import tiny_family

# PEFT still reads a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

LINEAR = ("_proj", "c_attn", "c_proj", "c_fc")
PROMPT = torch.tensor([[5, 9, 200, 31, 7]])


def truncated(base: Path, expert: Path, rank: int) -> tuple[Any, float, float]:
    """The base with the leading directions of each linear layer, its relative error, and the share elsewhere."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    wanted = AutoModelForCausalLM.from_pretrained(expert, dtype=torch.float64).state_dict()
    lost = elsewhere = total = 0.0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            tau = wanted[name] - parameter
            total += float(tau.square().sum())
            kept = torch.zeros_like(tau)
            linear = tau.dim() == 2 and (any(part in name for part in LINEAR) or "lm_head" in name)
            if linear:
                left, values, right = torch.linalg.svd(tau, full_matrices=False)
                kept = (left[:, :rank] * values[:rank]) @ right[:rank]
            else:
                elsewhere += float(tau.square().sum())
            lost += float((tau - kept).square().sum())
            parameter += kept
    return model, (lost / total) ** 0.5, elsewhere / total


@pytest.mark.parametrize(
    ("architecture", "tied", "rank"), [("llama", False, 3), ("llama", True, 40), ("gpt2", True, 3), ("gemma", True, 2)]
)
def test_peft_on_the_base_is_the_model_with_the_truncated_task_vector(
    tmp_path: Path, architecture: str, tied: bool, rank: int
) -> None:
    family = tiny_family(tmp_path, architecture, ["a"], tied=tied)
    made = compress_to_lora(family["base"], family["a"], tmp_path / "out", Truncation(rank=rank))
    expected, error, elsewhere = truncated(family["base"], family["a"], rank)
    base = AutoModelForCausalLM.from_pretrained(family["base"], dtype=torch.float64)
    adapted = PeftModel.from_pretrained(base, tmp_path / "out", autocast_adapter_dtype=False)
    with torch.no_grad():
        torch.testing.assert_close(adapted(PROMPT).logits, expected(PROMPT).logits, atol=1e-5, rtol=0)
    assert made.error == pytest.approx(error, rel=1e-5)
    assert made.left_out == pytest.approx(elsewhere, rel=1e-5)
    assert made.rank == min(rank, 32)
    opened = Adapter.open(tmp_path / "out", Checkpoint.open(family["base"]))
    state = expected.state_dict()
    for name in opened.names:
        torch.testing.assert_close(opened.tensor(name).double(), state[name], atol=1e-6, rtol=0)


def test_layers_of_fewer_directions_get_a_rank_of_their_own_and_unchanged_ones_none(tmp_path: Path) -> None:
    family = tiny_family(tmp_path, "llama", ["a"], tied=False)
    file = family["a"] / "model.safetensors"
    start, tensors = load_file(family["base"] / "model.safetensors"), load_file(file)
    one, same = "model.layers.1.self_attn.q_proj", "model.layers.0.self_attn.o_proj"
    tensors[f"{one}.weight"] = start[f"{one}.weight"] + torch.eye(32)[:, :1] @ torch.ones(1, 32)
    tensors[f"{same}.weight"] = start[f"{same}.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    made = compress_to_lora(family["base"], family["a"], tmp_path / "out", Truncation(energy=0.9))
    assert made.tensors[f"{one}.weight"].rank == 1
    assert f"{same}.weight" not in made.tensors
    expected = {name: tensor.rank for name, tensor in made.tensors.items() if tensor.rank is not None}
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(family["base"]), tmp_path / "out")
    ranks = {
        f"{path.removeprefix('base_model.model.')}.weight": module.r["default"]
        for path, module in adapted.named_modules()
        if hasattr(module, "lora_A")
    }
    assert ranks == expected
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert {"q_proj", "model.layers.1.self_attn.o_proj"} <= {*settings["target_modules"]}


def test_an_expert_without_a_changed_linear_layer_and_a_taken_folder_are_refused(
    tmp_path: Path, tiny_llama: dict[str, Path]
) -> None:
    with pytest.raises(MergeError, match="no linear layer differs"):
        compress_to_lora(tiny_llama["base"], tiny_llama["base"], tmp_path / "out", Truncation(rank=2))
    assert not (tmp_path / "out").exists()
    with pytest.raises(ExportError, match="is there already"):
        compress_to_lora(tiny_llama["base"], tiny_llama["a"], tiny_llama["b"], Truncation(rank=2))
