"""A search in a space of every kind of dimension, found through the registry: searched, resumed, and refused early."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from evomerge.cli import app
from evomerge.config.config import Config
from evomerge.errors import ConfigError
from evomerge.materialise.merger import Merger
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.open import open_models
from evomerge.run.directory import open_run
from evomerge.run.recipes import recipe_of
from evomerge.space import SPACES
from evomerge.study.check import check
from evomerge.study.experiment import open_experiment
from evomerge.study.export import export
from evomerge.study.score_model import evaluate
from evomerge.study.search import resume, search
from evomerge.testing.models import tiny_family
from evomerge.testing.runs import essence
from helpers.search import changed, write_config, write_task

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def mixed() -> Iterator[None]:
    with SPACES.extended({"mixed": "helpers.spaces:Mixed"}):
        yield


@pytest.fixture
def config(tmp_path: Path) -> Config:
    models = tiny_family(tmp_path / "models", "llama", layers=4)
    tasks = write_task(tmp_path / "tasks", items=12)
    settings = {"algorithm": "tpe", "evaluations": 20, "population": 4, "scan": 1, "options": {"n_startup_trials": 4}}
    path = write_config(tmp_path / "mixed.yaml", models, tasks, space={"kind": "mixed"}, search=settings)
    return Config.from_file(path)


def test_choices_whole_numbers_and_conditions_are_searched_recorded_and_replayed(
    config: Config, tmp_path: Path
) -> None:
    search(config, tmp_path / "whole")
    run = open_run(tmp_path / "whole")
    trials = [trial for trial in run.ledger().trials() if trial.kind == "candidate"]
    assert len(trials) == 20
    assert {trial.state for trial in trials} == {"complete"}
    assert {trial.parameters["method"] for trial in trials} == {"task_arithmetic", "ties"}
    for trial in trials:
        recipe = recipe_of(run.config, run.facts, trial, run.directory)
        assert recipe.method == trial.parameters["method"]
        assert ("density" in trial.parameters) == (recipe.method == "ties")
        assert recipe.groups[1].layers == (trial.parameters["first"], 3)
    ties = next(trial for trial in trials if trial.parameters["method"] == "ties")
    shown = CliRunner().invoke(app, ["trials", str(tmp_path / "whole"), str(ties.number)]).output
    assert re.search(r"\bmethod\W+ties\b", shown)
    shorter = config.model_copy(update={"search": config.search.model_copy(update={"evaluations": 8})})
    search(shorter, tmp_path / "parts")
    resume(tmp_path / "parts", evaluations=20)
    assert essence(tmp_path / "parts")["trials"] == essence(tmp_path / "whole")["trials"]


def test_an_algorithm_that_cannot_search_the_space_is_refused_with_those_that_can(config: Config) -> None:
    changed = config.model_copy(update={"search": config.search.model_copy(update={"algorithm": "cma", "options": {}})})
    with pytest.raises(ConfigError, match=r"^mixed.yaml: search.algorithm: cma can't search this space") as error:
        open_experiment(changed, where="mixed.yaml")
    assert "method is categorical, first is integer, density depends on method" in str(error.value)
    assert str(error.value).endswith("use one that can: cma_margin, m2n2, tpe, gp, nsga2, nsga3, qmc, random")


def test_an_unknown_space_is_refused_before_any_model_is_opened(config: Config) -> None:
    models = config.models.model_copy(update={"base": config.models.base.model_copy(update={"path": "none/such"})})
    changed = config.model_copy(update={"models": models, "space": config.space.model_copy(update={"kind": "mixd"})})
    with pytest.raises(ConfigError, match=r"x.yaml: space.kind: unknown search space 'mixd'. Did you mean 'mixed'\?"):
        open_experiment(changed, where="x.yaml")


def test_methods_options_and_experts_are_searched_and_the_winner_is_exported_as_it_was_scored(
    config: Config, tmp_path: Path
) -> None:
    methods = {"task_arithmetic": {}, "ties": {"options": {"election": ["weighted", "unweighted"]}}, "tsv_merge": {}}
    space = {"kind": "methods", "methods": methods, "subsets": True, "granularity": "all"}
    wanted = changed(config, space=space, search={"evaluations": 16, "scan": 4})
    report = check(wanted)
    assert any(note.startswith("tsv_merge (") for note in report.notes)
    assert {dimension.kind for dimension in report.dimensions} == {"categorical", "continuous"}
    search(wanted, tmp_path / "run")
    run = open_run(tmp_path / "run")
    trials = [trial for trial in run.ledger().trials() if trial.kind == "candidate"]
    assert {trial.state for trial in trials} == {"complete"}
    recipes = [recipe_of(run.config, run.facts, trial, run.directory) for trial in trials]
    assert len({recipe.method for recipe in recipes}) > 1
    assert len({tuple(recipe.experts) for recipe in recipes}) > 1
    some = next(trial for trial, recipe in zip(trials, recipes, strict=True) if len(recipe.experts) == 1)
    export(tmp_path / "run", tmp_path / "out", trial=some.number)
    folder = Checkpoint.open(tmp_path / "out")
    merger = Merger(open_models(wanted.models.sources()))
    bound = merger.bind(recipe_of(run.config, run.facts, some, run.directory))
    live = {name: torch.empty_like(folder.tensor(name)) for name in folder.names}
    merger.write(bound, live)
    assert all(torch.equal(folder.tensor(name), tensor) for name, tensor in live.items())


def test_stacks_of_layers_are_searched_and_score_what_their_exported_folders_score(
    config: Config, tmp_path: Path
) -> None:
    stack = {"models": ["base", "a"], "scales": [0.5, 1.5]}
    wanted = changed(config, space={"kind": "layers", "stack": stack}, search={"evaluations": 8})
    assert any("holds every model whole" in note for note in check(wanted).notes)
    search(wanted, tmp_path / "run")
    run = open_run(tmp_path / "run")
    trials = [trial for trial in run.trials() if trial.kind in {"candidate", "uniform"}]
    assert {trial.state for trial in trials} == {"complete"}
    recipes = [run.recipe(trial.number) for trial in trials]
    assert len({str(recipe.slices) for recipe in recipes}) > 4
    base = next(trial for trial in run.trials() if trial.kind == "base")
    assert trials[0].score == base.score
    other = next(trial for trial in trials if trial.score != base.score)
    export(tmp_path / "run", tmp_path / "out", trial=other.number)
    (found,) = evaluate(str(tmp_path / "out"), wanted.benchmark, execution=wanted.execution, split="search")
    assert found.score == other.score
