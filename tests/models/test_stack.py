"""Stacks of layers: left out, repeated, reordered, or taken from several models."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge.config.config import Config
from evomerge.errors import CheckpointError, ConfigError, RecipeError
from evomerge.inference.live import LiveModel
from evomerge.materialise.folder import write_folder
from evomerge.materialise.merger import Merger
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.open import Models, open_models
from evomerge.models.stack import stack
from evomerge.recipe.group import Group
from evomerge.recipe.layer_path import from_path, scaled_groups
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference, Slice
from evomerge.study.export import export
from evomerge.study.search import search
from evomerge.testing.models import ARCHITECTURES, tiny_checkpoint, tiny_family
from helpers.search import write_config, write_task
from helpers.vocabulary import bpe, with_added, write_model

DEPTH = 4
PARTS: tuple[Slice, ...] = ({"base": (0, 2)}, {"a": (1, 3)}, {"b": (3, 3)}, {"a": (0, 1), "b": (2, 3)})


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny_family(tmp_path_factory.mktemp("family"), "llama", layers=DEPTH, tied=False)


def recipe(family: dict[str, Path], slices: tuple[Slice, ...], method: str = "task_arithmetic") -> Recipe:
    coefficients = {"weight": {"a": 0.5, "b": 0.25}} if method == "task_arithmetic" else {}
    return Recipe(
        base=ModelReference(path=str(family["base"])),
        experts={name: ModelReference(path=str(family[name])) for name in ("a", "b")},
        method=method,
        groups=(Group(name="all", coefficients=coefficients),) if coefficients else (),
        slices=slices,
    )


def opened(family: dict[str, Path]) -> tuple[Checkpoint, dict[str, Checkpoint]]:
    return Checkpoint.open(family["base"]), {name: Checkpoint.open(family[name]) for name in ("a", "b")}


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


def test_layers_of_different_kinds_keep_their_kind(tmp_path: Path) -> None:
    kinds = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    family = tiny_family(tmp_path, "qwen2", layers=DEPTH, layer_types=kinds, use_sliding_window=True, sliding_window=4)
    write_folder(recipe(family, ({"a": (1, 3)}, {"b": (3, 3)}), "passthrough"), tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["layer_types"] == [kinds[1], kinds[2], kinds[3], kinds[3]]
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.layer_types == written["layer_types"]


def test_lists_of_layers_by_number_follow_the_layers(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint(tmp_path / "m", layers=DEPTH))
    config = {**checkpoint.config, "mlp_only_layers": [1], "eos_token_id": [1, 2, 3, 4], "layer_scales": [0, 1, 2, 3]}
    model = Checkpoint(
        reference=checkpoint.reference, folder=checkpoint.folder, config=config, tensors=checkpoint.tensors
    )
    base, _ = stack(model, {}, [{"base": (1, 1)}, {"base": (0, 1)}])
    assert base.config["mlp_only_layers"] == [0, 2]
    assert base.config["layer_scales"] == [1, 0, 1]
    assert base.config["eos_token_id"] == [1, 2, 3, 4]


def test_kinds_of_layers_that_follow_from_their_number_are_refused(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint(tmp_path / "m", layers=DEPTH))
    for key, value in (("first_k_dense_replace", 1), ("decoder_sparse_step", 2), ("is_encoder_decoder", True)):
        model = Checkpoint(
            reference=checkpoint.reference,
            folder=checkpoint.folder,
            config={**checkpoint.config, key: value},
            tensors=checkpoint.tensors,
        )
        with pytest.raises(CheckpointError, match=r"layers differ by their number|slices would be ambiguous"):
            stack(model, {}, [{"base": (1, 1)}])


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


@pytest.mark.parametrize(
    ("slices", "message"),
    [
        ([{"base": (0, 4)}], r"slices\[0\]\.base: layers 0 to 4, but it has layers 0 to 3"),
        ([{"base": (0, 1)}, {"a": (0, 1), "b": (1, 1)}], r"slices\[1\]: .* as many of each: a 2, b 1"),
        ([{"c": (0, 1)}], r"slices\[0\]: unknown model 'c'"),
        ([{}], r"slices\[0\]: .*: no model"),
        ([], "at least one slice"),
    ],
)
def test_slices_that_do_not_fit_the_models_are_refused(
    family: dict[str, Path], slices: list[Slice], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        stack(*opened(family), slices)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[]", "expected a list of slices"),
        ("[{}]", r"slices\[0\]: name at least one model"),
        ("[{base: [2, 1]}]", r"slices\[0\]\.base: expected \[first, last\]"),
        ("[{base: [0, 1], nobody: [0, 1]}]", r"slices\[0\]: unknown key 'nobody'"),
        ("[{base: 3}]", r"slices\[0\]\.base: expected \[first, last\]"),
    ],
)
def test_malformed_slices_in_a_recipe_are_refused_by_their_place(value: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.from_yaml(f"evomerge: 1\nmodels: {{base: x, experts: {{a: y}}, slices: {value}}}\nmethod: linear\n")


def test_a_recipe_with_slices_reads_back_as_it_was(family: dict[str, Path]) -> None:
    made = recipe(family, PARTS)
    assert Recipe.from_yaml(made.to_yaml()) == made
    assert made.key() != recipe(family, PARTS[:2]).key()


@given(st.lists(st.tuples(st.sampled_from(["base", "a"]), st.integers(0, 5)), min_size=1, max_size=12))
def test_slices_of_a_path_are_that_path(path: list[tuple[str, int]]) -> None:
    slices = from_path(path)
    walked = [
        (name, layer) for part in slices for name, (first, last) in part.items() for layer in range(first, last + 1)
    ]
    assert walked == path
    # As few slices as there can be.
    ends = [(name, last) for part in slices for name, (_, last) in part.items()]
    starts = [(name, first) for part in slices for name, (first, _) in part.items()]
    assert all((name, last + 1) != start for (name, last), start in zip(ends, starts[1:], strict=False))


def test_an_empty_path_is_refused() -> None:
    with pytest.raises(RecipeError, match="at least one layer"):
        from_path([])


@pytest.mark.slow
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
    assert notes == ["3 layers: base 0-1 with a 1-2, b 3-3"]
    assert "It is a stack of 3 layers: base 0-1 with a 1-2, b 3-3." in (tmp_path / "out" / "README.md").read_text()
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.num_hidden_layers == 3
    with pytest.raises(ConfigError, match=r"models\.slices\[1\]\.b: layers 3 to 9, but it has layers 0 to 3"):
        search(Config.from_yaml(text.replace("[3, 3]", "[3, 9]")), tmp_path / "other")


def weighted(folders: dict[str, Path], slices: tuple[Slice, ...], **weights: float) -> Recipe:
    """A linear merge of the experts, whose base only gives what isn't merged."""
    return Recipe(
        base=ModelReference(path=str(folders["base"])),
        experts={name: ModelReference(path=str(folder)) for name, folder in folders.items() if name != "base"},
        method="linear",
        groups=(Group(name="all", coefficients={"weight": weights}),),
        slices=slices,
    )


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


