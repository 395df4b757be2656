"""Models that are recipes, as check, prefetch and a search see them before they are merged."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from evomerge.errors import ConfigError
from evomerge.models.checkpoint import Checkpoint
from evomerge.study.check import check
from evomerge.study.check_merge import look_at_merges
from evomerge.study.merge import merge
from evomerge.study.prefetch import prefetch
from evomerge.study.search import search
from evomerge.testing.models import tiny_checkpoint
from helpers.first_merges import config_of, contents, write_recipe

pytestmark = pytest.mark.slow


def mergekit(path: Path, **data: Any) -> Path:
    path.write_text(yaml.safe_dump(data))
    return path


def test_check_says_what_is_merged_first_and_writes_nothing(
    tmp_path: Path, tasks: Path, models: dict[str, Path], recipe: Path
) -> None:
    last = write_recipe(tmp_path / "last.yaml", recipe.name, models["base"])
    config = config_of(tmp_path, tasks, last, x=recipe, y=models["a"])
    before = contents(tmp_path)
    found = check(config, where="config.yaml")
    assert contents(tmp_path) == before
    bytes_ = (merge(recipe, tmp_path / "out") / "model.safetensors").stat().st_size
    states = {model.name: (model.state, model.path) for model in found.models}
    assert states == {
        "base": ("recipe", str(last)),
        "x": ("recipe", str(recipe)),
        "y": ("folder", str(models["a"])),
    }
    sizes = [model.size_bytes or 0 for model in found.models]
    # Beside the tensors a file has a header.
    assert all(0 < bytes_ - size < 4096 for size in sizes)
    assert found.merged_bytes == sizes[0] + sizes[1]
    assert any(
        note.startswith("models.experts.x is a recipe; the search first merges it into RUN/merged/x, which takes")
        for note in found.notes
    )
    assert found.dimensions
    assert found.items
    assert found.unchecked == [
        "whether experts' tensors are the base's in places, whose coefficients a search then leaves out"
    ]
    assert not any("evomerge-" in text for text in (*found.notes, *found.warnings))


def test_what_cant_be_merged_is_refused_before_anything_is_written(
    tmp_path: Path, tasks: Path, models: dict[str, Path]
) -> None:
    other = tiny_checkpoint(tmp_path / "wider", hidden=64)
    unfit = write_recipe(tmp_path / "unfit.yaml", models["a"], other)
    lost = write_recipe(tmp_path / "lost.yaml", models["a"], "./gone")
    wide = write_recipe(tmp_path / "wide.yaml", other, shutil.copytree(other, tmp_path / "as wide"))
    none = tmp_path / "none.yaml"
    none.write_text("answer: 42")
    wrong = {
        unfit: r"config\.yaml: models\.experts\.x: .*expert 'wider'",
        lost: r"config\.yaml: models\.experts\.x: .*\./gone: no such folder",
        none: r"config\.yaml: models\.experts\.x: .*none\.yaml",
        tmp_path / "missing.yaml": r"config\.yaml: models\.experts\.x: .*missing\.yaml",
        wide: rf"expert 'x': .*{wide}",
    }
    for recipe, message in wrong.items():
        config = config_of(tmp_path, tasks, models["base"], x=recipe, y=models["a"])
        with pytest.raises(Exception, match=message):
            check(config, where="config.yaml")
        with pytest.raises(Exception, match=message):
            search(config, tmp_path / "run", where="config.yaml")
        assert not (tmp_path / "run" / "merged").exists()


def test_prefetch_fetches_the_models_of_recipes_and_builds_the_tasks_with_what_they_will_be(
    tmp_path: Path, tasks: Path, models: dict[str, Path], recipe: Path
) -> None:
    config = config_of(tmp_path, tasks, recipe, y=models["a"])
    found = [*prefetch(config)]
    assert [(item.kind, item.name, item.source, item.state) for item in found] == [
        ("model", "base/base", str(models["a"]), "folder"),
        ("model", "base/b", str(models["b"]), "folder"),
        ("model", "y", str(models["a"]), "folder"),
        ("task", "tiny_choice", "tiny_choice", "ready"),
    ]


def test_an_outline_has_the_form_of_the_merge(tmp_path: Path, models: dict[str, Path]) -> None:
    larger = tiny_checkpoint(tmp_path / "larger", vocab_size=400, seed=3)
    base, a = str(models["base"]), str(models["a"])
    layers = [{"model": base, "layer_range": [0, 2]}, {"model": a, "layer_range": [1, 2]}]
    stacked = mergekit(
        tmp_path / "stacked.yaml", merge_method="passthrough", slices=[{"sources": [part]} for part in layers]
    )
    united = mergekit(
        tmp_path / "united.yaml",
        merge_method="linear",
        tokenizer_source="union",
        models=[{"model": str(model), "parameters": {"weight": 1.0}} for model in (base, larger)],
    )
    narrow = mergekit(
        tmp_path / "narrow.yaml",
        merge_method="linear",
        models=[{"model": "stacked.yaml", "parameters": {"weight": 1.0}}],
        out_dtype="bfloat16",
    )
    for number, file in enumerate((stacked, united, narrow)):
        found = look_at_merges(file, tmp_path / f"outlines {number}")
        seen, made = Checkpoint.open(found.outlines[None]), Checkpoint.open(merge(file, tmp_path / f"out {number}"))
        assert not found.unchecked
        assert dict(seen.config) == dict(made.config)
        assert seen.tokens() == made.tokens()
        assert {name: (info.shape, info.kind) for name, info in seen.tensors.items()} == {
            name: (info.shape, info.kind) for name, info in made.tensors.items()
        }
        assert found.merges[-1].size_bytes == made.size_bytes


@pytest.mark.parametrize("role", ["base", "x"])
def test_a_recipe_whose_models_are_away_is_said_not_to_be_looked_at(
    tmp_path: Path, tasks: Path, models: dict[str, Path], role: str
) -> None:
    away = mergekit(
        tmp_path / "away.yaml",
        merge_method="linear",
        models=[{"model": model, "parameters": {"weight": 1.0}} for model in ("org/away", str(models["a"]))],
    )
    config = config_of(tmp_path, tasks, **{"base": models["base"], "y": models["a"], role: away})
    found = check(config, where="config.yaml")
    key = "models.base" if role == "base" else "models.experts.x"
    assert any(text.startswith(f"{key}: whether the models of the last merge fit") for text in found.unchecked)
    assert {model.name: (model.state, model.size_bytes) for model in found.models}[role] == ("recipe", None)
    assert bool(found.dimensions) == (role == "x")
    with pytest.raises(ConfigError, match=rf"config\.yaml: {key}: .*org/away: no such folder, not in the hub's cache"):
        search(config, tmp_path / "run", where="config.yaml")
