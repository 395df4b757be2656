"""Mixtures of experts as transformers stores them: a matrix for each expert, or all of a layer in one tensor.

Granite and GPT-OSS store stacks, in the two orders of sides; Mixtral and Qwen3 store matrices, which
transformers stacks when it loads them, or the stacks themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from evomerge.inference.live import LiveModel
from evomerge.materialise.folder import write_folder
from evomerge.materialise.merger import Merger
from evomerge.methods import METHODS
from evomerge.methods.spectral.base import MatrixMethod
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.compress import compress
from evomerge.models.open import open_models
from evomerge.recipe.group import Group
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference
from helpers.merging import streamed

NUM_EXPERTS = 4
SIZES = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "num_experts_per_tok": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GRANITE = "model.layers.1.block_sparse_moe.output_linear.weight"
GPT_OSS = "model.layers.1.mlp.experts.gate_up_proj"
BIAS = f"{GPT_OSS}_bias"
QWEN = "model.layers.1.mlp.experts.{}down_proj"

MODELS: dict[str, Callable[[], Any]] = {
    "granite": lambda: transformers.GraniteMoeConfig(num_local_experts=NUM_EXPERTS, **SIZES),
    "gpt_oss": lambda: transformers.GptOssConfig(num_local_experts=NUM_EXPERTS, head_dim=8, **SIZES),
    "mixtral": lambda: transformers.MixtralConfig(num_local_experts=NUM_EXPERTS, **SIZES),
    "qwen3": lambda: transformers.Qwen3MoeConfig(
        num_experts=NUM_EXPERTS, moe_intermediate_size=12, head_dim=8, **SIZES
    ),
}
STORED: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "granite": (GRANITE, (4, 16, 24)),
    "gpt_oss": (GPT_OSS, (4, 16, 48)),
    "mixtral": ("model.layers.1.block_sparse_moe.experts.3.w2.weight", (16, 24)),
    "qwen3": (QWEN.format("3.") + ".weight", (16, 12)),
    "qwen3, stacked": (QWEN.format(""), (4, 16, 12)),
}
"""A tensor of each kind of folder, and its shape there."""

WEIGHTS = {"a": 0.75, "b": -0.4}


def write_family(folder: Path, kind: str) -> dict[str, Path]:
    """A base and three experts near it; "stacked" as the live model names and shapes its tensors."""
    name, _, stacked = kind.partition(", ")
    folders = {}
    for seed, model in enumerate(("base", "a", "b", "c")):
        torch.manual_seed(0)
        made = AutoModelForCausalLM.from_config(MODELS[name]())
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.normal_(0, 0.1)
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
        folders[model] = folder / model
        made.save_pretrained(folders[model])
        if stacked:
            state = {key: tensor.clone() for key, tensor in made.state_dict().items()}
            save_file(state, folders[model] / "model.safetensors", {"format": "pt"})
    return folders


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    folder = tmp_path_factory.mktemp("mixtures")
    return {kind: write_family(folder / kind.replace(", ", "_"), kind) for kind in STORED}


def recipe_of(folders: Mapping[str, Path], method: str, *experts: str, **coefficients: Any) -> Recipe:
    return Recipe(
        base=ModelReference(path=str(folders["base"])),
        experts={name: ModelReference(path=str(folders[name])) for name in experts or ("a", "b")},
        method=method,
        groups=(Group(name="all", coefficients=coefficients),),
    )


def merged(recipe: Recipe) -> dict[str, Tensor]:
    return streamed(Merger(open_models(recipe)), recipe)


@pytest.mark.parametrize("kind", STORED)
def test_a_merge_of_mixtures_is_the_float64_sum_and_runs(
    kind: str, families: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    folders = families[kind]
    stored = {model: load_file(folder / "model.safetensors") for model, folder in folders.items()}
    name, shape = STORED[kind]
    assert tuple(stored["base"][name].shape) == shape
    out = write_folder(recipe_of(folders, "task_arithmetic", weight=WEIGHTS), tmp_path / "out")
    merged = load_file(out / "model.safetensors")
    assert merged.keys() == stored["base"].keys()
    for tensor, value in merged.items():
        base = stored["base"][tensor].double()
        expected = base + sum(weight * (stored[model][tensor].double() - base) for model, weight in WEIGHTS.items())
        # Half a unit in the last place, and as much for the rounding of the sum's terms.
        torch.testing.assert_close(value.double(), expected, rtol=1.2e-7, atol=1e-9)
    model, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(report.values()), report
    live = LiveModel.build(Checkpoint.open(out), dtype=torch.float32)
    tokens = torch.arange(1, 9)[None]
    logits = model(tokens).logits
    assert bool(torch.isfinite(logits).all())
    assert torch.equal(live.model(tokens).logits, logits)


@pytest.mark.slow
@pytest.mark.parametrize("kind", STORED)
@pytest.mark.parametrize("method", METHODS.names())
def test_every_method_merges_mixtures_alike_live_and_streamed(
    method: str, kind: str, families: dict[str, dict[str, Path]]
) -> None:
    found = METHODS.get(method)
    recipe = recipe_of(families[kind], method, *("a", "b", "c")[: found.max_experts])
    merger = Merger(open_models(recipe))
    live = LiveModel.build(merger.base, dtype=torch.float32)
    merger.write(merger.bind(recipe), live.targets)
    stored = load_file(families[kind]["base"] / "model.safetensors")
    changed = 0
    for name, tensor in streamed(merger, recipe).items():
        assert torch.equal(live.targets[name], tensor), name
        changed += not torch.equal(tensor, stored[name])
    assert changed or method in ("passthrough", "scaled", "tall_mask")


def plain_tsv(tau: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Gargiulo et al. 2025, alg. 1: leading directions of each matrix, made orthogonal to each other's."""
    count = min(tau[0].shape) // len(tau)
    parts = [np.linalg.svd(matrix, full_matrices=False) for matrix in tau]
    sides = []
    for side in (
        np.hstack([left[:, :count] for left, _, _ in parts]),
        np.vstack([right[:count] for *_, right in parts]),
    ):
        left, _, right = np.linalg.svd(side, full_matrices=False)
        sides.append(left @ right)
    return sides[0] @ np.diag(np.concatenate([values[:count] for _, values, _ in parts])) @ sides[1]


