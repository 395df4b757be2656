from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge.config.config import Config
from evomerge.errors import CheckpointError, ConfigError, RecipeError
from evomerge.execute.settings import worker_settings
from evomerge.inference.live import LiveModel
from evomerge.materialise.folder import write_folder
from evomerge.materialise.merger import Merger
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.compatible import check_compatible
from evomerge.models.open import Models, open_models
from evomerge.models.vocabulary import MatchedCheckpoint
from evomerge.recipe.group import Group
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference, Sources
from evomerge.study.check import check
from evomerge.study.export import export
from evomerge.study.search import search
from helpers.merging import written
from helpers.search import write_config, write_task
from helpers.vocabulary import SWAHILI, TEXTS, bpe, unigram, whole_words, with_added, wordpiece, write_model

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def opened(folders: Mapping[str, Path], vocabulary: Any) -> Models:
    references = {name: ModelReference(path=str(folder)) for name, folder in folders.items()}
    return open_models(Sources(base=references.pop("base"), experts=references, vocabulary=vocabulary))


def recipe_of(folders: Mapping[str, Path], vocabulary: Any = "union", **weights: float) -> Recipe:
    references = {name: ModelReference(path=str(folder)) for name, folder in folders.items()}
    return Recipe(
        base=references.pop("base"),
        experts=references,
        method="task_arithmetic",
        groups=(Group(name="all", coefficients={"weight": weights}),),
        vocabulary=vocabulary,
    )


def rows(folder: Path, name: str = EMBEDDING) -> dict[str, Tensor]:
    """A row of a stored tensor for each token, in float64."""
    stored = load_file(folder / "model.safetensors")
    tensor = stored[name]
    return {
        token: tensor[number].double() for token, number in AutoTokenizer.from_pretrained(folder).get_vocab().items()
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base and two experts: `a` and `b` share the tokens x, and each has one and more words of its own."""
    folder = tmp_path_factory.mktemp("vocabularies")
    return {
        "base": write_model(folder / "base", bpe(290), tied=False, rows=304),
        "a": write_model(folder / "a", with_added(bpe(310), "<|x|>", "<|a|>"), seed=1, tied=False),
        "b": write_model(folder / "b", with_added(bpe(290), "<|b|>", "<|x|>"), seed=2, tied=False, rows=320),
    }


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


def test_models_that_share_a_vocabulary_stay_as_they_are(tiny_llama: dict[str, Path]) -> None:
    for policy in ("same", "base", "union"):
        base, experts = opened(tiny_llama, policy)
        assert not any(isinstance(model, MatchedCheckpoint) for model in (base, *experts.values()))


def test_a_view_travels_between_processes(folders: dict[str, Path]) -> None:
    models = opened(folders, "union")
    for model in (models.base, *models.experts.values()):
        model.tensor(EMBEDDING)
        copy = pickle.loads(pickle.dumps(model))
        assert (copy.config, copy.names, copy.notes, copy.as_stored) == (model.config, model.names, model.notes, False)
        assert copy.vocabulary() == model.vocabulary() == models.base.vocabulary()
        assert all(torch.equal(copy.tensor(name), model.tensor(name)) for name in model.names)


def test_the_notes_say_what_was_added_and_what_was_left_out(folders: dict[str, Path]) -> None:
    union, kept = opened(folders, "union"), opened(folders, "base")
    assert union.base.notes[0] == (
        "vocabulary: 23 added to the base's 290 tokens: 22 of expert 'a' "
        "(' tw', 'ĠnÃ', ' and', 'ọ', ' ri', ...); 1 of expert 'b' ('<|b|>'); its embedding has 320 rows"
    )
    assert union.experts["a"].notes == ("vocabulary: lacks 1 of 313 tokens, which have the base's rows: '<|b|>'",)
    assert kept.base.notes == ()
    assert kept.experts["b"].notes == (
        "vocabulary: 2 of its 292 tokens are left out, also where it is scored by itself: '<|b|>', '<|x|>'",
    )


def test_different_vocabularies_are_refused_with_the_two_ways_out(folders: dict[str, Path], tmp_path: Path) -> None:
    base, experts = opened(folders, "same")
    with pytest.raises(CheckpointError, match=r"embedding has 312 tokens, the base's has 304.*`union` keeps.*`base`"):
        check_compatible(base, experts)
    other = write_model(tmp_path / "other", bpe(290, SWAHILI), rows=304, tied=False)
    with pytest.raises(CheckpointError, match=r"numbers tokens otherwise.*models\.vocabulary matches.*`union`.*`base`"):
        check_compatible(base, {"other": Checkpoint.open(other)})


def test_what_else_differs_is_still_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    for change, said in (({"hidden": 64}, "is 64 wide"), ({"layers": 3}, "has 3 layers")):
        other = write_model(tmp_path / said.replace(" ", "-"), with_added(bpe(290), "<|x|>"), tied=False, **change)
        with pytest.raises(CheckpointError, match=f"expert 'a': .*{said}"):
            opened({"base": folders["base"], "a": other}, "union")


def test_a_model_without_a_tokenizer_is_taken_to_have_the_bases_only_if_it_has_as_many_rows(tmp_path: Path) -> None:
    folders = {
        "base": write_model(tmp_path / "base", bpe(290)),
        "a": write_model(tmp_path / "a", with_added(bpe(290), "<|x|>"), seed=1),
        "b": write_model(tmp_path / "b", bpe(290), seed=2),
    }
    for path in [*folders["b"].glob("tokenizer*"), *folders["b"].glob("chat_template*")]:
        path.unlink()
    _, experts = opened(folders, "union")
    assert torch.equal(experts["b"].tensor(EMBEDDING)[:290], Checkpoint.open(folders["b"]).tensor(EMBEDDING))
    for path in folders["a"].glob("tokenizer*"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"expert 'a': .*holds no tokenizer, and its embedding has 291 rows"):
        opened(folders, "union")
    with pytest.raises(CheckpointError, match="holds no tokenizer, so tokens can't be matched"):
        opened({"base": folders["b"], "b": folders["base"]}, "base")


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


def test_a_recipe_says_its_vocabulary_only_where_it_is_chosen(folders: dict[str, Path], tmp_path: Path) -> None:
    same, chosen = recipe_of(folders, "same", a=1.0, b=1.0), recipe_of(folders, "union", a=1.0, b=1.0)
    assert "vocabulary" not in same.to_yaml()
    assert Recipe.from_yaml(chosen.to_yaml()) == chosen
    assert same.key() != chosen.key()
    (tmp_path / "recipe.yaml").write_text(chosen.to_yaml())
    assert Recipe.from_file(tmp_path / "recipe.yaml") == chosen
    with pytest.raises(RecipeError, match=r"models\.vocabulary: expected one of same, base, union, got 'both'"):
        Recipe.from_yaml(chosen.to_yaml().replace("union", "both"))


def test_a_config_keeps_its_vocabulary_and_another_makes_another_experiment(tmp_path: Path) -> None:
    text = "models: {{base: x, experts: {{a: y}}{}}}\nbenchmark: {{tasks: [copa]}}"
    same, chosen = (Config.from_yaml(text.format(more)) for more in ("", ", vocabulary: union"))
    assert same.models.vocabulary == "same"
    assert chosen.identity() != same.identity()
    assert chosen.relative_to(tmp_path).models.vocabulary == "union"
    assert worker_settings(chosen, dtype="float32").sources.vocabulary == "union"
    with pytest.raises(ConfigError, match=r"models\.vocabulary: .*'same', 'base' or 'union' \(found 'both'\)"):
        Config.from_yaml(text.format(", vocabulary: both"))
