"""Searches over models that are recipes: merged once into the run before anything is scored, and looked at by check."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from evomerge.config.config import Config
from evomerge.config.search import StartConfig
from evomerge.errors import ConfigError, ResumeError, RunError
from evomerge.recipe.recipe import Recipe
from evomerge.run.directory import open_run
from evomerge.run.found import removable, runs_below
from evomerge.run.merged import with_folders
from evomerge.run.observer import SilentObserver
from evomerge.study.check import check
from evomerge.study.export import export
from evomerge.study.merge import merge
from evomerge.study.reproduce import reproduce
from evomerge.study.search import resume, search
from evomerge.testing.models import tiny_checkpoint
from helpers.commands import Command
from helpers.first_merges import config_of, contents, weights, write_recipe
from helpers.patience import LONG_S
from helpers.search import Interrupt

pytestmark = pytest.mark.slow


class Heard(SilentObserver):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.phases: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)

    def phase(self, name: str, total: int | None) -> None:
        self.phases.append(name)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_llama: dict[str, Path], tasks: Path) -> tuple[Path, Path]:
    """A folder with models, a recipe of two and a search over it, and a copy of the folder as it was then."""
    folder = tmp_path_factory.mktemp("finished")
    home = folder / "home"
    own = {name: Path(shutil.copytree(model, home / "models" / name)) for name, model in tiny_llama.items()}
    write_recipe(home / "both.yaml", own["a"], own["b"])
    search(config_at(home, tasks), home / "run")
    return home, Path(shutil.copytree(home, folder / "kept"))


@pytest.fixture
def home(finished: tuple[Path, Path]) -> Path:
    """The folder with the search, which may be written into."""
    shutil.rmtree(finished[0])
    return Path(shutil.copytree(finished[1], finished[0]))


def config_at(home: Path, tasks: Path) -> Config:
    """What the search in a folder is of."""
    return config_of(home, tasks, home / "models" / "base", x=home / "both.yaml", y=home / "models" / "a")


def trials_of(run: Path) -> list[Any]:
    return [(trial.kind, trial.parameters, trial.score) for trial in open_run(run).trials()]


@pytest.mark.parametrize("role", ["base", "expert"])
def test_a_search_over_a_recipe_is_the_one_over_the_folder_that_merge_writes(
    tmp_path: Path, tasks: Path, models: dict[str, Path], recipe: Path, role: str
) -> None:
    folder, heard = merge(recipe, tmp_path / "before"), Heard()

    def config(model: Path) -> Config:
        base, expert = (model, models["a"]) if role == "base" else (models["base"], model)
        return config_of(tmp_path, tasks, base, x=expert, y=models["b"])

    search(config(folder), tmp_path / "one")
    search(config(recipe), tmp_path / "two", observer=heard)
    name = "base" if role == "base" else "x"
    merged = tmp_path / "two" / "merged" / name
    key = "models.base" if role == "base" else "models.experts.x"
    assert heard.phases[:2] == ["merging", "models"]
    assert heard.lines[0].startswith(f"{key}: merging {recipe} into {merged} (")
    assert weights(merged) == weights(folder)
    assert trials_of(tmp_path / "one") == trials_of(tmp_path / "two")
    exported = [export(tmp_path / run, tmp_path / f"{run}-out") for run in ("one", "two")]
    assert weights(exported[0]) == weights(exported[1])
    assert str(recipe) in (tmp_path / "two" / "config.yaml").read_text()
    # What it is made of goes along, so that nobody needs the run to make it again.
    shutil.rmtree(tmp_path / "two")
    card = (exported[1] / "README.md").read_text()
    assert f"`{name}` (itself a merge: `recipe-{name}.yaml`)" in card
    own = Recipe.from_file(exported[1] / "recipe.yaml").references[name]
    assert own.path == str(exported[1] / f"recipe-{name}.yaml")
    assert weights(merge(exported[1] / "recipe.yaml", tmp_path / "again")) == weights(exported[0])


def test_a_chain_of_recipes_is_merged_and_its_steps_dont_stay(
    tmp_path: Path, tasks: Path, models: dict[str, Path], recipe: Path
) -> None:
    last = write_recipe(tmp_path / "last.yaml", recipe.name, models["base"], weight=0.25)
    folder = merge(last, tmp_path / "before")
    search(config_of(tmp_path, tasks, models["base"], x=last, y=last), tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run" / "merged").iterdir()) == ["x", "x.json", "x.yaml"]
    assert weights(tmp_path / "run" / "merged" / "x") == weights(folder)
    out = export(tmp_path / "run", tmp_path / "out")
    assert weights(merge(out / "recipe-x.yaml", tmp_path / "again")) == weights(folder)
    assert weights(merge(out / "recipe.yaml", tmp_path / "whole")) == weights(out)


def test_steps_that_a_killed_driver_left_are_removed_even_when_nothing_is_merged(home: Path) -> None:
    run = home / "run"
    shutil.copytree(home / "models" / "a", run / "merged" / "x.steps" / "inner")
    resume(run, evaluations=7)
    assert sorted(path.name for path in (run / "merged").iterdir()) == ["x", "x.json", "x.yaml"]


def test_a_resumed_run_takes_the_folder_as_it_is_and_needs_no_models_of_the_recipe(home: Path) -> None:
    run = home / "run"
    shutil.rmtree(home / "models" / "b")
    before = contents(run / "merged")
    heard = Heard()
    resume(run, evaluations=7, observer=heard)
    assert contents(run / "merged") == before
    assert not any("merging" in line for line in heard.lines)
    assert "merging" not in heard.phases
    assert reproduce(run).matches
    assert not [item.path for item in removable(run) if "merged" in item.path.parts]
    assert [*runs_below(home)] == [run]


def test_a_folder_that_is_gone_is_merged_again(home: Path) -> None:
    run = home / "run"
    before = weights(run / "merged" / "x")
    shutil.rmtree(run / "merged" / "x")
    resume(run, evaluations=7)
    assert weights(run / "merged" / "x") == before


@pytest.mark.parametrize("what", ["recipe", "model"])
def test_a_resumed_run_refuses_a_recipe_whose_content_has_changed(home: Path, what: str) -> None:
    run, models = home / "run", home / "models"
    before = contents(run / "merged")
    changed = home / "both.yaml"
    if what == "recipe":
        write_recipe(changed, models / "a", models / "b", weight=0.25)
    else:
        shutil.rmtree(models / "b")
        changed = tiny_checkpoint(models / "b", seed=9) / "model.safetensors"
    with pytest.raises(ResumeError, match=rf"models\.experts\.x was merged from .* has changed: .*{changed}"):
        resume(run, evaluations=7)
    assert contents(run / "merged") == before


SCRIPT = """
import os, signal, sys
from evomerge.materialise import shards
from evomerge.cli import main

