"""How a vocabulary is chosen and said, and which models cannot be united."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evomerge.config.config import Config
from evomerge.errors import CheckpointError, ConfigError, RecipeError
from evomerge.execute.settings import worker_settings
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.compatible import check_compatible
from evomerge.models.vocabulary import MatchedCheckpoint
from evomerge.recipe.recipe import Recipe
from helpers.united import EMBEDDING, opened, recipe_of
from helpers.vocabulary import SWAHILI, bpe, with_added, write_model


def test_models_that_share_a_vocabulary_stay_as_they_are(tiny_llama: dict[str, Path]) -> None:
    for policy in ("same", "base", "union"):
        base, experts = opened(tiny_llama, policy)
        assert not any(isinstance(model, MatchedCheckpoint) for model in (base, *experts.values()))


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
    with pytest.raises(ConfigError, match=r"models\.vocabulary: must be same, base or union \(found 'both'\)"):
        Config.from_yaml(text.format(", vocabulary: both"))
