"""Stacks of layers: left out, repeated, reordered, or taken from several models."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge.config.config import Config
from evomerge.errors import ConfigError
from evomerge.inference.live import LiveModel
from evomerge.materialise.folder import write_folder
from evomerge.materialise.merger import Merger
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.open import Models, open_models
from evomerge.models.stack import stack
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import Slice
from evomerge.study.export import export
from evomerge.study.search import search
from evomerge.testing.models import ARCHITECTURES, tiny_checkpoint, tiny_family
from helpers.search import write_config, write_task
from helpers.stacks import DEPTH, PARTS, opened, recipe, weighted
from helpers.vocabulary import bpe, with_added, write_model

pytestmark = pytest.mark.slow


def test_each_layer_of_a_stack_is_the_named_models_layer(family: dict[str, Path], tmp_path: Path) -> None:
    slices: tuple[Slice, ...] = ({"a": (1, 3)}, {"base": (0, 0)}, {"b": (2, 3)})
    write_folder(recipe(family, slices, "passthrough"), tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    stored = {name: load_file(folder / "model.safetensors") for name, folder in family.items()}
    order = [("a", 1), ("a", 2), ("a", 3), ("base", 0), ("b", 2), ("b", 3)]
    seen = 0
    for name, tensor in merged.items():
        if name.startswith("model.layers."):
            number, rest = name.removeprefix("model.layers.").split(".", 1)
            source, layer = order[int(number)]
            assert tensor.equal(stored[source][f"model.layers.{layer}.{rest}"]), name
            seen += 1
        else:
            # Before the layers is the first slice's, after them the last one's.
            assert tensor.equal(stored["a" if name == "model.embed_tokens.weight" else "b"][name]), name
    assert seen == 6 * len([name for name in stored["base"] if name.startswith("model.layers.0.")])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_hidden_layers"] == 6


def test_models_that_share_a_slice_are_merged_there_and_the_others_take_no_part(
    family: dict[str, Path], tmp_path: Path
) -> None:
    write_folder(recipe(family, ({"base": (0, 0), "a": (2, 2)}, {"base": (3, 3), "b": (0, 0)})), tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    base, a, b = (load_file(family[name] / "model.safetensors") for name in ("base", "a", "b"))
    rest = "mlp.up_proj.weight"
    for number, (expert, layer, start, weight) in enumerate(((a, 2, 0, 0.5), (b, 0, 3, 0.25))):
        origin = base[f"model.layers.{start}.{rest}"].double()
        expected = origin + weight * (expert[f"model.layers.{layer}.{rest}"].double() - origin)
        assert merged[f"model.layers.{number}.{rest}"].equal(expected.float())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_live_stack_answers_as_the_exported_folder_does(architecture: str, tmp_path: Path) -> None:
    family = tiny_family(tmp_path, architecture, layers=DEPTH)
    made = recipe(family, PARTS)
    write_folder(made, tmp_path / "out")
    before = {name: load_file(folder / "model.safetensors") for name, folder in family.items()}
    base, experts = open_models(made)
    live = LiveModel.build(base, dtype=torch.float32)
    merger = Merger(Models(base, experts))
    # Twice, since a live model that shared memory with its inputs or between its layers would drift.
    for _ in range(2):
        merger.write(merger.bind(made), live.targets)
    for name, tensors in before.items():
        opened = base.source if name == "base" else experts[name].source  # type: ignore[attr-defined]
        assert all(tensors[key].equal(opened.tensor(key)) for key in opened.names)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokens = AutoTokenizer.from_pretrained(tmp_path / "out")("Hello there", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, live.model(tokens).logits)
    # Every repeated layer has its own place in the cache.
    assert model.generate(tokens, max_new_tokens=3, do_sample=False, use_cache=True).equal(
        model.generate(tokens, max_new_tokens=3, do_sample=False, use_cache=False)
    )
    assert base.notes == ("9 layers: base 0-2, a 1-3, b 3-3, a 0-1 with b 2-3",)


def test_models_of_different_depth_can_be_stacked(tmp_path: Path) -> None:
    family = {name: tiny_checkpoint(tmp_path / name, layers=layers) for name, layers in (("base", 2), ("a", 5))}
    base, experts = stack(
        Checkpoint.open(family["base"]),
        {"a": Checkpoint.open(family["a"])},
        [{"base": (0, 1), "a": (3, 4)}, {"a": (0, 0)}],
    )
    assert base.names == experts["a"].names
    assert base.layout.depth == experts["a"].layout.depth == 3


def test_a_stack_travels_between_processes(family: dict[str, Path]) -> None:
    base, experts = stack(*opened(family), PARTS)
    again = pickle.loads(pickle.dumps(experts["a"]))
    assert again.names == base.names
    assert all(again.tensor(name).equal(experts["a"].tensor(name)) for name in base.names)


def test_a_search_over_a_stack_scores_what_it_exports(family: dict[str, Path], tmp_path: Path) -> None:
    path = write_config(tmp_path / "x.yaml", family, write_task(tmp_path / "tasks"))
    text = path.read_text().replace("merge:\n", "  slices: [{base: [0, 1], a: [1, 2]}, {b: [3, 3]}]\nmerge:\n")
    config = Config.from_yaml(text)
    result = search(config, tmp_path / "run")
    winner = Recipe.from_data(result.data["winner"]["recipe"])
    assert winner.slices == ({"base": (0, 1), "a": (1, 2)}, {"b": (3, 3)})
    assert {layer for group in winner.groups for layer in group.layers or ()} == {0, 1, 2}
    notes: list[str] = []
    export(tmp_path / "run", tmp_path / "out", report=notes.append)
    assert [note for note in notes if not note.startswith("tensors")] == ["3 layers: base 0-1 with a 1-2, b 3-3"]
    assert "It is a stack of 3 layers: base 0-1 with a 1-2, b 3-3." in (tmp_path / "out" / "README.md").read_text()
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.num_hidden_layers == 3
    with pytest.raises(ConfigError, match=r"models\.slices\[1\]\.b: layers 3 to 9, but it has layers 0 to 3"):
        search(Config.from_yaml(text.replace("[3, 3]", "[3, 9]")), tmp_path / "other")


def test_vocabularies_are_united_before_layers_are_stacked(tmp_path: Path) -> None:
    tokenizers = {"base": bpe(290), "a": bpe(310), "b": with_added(bpe(300), "<|x|>")}
    folders = {
        name: write_model(tmp_path / name, tokenizer, seed=seed, tied=False, layers=2)
        for seed, (name, tokenizer) in enumerate(tokenizers.items())
    }
    # The embedding is the base's and the head that of an expert with other ids for its tokens.
    made = weighted(folders, ({"base": (0, 1)}, {"b": (1, 1)}), a=0.0, b=1.0)
    write_folder(replace(made, vocabulary="union"), tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    ids = AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab()
    for name, tensor in (("base", "model.embed_tokens.weight"), ("b", "lm_head.weight")):
        stored = load_file(folders[name] / "model.safetensors")[tensor]
        own = AutoTokenizer.from_pretrained(folders[name]).get_vocab()
        assert all(merged[tensor][ids[token]].equal(stored[number]) for token, number in own.items())


def test_a_base_of_one_layer_leaves_norm_and_head_to_the_last_slice(family: dict[str, Path], tmp_path: Path) -> None:
    folders = {**family, "base": tiny_checkpoint(tmp_path / "short", layers=1, tied=False, seed=9)}
    write_folder(recipe(folders, ({"a": (0, 1)}, {"b": (3, 3)}), "passthrough"), tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    a, b = (load_file(family[name] / "model.safetensors") for name in ("a", "b"))
    assert merged["model.embed_tokens.weight"].equal(a["model.embed_tokens.weight"])
    assert merged["model.norm.weight"].equal(b["model.norm.weight"])
    assert merged["lm_head.weight"].equal(b["lm_head.weight"])


def test_an_expert_in_no_slice_is_said_to_take_no_part(family: dict[str, Path]) -> None:
    base, experts = stack(*opened(family), [{"base": (0, 1), "a": (1, 2)}])
    assert "expert 'b' is in no slice, so it takes no part" in base.notes
    assert all(experts["b"].tensors[name] is info for name, info in base.tensors.items())


@pytest.mark.parametrize("first", ["tied", "untied"])
def test_a_head_that_is_tied_stands_for_one_of_its_own_at_the_end(first: str, tmp_path: Path) -> None:
    folders = {
        "base": tiny_checkpoint(tmp_path / "base", tied=False, seed=1),
        "tied": tiny_checkpoint(tmp_path / "tied", tied=True, seed=2),
        "untied": tiny_checkpoint(tmp_path / "untied", tied=False, seed=3),
    }
    last = "untied" if first == "tied" else "tied"
    made = weighted(folders, ({first: (0, 0)}, {last: (1, 1)}), tied=1.0, untied=0.0)
    write_folder(replace(made, method="passthrough", options={"model": "base"}, groups=()), tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    head = "lm_head.weight" if last == "untied" else "model.embed_tokens.weight"
    assert merged["lm_head.weight"].equal(load_file(folders[last] / "model.safetensors")[head])


def test_an_adapter_can_be_stacked(family: dict[str, Path], tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["up_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(64, 2, generator=generator), torch.randn(2, 32, generator=generator)
    module = "base_model.model.model.layers.3.mlp.up_proj"
    save_file(
        {f"{module}.lora_A.weight": right, f"{module}.lora_B.weight": left}, adapter / "adapter_model.safetensors"
    )
    folders = {"base": family["base"], "lora": adapter}
    made = weighted(folders, ({"base": (0, 1)}, {"lora": (3, 3)}, {"lora": (3, 3)}), lora=1.0)
    write_folder(made, tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    stored = load_file(family["base"] / "model.safetensors")["model.layers.3.mlp.up_proj.weight"]
    for layer in (2, 3):
        found = merged[f"model.layers.{layer}.mlp.up_proj.weight"]
        torch.testing.assert_close(found, stored + 2 * left @ right, rtol=0, atol=1e-6)
