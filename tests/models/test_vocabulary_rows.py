"""Rows of a united vocabulary: padding, tokens without a row, other kinds of heads, tokenizers and stacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from evomerge.inference.live import LiveModel
from evomerge.materialise.folder import write_folder
from evomerge.materialise.merger import Merger
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.compatible import check_compatible
from evomerge.models.open import Models, open_models
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference
from helpers.merging import written
from helpers.united import EMBEDDING, HEAD, opened, recipe_of, rows
from helpers.vocabulary import bpe, unigram, whole_words, with_added, wordpiece, write_model


@pytest.mark.parametrize(
    ("model", "config"),
    [
        (transformers.BertForMaskedLM, transformers.BertConfig),
        (transformers.RobertaForMaskedLM, transformers.RobertaConfig),
        (transformers.T5ForConditionalGeneration, transformers.T5Config),
    ],
)
def test_the_head_of_an_encoder_grows_with_its_bias(model: Any, config: Any, tmp_path: Path) -> None:
    folders = {"base": tmp_path / "base", "a": tmp_path / "a"}
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    sizes = {"d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 16, "d_kv": 8} if "T5" in str(model) else sizes
    for folder, tokenizer in zip(
        folders.values(), (wordpiece(["the"]), with_added(wordpiece(["the", "sea"]), "<|x|>")), strict=True
    ):
        made = model(config(vocab_size=len(tokenizer), **sizes))
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.normal_()
        made.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    out = write_folder(recipe_of(folders, a=1.0), tmp_path / "out")
    loaded, info = model.from_pretrained(out, output_loading_info=True)
    assert not any(info.values())
    original = model.from_pretrained(folders["a"])
    # The expert's tokenizer extends the base's, so that a merge with weight 1 is the expert again.
    for name, tensor in original.state_dict().items():
        assert torch.allclose(loaded.state_dict()[name], tensor, atol=1e-5), name


def test_an_expert_that_ties_its_head_has_the_rows_that_it_lacks_in_both(tmp_path: Path) -> None:
    folders = {
        "base": write_model(tmp_path / "base", with_added(bpe(290), "<|base|>"), tied=False),
        "a": write_model(tmp_path / "a", with_added(bpe(290), "<|a|>"), seed=1, tied=True),
    }
    base, experts = opened(folders, "union")
    check_compatible(base, experts)
    own = rows(folders["a"])
    for name in (EMBEDDING, HEAD):
        tensor, start = experts["a"].tensor(name), base.tensor(name)
        assert torch.equal(tensor[290], start[290])
        assert torch.equal(tensor[291].double(), own["<|a|>"])
        assert torch.equal(start[291].double(), own["<|a|>"])
    assert not torch.equal(base.tensor(EMBEDDING)[290], base.tensor(HEAD)[290])
    Merger(Models(base, experts)).bind(recipe_of(folders, a=1.0))


def test_rows_are_padded_as_the_bases_are_with_its_last_row(tmp_path: Path) -> None:
    grown = [f"<|{number}|>" for number in range(40)]
    folders = {
        "base": write_model(tmp_path / "base", bpe(290), rows=304),
        "few": write_model(tmp_path / "few", with_added(bpe(290), *grown[:5]), seed=1),
        "many": write_model(tmp_path / "many", with_added(bpe(290), *grown), seed=2),
    }
    stored = Checkpoint.open(folders["base"]).tensor(EMBEDDING)
    found, _ = opened({name: folders[name] for name in ("base", "few")}, "union")
    assert found.config["vocab_size"] == len(found.tensor(EMBEDDING)) == 304
    assert torch.equal(found.tensor(EMBEDDING)[295:], stored[295:])
    base, experts = opened({name: folders[name] for name in ("base", "many")}, "union")
    # 304 is 16 times 19.
    assert base.config["vocab_size"] == len(base.tensor(EMBEDDING)) == 336
    for model in (base, *experts.values()):
        assert torch.equal(model.tensor(EMBEDDING)[330:], stored[-1].expand(6, -1))


def test_tokens_without_a_row_are_as_if_a_model_had_them_not(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", with_added(bpe(290), "<|x|>"))
    stored = load_file(base / "model.safetensors")
    stored[EMBEDDING], stored[HEAD] = stored[EMBEDDING][:290].clone(), stored[HEAD][:290].clone()
    save_file(stored, base / "model.safetensors")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "vocab_size": 290}))
    a = write_model(tmp_path / "a", with_added(bpe(290), "<|x|>", "<|a|>"), seed=1)
    models = opened({"base": base, "a": a}, "union")
    own = rows(a)
    assert torch.equal(models.base.tensor(EMBEDDING)[290].double(), own["<|x|>"])
    assert torch.equal(models.base.tensor(EMBEDDING)[291].double(), own["<|a|>"])
    kept, _ = opened({"base": base, "a": a}, "base")
    assert len(kept.tensor(EMBEDDING)) == 290
    with_added(bpe(290), "<|x|>", "<|a|>", "<|unused|>").save_pretrained(a)
    assert "<|unused|>" not in opened({"base": base, "a": a}, "union").base.tokenizer().get_vocab()
    same = write_model(tmp_path / "same", with_added(bpe(290), "<|x|>"), seed=1)
    assert len(opened({"base": base, "same": same}, "union").base.tensor(EMBEDDING)) == 291
    assert len(opened({"base": base, "same": same}, "base").experts["same"].tensor(EMBEDDING)) == 290


def test_a_models_own_section_for_text_has_the_new_size() -> None:
    from evomerge.models.vocabulary import _with_rows

    nested = {"model_type": "x", "text_config": {"vocab_size": 7, "hidden_size": 7}, "vision_config": {"vocab_size": 5}}
    assert _with_rows(nested, 7, 9) == {**nested, "text_config": {"vocab_size": 9, "hidden_size": 7}}
    assert _with_rows({"vocab_size": 7, "text_config": {"vocab_size": 7}}, 7, 9) == {
        "vocab_size": 9,
        "text_config": {"vocab_size": 9},
    }
    assert _with_rows({"model_type": "x"}, 7, 9) == {"model_type": "x", "vocab_size": 9}


@pytest.mark.parametrize(
    ("base", "other"),
    [
        (lambda: unigram([("▁the", -2.0)]), lambda: unigram([("▁the", -2.0), ("▁sea", -2.5)])),
        (lambda: wordpiece(["the"]), lambda: wordpiece(["sea", "the"])),
        (lambda: whole_words(["the", "sea"]), lambda: whole_words(["river", "sea", "the"])),
    ],
)
def test_rows_follow_tokens_for_every_kind_of_tokenizer(base: Any, other: Any, tmp_path: Path) -> None:
    folders = {"base": write_model(tmp_path / "base", base()), "a": write_model(tmp_path / "a", other(), seed=1)}
    for policy in ("base", "union"):
        out = write_folder(recipe_of(folders, policy, a=1.0), tmp_path / "out" / policy)
        merged, own = rows(out), rows(folders["a"])
        assert merged.keys() == (own.keys() if policy == "union" else rows(folders["base"]).keys())
        for token, row in merged.items():
            assert torch.allclose(row, own[token], atol=1e-6)


def test_a_stack_has_the_tokens_of_all_whichever_model_its_ends_are_from(tmp_path: Path) -> None:
    folders = {
        "base": write_model(tmp_path / "base", bpe(290), tied=False),
        "a": write_model(tmp_path / "a", with_added(bpe(290), "<|a|>"), seed=1, tied=False, layers=3),
        "b": write_model(tmp_path / "b", with_added(bpe(290), "<|b|>"), seed=2, tied=False),
    }
    recipe = Recipe(
        base=ModelReference(path=str(folders["base"])),
        experts={name: ModelReference(path=str(folders[name])) for name in ("a", "b")},
        method="passthrough",
        options={"model": "base"},
        vocabulary="union",
        slices=({"a": (0, 2)}, {"base": (1, 1)}, {"b": (1, 1)}),
    )
    out = write_folder(recipe, tmp_path / "out")
    embedding, head, a, b = (
        rows(folder, name)
        for folder, name in ((out, EMBEDDING), (out, HEAD), (folders["a"], EMBEDDING), (folders["b"], HEAD))
    )
    assert embedding.keys() == a.keys() | b.keys()
    for token in embedding:
        assert torch.equal(embedding[token], a[token] if token in a else rows(folders["b"], EMBEDDING)[token])
        assert torch.equal(head[token], b[token] if token in b else rows(folders["a"], HEAD)[token])
    model = AutoModelForCausalLM.from_pretrained(out)
    assert (model.config.num_hidden_layers, model.config.vocab_size) == (5, 292)
    assert model(torch.tensor([[290, 291]])).logits.shape[-1] == 292
    base, experts = open_models(recipe)
    live = LiveModel.build(base, dtype=torch.float32)
    written(Merger(Models(base, experts)), recipe, live.targets)
    assert all(torch.equal(live.targets[name], tensor) for name, tensor in load_file(out / "model.safetensors").items())


def test_sides_that_happen_to_be_as_long_are_no_tokens(tmp_path: Path) -> None:
    positions = write_model(tmp_path / "gpt2", bpe(290), "gpt2", n_positions=290)
    assert Checkpoint.open(positions).token_tensors == ("transformer.wte.weight",)
    sizes = {"vocab_size": 16, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    transformers.BertForMaskedLM(transformers.BertConfig(**sizes)).save_pretrained(tmp_path / "bert")
    assert Checkpoint.open(tmp_path / "bert").token_tensors == ("bert.embeddings.word_embeddings.weight",)
