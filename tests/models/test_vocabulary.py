"""Models of different vocabularies seen as one family: what each merged row is made of."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge.config.config import Config
from evomerge.inference.live import LiveModel
from evomerge.materialise.folder import write_folder
from evomerge.materialise.merger import Merger
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.open import Models
from evomerge.recipe.recipe import Recipe
from evomerge.study.check import check
from evomerge.study.export import export
from evomerge.study.search import search
from helpers.merging import written
from helpers.search import write_config, write_task
from helpers.united import EMBEDDING, HEAD, opened, recipe_of, rows
from helpers.vocabulary import TEXTS, bpe, with_added, write_model

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", [EMBEDDING, HEAD])
def test_a_union_is_merged_token_by_token(folders: dict[str, Path], name: str, tmp_path: Path) -> None:
    out = write_folder(recipe_of(folders, a=0.7, b=-0.4), tmp_path / "out")
    base, a, b = (rows(folders[model], name) for model in ("base", "a", "b"))
    merged = rows(out, name)
    assert merged.keys() == base.keys() | a.keys() | b.keys()
    assert len(merged) == 290 + 20 + 3
    for token, row in merged.items():
        if token in base:
            start = base[token]
        else:
            having = [model[token] for model in (a, b) if token in model]
            start = torch.stack(having).mean(0).float().double()
        expected = start + 0.7 * (a.get(token, start) - start) - 0.4 * (b.get(token, start) - start)
        assert torch.allclose(row, expected, rtol=1e-6, atol=1e-7), token
    for token in ("<|a|>", "<|b|>"):
        assert torch.allclose(merged[token], (a | b)[token], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", [EMBEDDING, HEAD])
def test_the_bases_vocabulary_drops_what_it_lacks_and_keeps_its_padding(
    folders: dict[str, Path], name: str, tmp_path: Path
) -> None:
    out = write_folder(recipe_of(folders, "base", a=0.7, b=0.5), tmp_path / "out")
    base, a, b = (rows(folders[model], name) for model in ("base", "a", "b"))
    merged = rows(out, name)
    assert merged.keys() == base.keys()
    for token, row in merged.items():
        expected = base[token] + 0.7 * (a[token] - base[token]) + 0.5 * (b[token] - base[token])
        assert torch.allclose(row, expected, rtol=1e-6, atol=1e-7), token
    stored, kept = (load_file(folder / "model.safetensors")[name] for folder in (folders["base"], out))
    assert kept.shape == stored.shape
    assert torch.equal(kept[290:], stored[290:])
    assert (out / "tokenizer.json").read_bytes() == (folders["base"] / "tokenizer.json").read_bytes()


def test_an_expert_that_lacks_a_token_has_no_task_vector_there_whatever_the_dtypes(tmp_path: Path) -> None:
    folders = {
        "base": write_model(tmp_path / "base", with_added(bpe(290), "<|base|>"), dtype="float32"),
        "a": write_model(tmp_path / "a", bpe(290), seed=1, dtype="bfloat16"),
        "b": write_model(tmp_path / "b", with_added(bpe(290), "<|b|>"), seed=2, dtype="float16"),
    }
    for policy in ("base", "union"):
        base, experts = opened(folders, policy)
        embeddings = {name: model.tensor(EMBEDDING).double() for name, model in experts.items()}
        start = base.tensor(EMBEDDING).double()
        assert base.tensors[EMBEDDING].dtype == torch.float32
        assert torch.equal(embeddings["a"][290:], start[290:])
        assert torch.equal(embeddings["b"][290], start[290])
        assert torch.equal(embeddings["a"][:290], Checkpoint.open(folders["a"]).tensor(EMBEDDING).double())


def test_an_expert_with_the_unions_words_is_itself_again(folders: dict[str, Path], tmp_path: Path) -> None:
    recipe = recipe_of(folders)
    recipe = Recipe(
        base=recipe.base, experts=recipe.experts, method="passthrough", options={"model": "a"}, vocabulary="union"
    )
    out = write_folder(recipe, tmp_path / "out")
    models = {folder: AutoModelForCausalLM.from_pretrained(folder) for folder in (out, folders["a"])}
    tokenizers = {folder: AutoTokenizer.from_pretrained(folder) for folder in models}
    ours, theirs = (tokenizers[folder].get_vocab() for folder in models)
    places = torch.tensor([ours[token] for token in theirs])
    order = torch.tensor(list(theirs.values()))
    for text in (*TEXTS, "the<|x|>sea<|a|>"):
        found, expected = (tokenizers[folder](text, return_tensors="pt").input_ids for folder in models)
        if not found.numel():
            continue
        assert [tokenizers[out].convert_ids_to_tokens(found[0])] == [
            tokenizers[folders["a"]].convert_ids_to_tokens(expected[0])
        ]
        with torch.no_grad():
            logits, wanted = models[out](found).logits, models[folders["a"]](expected).logits
        assert torch.allclose(logits[..., places], wanted[..., order], atol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gemma", "gpt2", "gpt_neox", "qwen2", "mixtral"])
def test_what_is_live_is_what_is_exported(architecture: str, tmp_path: Path) -> None:
    folders = {
        "base": write_model(tmp_path / "base", bpe(290), architecture),
        "a": write_model(tmp_path / "a", with_added(bpe(300), "<|a|>"), architecture, seed=1),
    }
    recipe = recipe_of(folders, a=0.5)
    base, experts = opened(folders, "union")
    live = LiveModel.build(base, dtype=torch.float32)
    written(Merger(Models(base, experts)), recipe, live.targets)
    out = write_folder(recipe, tmp_path / "out")
    tokens = AutoTokenizer.from_pretrained(out)("the mwalimu<|a|>", return_tensors="pt").input_ids
    loaded = AutoModelForCausalLM.from_pretrained(out)
    assert loaded.config.vocab_size == loaded.get_input_embeddings().weight.shape[0] == 301
    assert loaded.get_output_embeddings().weight.shape[0] == 301
    assert int(tokens.max()) == 300
    with torch.no_grad():
        assert torch.equal(live.model(tokens).logits, loaded(tokens).logits)


def test_a_view_travels_between_processes(folders: dict[str, Path]) -> None:
    models = opened(folders, "union")
    for model in (models.base, *models.experts.values()):
        model.tensor(EMBEDDING)
        copy = pickle.loads(pickle.dumps(model))
        assert (copy.config, copy.names, copy.notes, copy.as_stored) == (model.config, model.names, model.notes, False)
        assert copy.vocabulary() == model.vocabulary() == models.base.vocabulary()
        assert all(torch.equal(copy.tensor(name), model.tensor(name)) for name in model.names)


def test_a_search_over_a_union_ends_in_a_folder_with_its_score(folders: dict[str, Path], tmp_path: Path) -> None:
    path = write_config(
        tmp_path / "config.yaml",
        folders,
        write_task(tmp_path / "tasks", items=12),
        space={"granularity": "all"},
        search={"evaluations": 8, "population": 4, "scan": 2, "shortlist": 1},
    )
    path.write_text(path.read_text().replace("models:\n", "models:\n  vocabulary: union\n"))
    config = Config.from_file(path)
    found = check(config)
    assert any(note.startswith("vocabulary: 23 added to") for note in found.notes)
    assert found.prepared_bytes == 3 * 2 * 320 * 32 * 4
    result = search(config, tmp_path / "run")
    out = export(tmp_path / "run", tmp_path / "out")
    assert Recipe.from_file(out / "recipe.yaml").vocabulary == "union"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert tokenizer.get_vocab().keys() >= {"<|a|>", "<|b|>", "<|x|>"}
    assert len(model.get_input_embeddings().weight) == 320
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(folders["base"]).chat_template
    from evomerge.study.score_model import evaluate

    (score,) = evaluate(str(out), config.benchmark, split="test", execution=config.execution)
    winner = next(row for row in result.data["test"]["models"] if row["kind"] == "winner")
    assert score.score == winner["score"]