def test_the_first_model_of_a_slice_makes_another_recipe_and_another_experiment(
    family: dict[str, Path], tmp_path: Path
) -> None:
    one, two = ({"a": (0, 1), "b": (0, 1)},), ({"b": (0, 1), "a": (0, 1)},)
    assert recipe(family, one).key() != recipe(family, two).key()
    text = write_config(tmp_path / "x.yaml", family, tmp_path).read_text()
    configs = [
        Config.from_yaml(text.replace("merge:\n", f"  slices: [{part}]\nmerge:\n"))
        for part in ("{a: [0, 1], b: [0, 1]}", "{b: [0, 1], a: [0, 1]}")
    ]
    assert configs[0].identity() != configs[1].identity()


def test_a_base_of_one_layer_leaves_norm_and_head_to_the_last_slice(family: dict[str, Path], tmp_path: Path) -> None:
    folders = {**family, "base": tiny_checkpoint(tmp_path / "short", layers=1, tied=False, seed=9)}
    write_folder(recipe(folders, ({"a": (0, 1)}, {"b": (3, 3)}), "passthrough"), tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    a, b = (load_file(family[name] / "model.safetensors") for name in ("a", "b"))
    assert merged["model.embed_tokens.weight"].equal(a["model.embed_tokens.weight"])
    assert merged["model.norm.weight"].equal(b["model.norm.weight"])
    assert merged["lm_head.weight"].equal(b["lm_head.weight"])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"intermediate_size": 48}, r"a: .*other shapes than the base's: model\.layers\.0\.mlp\.down_proj"),
        ({"attention_bias": True}, r"a: .*its layers have self_attn\.\w_proj\.bias.*, which the base's haven't"),
        ({"vocab_size": 400}, r"other shapes than in the base.*lm_head\.weight 400×32 \(base 384×32\)"),
        ({"architecture": "mistral"}, r"a: .*is a mistral, the base a llama"),
    ],
)
def test_layers_that_cannot_stand_in_the_base_are_refused(
    other: dict[str, object], message: str, tmp_path: Path
) -> None:
    base = tiny_checkpoint(tmp_path / "base", tied=False)
    expert = tiny_checkpoint(tmp_path / "a", tied=False, **other)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=message):
        stack(Checkpoint.open(base), {"a": Checkpoint.open(expert)}, [{"base": (0, 1)}, {"a": (0, 1)}])


