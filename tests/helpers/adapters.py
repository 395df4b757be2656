"""Adapters as PEFT writes them, and their merges by PEFT and by evomerge."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from evomerge.materialise.merger import Merger
from evomerge.models.open import open_models
from evomerge.recipe.group import Group
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference
from helpers.merging import streamed

LLAMA = ["q_proj", "v_proj", "down_proj"]


def write_adapter(
    folder: Path,
    base: Path,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    rows: int | None = None,
    **settings: Any,
) -> Path:
    """A PEFT adapter of the base, with more rows in its embedding if given, whose every trained number is random."""
    settings = {"r": 4, "lora_alpha": 6, "target_modules": LLAMA, "task_type": "CAUSAL_LM", **settings}
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if rows is not None:
        model.resize_token_embeddings(rows)
    model = get_peft_model(model, LoraConfig(**settings))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad or "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    model.to(dtype).save_pretrained(folder)
    return folder


def merged_by_peft(base: Path, adapter: Path, *, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The tensors of PEFT's own merge, as transformers saves them."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    merged.save_pretrained(adapter.with_name(f"{adapter.name}-merged"))
    return load_file(adapter.with_name(f"{adapter.name}-merged") / "model.safetensors")


def recipe_of(base: Path, experts: Mapping[str, Path], method: str = "task_arithmetic", **settings: Any) -> Recipe:
    return Recipe(
        base=ModelReference(path=str(base)),
        experts={name: ModelReference(path=str(folder)) for name, folder in experts.items()},
        method=method,
        **{"groups": (Group(name="all", coefficients={"weight": 1.0}),), **settings},
    )


def merged_by_us(recipe: Recipe) -> dict[str, Tensor]:
    return streamed(Merger(open_models(recipe)), recipe)


def assert_close(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Within two units in the last place of float32, of the largest number of a tensor."""
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        limit = 2 * torch.finfo(torch.float32).eps * float(tensor.abs().max())
        assert float((found[name] - tensor).abs().max()) <= limit, name


def changed(tmp_path: Path, adapter: Path, **settings: Any) -> Path:
    """A copy of the adapter whose config says something else."""
    folder = Path(shutil.copytree(adapter, tmp_path / "changed"))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | settings))
    return folder
