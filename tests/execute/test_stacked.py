"""Live stacks of shared layers compute what the exported folder computes in stock transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from evomerge.errors import RecipeError
from evomerge.execute.base import WorkerSettings
from evomerge.execute.stacked import StackedModels
from evomerge.materialise.folder import write_folder
from evomerge.recipe.group import Group
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference, Slice, Sources
from evomerge.testing.models import tiny_family

pytestmark = pytest.mark.slow

PATHS: tuple[tuple[Slice, ...], ...] = (
    ({"base": (0, 3)},),
    ({"a": (0, 1)}, {"base": (1, 2)}, {"b": (1, 3)}, {"b": (3, 3)}, {"b": (3, 3)}),
    ({"base": (0, 0)}, {"a": (3, 3)}, {"a": (0, 0)}),
    ({"base": (0, 3)}, {"base": (0, 3)}),
)
OUTPUTS = {
    "llama": ("o_proj", "down_proj"),
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
    "gemma": ("o_proj", "down_proj"),
    # Whose experts transformers holds as one tensor.
    "mixtral": ("o_proj", ".w2."),
}


def recipes(models: dict[str, Path], outputs: tuple[str, ...]) -> list[Recipe]:
    def recipe(slices: tuple[Slice, ...], **merge: Any) -> Recipe:
        return Recipe(
            base=ModelReference(path=str(models["base"])),
            experts={name: ModelReference(path=str(models[name])) for name in ("a", "b")},
            slices=slices,
            options={"model": "base"},
            **merge,
        )

    plain = [recipe(path, method="passthrough") for path in PATHS]
    groups = (
        *(Group(name=text, layers=(2, 2), names=(text,), coefficients={"scale": 0.7}) for text in outputs),
        Group(name="rest", coefficients={"scale": 1.0}),
    )
    return [*plain, recipe(PATHS[1], method="scaled", groups=groups), plain[1]]


@pytest.mark.parametrize("architecture", [*OUTPUTS])
def test_logits_and_continuations_are_those_of_the_exported_folder(architecture: str, tmp_path: Path) -> None:
    models = tiny_family(tmp_path / "models", architecture, layers=4, scale=0.05)
    references = {name: ModelReference(path=str(path)) for name, path in models.items()}
    sources = Sources(base=references.pop("base"), experts=references)
    settings = WorkerSettings(sources=sources, dtype="float32", device="cpu", threads=1)
    stacks = StackedModels(settings, devices=[torch.device("cpu")])
    live = stacks.live.model
    tokens = torch.arange(3, 27).reshape(2, 12)
    for number, recipe in enumerate(recipes(models, OUTPUTS[architecture])):
        stacks.write(stacks.bind(recipe))
        assert stacks.live.model is live
        write_folder(recipe, tmp_path / str(number))
        stock = AutoModelForCausalLM.from_pretrained(tmp_path / str(number), dtype=torch.float32).eval()
        with torch.no_grad():
            assert torch.equal(live(tokens).logits, stock(tokens).logits)
            ours, theirs = (
                model.generate(tokens, max_new_tokens=6, do_sample=False, use_cache=True) for model in (live, stock)
            )
        assert torch.equal(ours, theirs)


def test_layers_are_shared_and_only_scaled_tensors_are_copied(tmp_path: Path) -> None:
    models = tiny_family(tmp_path / "models", "llama", layers=4)
    references = {name: ModelReference(path=str(path)) for name, path in models.items()}
    sources = Sources(base=references.pop("base"), experts=references)
    settings = WorkerSettings(sources=sources, dtype="float32", device="cpu", threads=1)
    stacks = StackedModels(settings, devices=[torch.device("cpu")])
    *_, twice, scaled, _ = recipes(models, OUTPUTS["llama"])
    stacks.write(stacks.bind(twice))
    layers = stacks.live.model.model.layers
    assert len(layers) == 8
    for first, again in zip(layers[:4], layers[4:], strict=True):
        for one, other in zip(first.parameters(), again.parameters(), strict=True):
            assert one is other
        assert again.self_attn.layer_idx == first.self_attn.layer_idx + 4
    kept = layers[2].self_attn.o_proj.weight
    before = kept.clone()
    stacks.write(stacks.bind(scaled))
    assert torch.equal(kept, before)
    own = stacks.live.model.model.layers
    assert own[2].self_attn.q_proj.weight is layers[1].self_attn.q_proj.weight
    expected = (layers[1].self_attn.o_proj.weight.double() * 0.7).float()
    assert torch.equal(own[2].self_attn.o_proj.weight, expected)
    merged = Recipe(
        base=twice.base, experts=twice.experts, method="passthrough", slices=({"base": (0, 1), "a": (0, 1)},)
    )
    with pytest.raises(RecipeError, match="takes each layer from one model"):
        stacks.bind(merged)