@pytest.mark.parametrize("kind", ["granite", "gpt_oss", "qwen3, stacked"])
def test_spectral_methods_take_each_slice_of_a_stack_for_a_matrix(
    kind: str, families: dict[str, dict[str, Path]]
) -> None:
    name, (count, *_) = STORED[kind]
    base, a, b = (
        load_file(families[kind][model] / "model.safetensors")[name].double().numpy() for model in ("base", "a", "b")
    )
    found = merged(recipe_of(families[kind], "tsv_merge"))[name].double().numpy()
    assert found.shape[0] == count == NUM_EXPERTS
    for index in range(count):
        expected = base[index] + plain_tsv([a[index] - base[index], b[index] - base[index]])
        # The prepared matrices and the result are float32.
        np.testing.assert_allclose(found[index], expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("method", [name for name in METHODS.names() if issubclass(METHODS.get(name), MatrixMethod)])
def test_a_stack_merges_as_the_same_matrices_stored_one_by_one(
    method: str, families: dict[str, dict[str, Path]]
) -> None:
    apart, together = (merged(recipe_of(families[kind], method)) for kind in ("qwen3", "qwen3, stacked"))
    slices = [apart[f"{QWEN.format(f'{index}.')}.weight"] for index in range(NUM_EXPERTS)]
    assert torch.equal(together[QWEN.format("")], torch.stack(slices))


@pytest.mark.parametrize("method", ["tsv_merge", "iso_c"])
def test_a_table_of_biases_is_averaged_since_it_is_no_matrix(method: str, families: dict[str, dict[str, Path]]) -> None:
    base, a, b = (load_file(families["gpt_oss"][model] / "model.safetensors")[BIAS] for model in ("base", "a", "b"))
    assert base.shape == (NUM_EXPERTS, 48)
    found = merged(recipe_of(families["gpt_oss"], method))[BIAS]
    torch.testing.assert_close(found, (a + b) / 2, rtol=1e-6, atol=1e-8)
    assert not torch.equal(found, base)


def test_a_compressed_mixture_is_an_expert(families: dict[str, dict[str, Path]], tmp_path: Path) -> None:
    folders = families["granite"]
    compress(folders["base"], folders["a"], tmp_path / "small", method="svd", rank=2)
    recipe = recipe_of({**folders, "a": tmp_path / "small"}, "task_arithmetic", "a", weight=1.0)
    found = merged(recipe)[GRANITE].double().numpy()
    base, a = (load_file(folders[model] / "model.safetensors")[GRANITE].double().numpy() for model in ("base", "a"))
    for index in range(NUM_EXPERTS):
        left, values, right = np.linalg.svd(a[index] - base[index], full_matrices=False)
        expected = base[index] + left[:, :2] @ np.diag(values[:2]) @ right[:2]
        np.testing.assert_allclose(found[index], expected, rtol=0, atol=1e-6)
