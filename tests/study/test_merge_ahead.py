"""Models that are recipes, merged for what looks at them before their search, where the search finds them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from evomerge.config.config import Config
from evomerge.errors import LockedError, ResumeError, RunError
from evomerge.run.found import not_begun_below, removable, runs_below
from evomerge.run.lock import lock
from evomerge.study.merge import merge
from evomerge.study.merge_ahead import merge_ahead
from evomerge.study.search import search
from helpers.first_merges import config_of, contents, weights, write_recipe

pytestmark = pytest.mark.slow


def test_what_was_merged_ahead_is_what_the_search_takes(
    tmp_path: Path, tasks: Path, models: dict[str, Path], recipe: Path
) -> None:
    config, run = config_of(tmp_path, tasks, models["base"], x=recipe, y=models["a"]), tmp_path / "run"
    told: list[str] = []
    found = merge_ahead(config, run, told.append)
    assert found.models.experts["x"].path == str(run / "merged" / "x")
    assert found.models.experts["y"].path == str(models["a"])
    assert weights(run / "merged" / "x") == weights(merge(recipe, tmp_path / "beside"))
    assert told[0].startswith(f"models.experts.x: merging {recipe} into {run / 'merged' / 'x'} (")
    assert told[-1] == (
        f"{run / 'merged'}: is kept for the search in {run}; without one, remove it: evomerge clean {run} --yes"
    )
    before = contents(run / "merged")
    told.clear()
    assert merge_ahead(config, run, told.append) == found
    search(config, run)
    with lock(run):  # as by a search that is at work
        assert merge_ahead(config, run, told.append) == found
    assert contents(run / "merged") == before
    assert not told


def test_only_what_is_needed_is_merged_and_into_the_folder_that_the_search_gives_it(
    tmp_path: Path, tasks: Path, models: dict[str, Path], recipe: Path
) -> None:
    other = write_recipe(tmp_path / "other.yaml", models["a"], models["base"])
    config, run = config_of(tmp_path, tasks, models["base"], x=other, y=recipe, z=recipe), tmp_path / "run"
    assert merge_ahead(config, run, only=["base", "elsewhere"]) == config
    assert not run.exists()
    found = merge_ahead(config, run, only=["z"])
    assert found.models.experts["z"].path == str(run / "merged" / "y")
    assert [path.name for path in (run / "merged").iterdir() if path.is_dir()] == ["y"]
    before = contents(run / "merged")
    search(config, run)
    assert before.items() <= contents(run / "merged").items()


def test_a_model_whose_head_a_task_has_is_needed(tmp_path: Path, models: dict[str, Path], recipe: Path) -> None:
    config = Config.from_data(
        {
            "models": {"base": str(models["base"]), "experts": {"x": str(recipe), "y": str(models["a"])}},
            "space": {"granularity": "layer"},
            "benchmark": {"labels": {"text": "text", "tasks": {"one": {"data": str(tmp_path), "head": "x"}}}},
        }
    )
    found = merge_ahead(config, tmp_path / "run", only=["y"]).benchmark.labels
    assert found is not None
    (head,) = (task.head for task in found.tasks.values())
    assert head == str(tmp_path / "run" / "merged" / "x")
    assert weights(Path(head)) == weights(merge(recipe, tmp_path / "beside"))


def test_a_run_over_other_recipes_is_refused_and_one_of_other_content_too(
    tmp_path: Path, tasks: Path, models: dict[str, Path], recipe: Path
) -> None:
    config, run = config_of(tmp_path, tasks, models["base"], x=recipe, y=models["a"]), tmp_path / "run"
    search(config, run)
    before = contents(run)
    other = write_recipe(tmp_path / "other.yaml", models["a"], models["base"])
    with pytest.raises(RunError, match=r"has begun with other recipes than c\.yaml; give another run directory"):
        merge_ahead(config_of(tmp_path, tasks, models["base"], x=other, y=models["a"]), run, where="c.yaml")
    write_recipe(recipe, models["a"], models["b"], weight=0.25)
    with pytest.raises(ResumeError, match=r"models\.experts\.x was merged from .* has changed"):
        merge_ahead(config, run)
    assert contents(run) == before


def test_a_search_that_still_merges_is_waited_for_by_hand(
    tmp_path: Path, tasks: Path, models: dict[str, Path], recipe: Path
) -> None:
    config = config_of(tmp_path, tasks, models["base"], x=recipe, y=models["a"])
    with lock(tmp_path / "run"), pytest.raises(LockedError, match="is driving this run"):
        merge_ahead(config, tmp_path / "run")


def test_what_no_search_has_taken_can_be_cleaned_and_nothing_else(
    tmp_path: Path, tasks: Path, models: dict[str, Path], recipe: Path
) -> None:
    runs = tmp_path / "runs"
    config = config_of(tmp_path, tasks, models["base"], x=recipe, y=models["a"])
    merge_ahead(config, runs / "ahead")
    search(config, runs / "begun")
    shutil.copytree(models["a"], runs / "mine" / "merged" / "x")
    shutil.copytree(runs / "ahead", runs / "beside")
    (runs / "beside" / "thesis.txt").write_text("mine")
    assert [*not_begun_below(runs)] == [runs / "ahead"]
    assert [*runs_below(runs)] == [runs / "begun"]
    (item,) = removable(runs / "ahead")
    assert item.path == runs / "ahead" / "merged"
    assert item.size_bytes == sum(len(content) for _, content in contents(runs / "ahead" / "merged").values())
    assert not removable(runs / "begun")