write, left = shards._write_tensor, [3]

def killed(stream, tensor):
    left[0] -= 1
    if not left[0]:
        stream.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return write(stream, tensor)

shards._write_tensor = killed
main()
"""


@pytest.mark.parametrize("changes", [False, True])
def test_a_search_that_was_killed_while_it_merged_merges_anew(
    tmp_path: Path, tasks: Path, models: dict[str, Path], recipe: Path, changes: bool
) -> None:
    script, run = tmp_path / "killed.py", tmp_path / "run"
    script.write_text(SCRIPT)
    config = config_of(tmp_path, tasks, models["base"], x=recipe, y=models["a"])
    process = Command(["search", tmp_path / "config.yaml", "--run", run], script=script, merged=True)
    process.communicate(LONG_S)
    assert process.returncode == -signal.SIGKILL
    assert [path.name for path in (run / "merged").glob(".x.*.partial/model.safetensors")] == ["model.safetensors"]
    assert not (run / "run.json").exists()
    if changes:
        write_recipe(recipe, models["a"], models["b"], weight=0.25)
    with pytest.raises(KeyboardInterrupt):
        search(config, run, observer=Interrupt(1))
    assert not [*(run / "merged").glob(".*")]
    assert weights(run / "merged" / "x") == weights(merge(recipe, tmp_path / "beside"))


def test_a_model_of_a_search_that_hadnt_begun_is_merged_anew_when_its_recipe_has_changed(
    tmp_path: Path, tasks: Path, home: Path
) -> None:
    run, recipe = home / "run", home / "both.yaml"
    for path in run.iterdir():
        if path.name != "merged":
            path.unlink()
    write_recipe(recipe, home / "models" / "a", home / "models" / "b", weight=0.25)
    with pytest.raises(KeyboardInterrupt):
        search(config_at(home, tasks), run, observer=Interrupt(1))
    assert weights(run / "merged" / "x") == weights(merge(recipe, tmp_path / "beside"))


def test_a_folder_of_something_else_is_never_removed(
    tmp_path: Path, tasks: Path, models: dict[str, Path], recipe: Path
) -> None:
    mine = tmp_path / "run" / "merged" / "x"
    shutil.copytree(models["a"], mine)
    before = contents(mine)
    with pytest.raises(RunError, match=r"merged/x: nothing says what it was merged from"):
        search(config_of(tmp_path, tasks, models["base"], x=recipe, y=models["a"]), tmp_path / "run")
    assert contents(mine) == before
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match=r"holds thesis\.txt and no run"):
        search(config_of(tmp_path, tasks, models["base"], y=recipe), tmp_path / "run")
    assert not (tmp_path / "run" / "merged" / "y").exists()


def test_heads_that_name_an_expert_go_with_its_folder(tmp_path: Path, models: dict[str, Path], recipe: Path) -> None:
    experts = {"x": str(recipe), "y": str(models["a"])}
    tasks = {name: {"data": str(tmp_path), "head": name} for name in experts}
    config = Config.from_data(
        {
            "models": {"base": str(models["base"]), "experts": experts},
            "benchmark": {"labels": {"text": "text", "tasks": tasks}},
        }
    )
    found = with_folders(config, tmp_path / "run")
    assert found.benchmark.labels is not None
    heads = {name: task.head for name, task in found.benchmark.labels.tasks.items()}
    assert heads == {"x": str(tmp_path / "run" / "merged" / "x"), "y": str(models["a"])}
    assert found.models.experts["x"].path == heads["x"]
    assert config.models.experts["x"].path == str(recipe)


def test_a_search_starts_from_another_over_the_same_recipe(tmp_path: Path, tasks: Path, home: Path) -> None:
    config, one = config_at(home, tasks), home / "run"
    winner = search(config, one).winner
    start = config.search.model_copy(update={"start": StartConfig(run=str(one), trial=winner)})
    second = config.model_copy(update={"search": start})
    words = f"the search starts from trial {winner} of {one}"
    assert words in check(second).notes
    heard = Heard()
    search(second, tmp_path / "two", observer=heard)
    assert words in heard.lines
    models, recipe = home / "models", home / "both.yaml"
    other = write_recipe(tmp_path / "other.yaml", models / "a", models / "b", weight=0.25)
    third = config_of(tmp_path, tasks, models / "base", x=other, y=models / "a").model_copy(update={"search": start})
    with pytest.raises(ConfigError, match=rf"is a merge of other models: x \({recipe} there, "):
        search(third, tmp_path / "three")