def test_layers_of_different_kinds_are_not_merged_with_each_other(tmp_path: Path) -> None:
    kinds = ["sliding_attention", "full_attention"] * 2
    family = tiny_family(tmp_path, "qwen2", layers=DEPTH, layer_types=kinds, use_sliding_window=True, sliding_window=4)
    base, experts = opened(family)
    stack(base, experts, [{"base": (0, 1), "a": (2, 3)}])
    with pytest.raises(
        CheckpointError, match=r"slices\[1\]: layer 0 of base and layer 1 of a are of different kinds .*layer_types"
    ):
        stack(base, experts, [{"b": (0, 0)}, {"base": (0, 1), "a": (1, 2)}])


def test_a_rule_by_number_is_kept_where_the_stack_follows_it(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint(tmp_path / "m", layers=DEPTH))
    model = replace(checkpoint, config={**checkpoint.config, "first_k_dense_replace": 1})
    base, _ = stack(model, {}, [{"base": (0, 2)}, {"base": (1, 3)}])
    assert base.config["first_k_dense_replace"] == 1
    with pytest.raises(
        CheckpointError, match="first_k_dense_replace 1 makes layers differ by their number, and layer 0"
    ):
        stack(model, {}, [{"base": (0, 2)}, {"base": (0, 3)}])


def test_settings_of_layers_that_are_not_understood_are_refused_by_name(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint(tmp_path / "m", layers=DEPTH))
    model = replace(checkpoint, config={**checkpoint.config, "num_kv_shared_layers": 2})
    with pytest.raises(CheckpointError, match="num_kv_shared_layers: what it means for single layers isn't known"):
        stack(model, {}, [{"base": (1, 3)}])


def test_a_setting_that_the_architecture_works_out_follows_the_layers(tmp_path: Path) -> None:
    # Without the list in config.json, transformers makes it from the interval.
    checkpoint = Checkpoint.open(tiny_checkpoint(tmp_path / "m", "qwen2", layers=DEPTH))
    config = {"model_type": "smollm3", "num_hidden_layers": DEPTH, "no_rope_layer_interval": 2}
    base, _ = stack(replace(checkpoint, config=config), {}, [{"base": (1, 3)}, {"base": (1, 1)}])
    assert base.config["no_rope_layers"] == [0, 1, 0, 0]


def test_an_expert_in_no_slice_is_said_to_take_no_part(family: dict[str, Path]) -> None:
    base, experts = stack(*opened(family), [{"base": (0, 1), "a": (1, 2)}])
    assert "expert 'b' is in no slice, so it takes no part" in base.notes
    assert all(experts["b"].tensors[name] is info for name, info in base.tensors.items())


def test_scaled_inputs_of_layers_are_divided_outputs(family: dict[str, Path], tmp_path: Path) -> None:
    path = [("a", 0), ("b", 2), ("a", 1), ("a", 1)]
    scales = [0.5, 3.0, 1.0, 0.25]
    folders = {name: tmp_path / name for name in ("a", "b", "plain", "scaled")}
    for name in ("a", "b"):
        # Without the norms' epsilon, which alone tells lengths apart.
        tiny_checkpoint(folders[name], layers=3, tied=False, seed=len(name) + ord(name), rms_norm_eps=0.0)
    models = {"base": folders["a"], "a": folders["a"], "b": folders["b"]}
    made = replace(recipe(models, from_path(path), "passthrough"), options={"model": "base"}, dtype="float64")
    write_folder(made, folders["plain"])
    write_folder(replace(made, method="scaled", groups=scaled_groups(scales)), folders["scaled"])
    plain, scaled = (
        AutoModelForCausalLM.from_pretrained(folders[name], dtype=torch.float64).eval() for name in ("plain", "scaled")
    )
    tokens = torch.tensor([[1, 40, 41, 300, 7]])
    with torch.no_grad():
        unscaled = plain(tokens).logits
    for layer, scale in zip(plain.model.layers, scales, strict=True):
        layer.register_forward_pre_hook(lambda module, given, scale=scale: (given[0] * scale, *given[1:]))
    with torch.no_grad():
        expected = plain(tokens).logits
        # Llama's norms round to single precision, whatever the model's.
        torch.testing.assert_close(scaled(tokens).logits, expected, rtol=0, atol=2e-6)
    assert (unscaled - expected).abs().max() > 1e-2


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_scales_that_dividing_outputs_cannot_give_are_refused(scale: float) -> None:
    with pytest.raises(RecipeError, match=r"input_scales\[1\]"):
        scaled_groups([1.0, scale])


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
