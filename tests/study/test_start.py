"""A search that starts from another run's merge, or a recipe: found in its own space, scored, resumed and refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from evomerge.config.config import Config
from evomerge.config.search import StartConfig
from evomerge.errors import ConfigError
from evomerge.run.directory import Run, open_run
from evomerge.space.base import settled
from evomerge.study.experiment import open_experiment
from evomerge.study.search import resume, search
from evomerge.study.start import start_of
from evomerge.testing.models import tiny_family
from helpers.search import changed, write_config, write_task
from helpers.spaces import TEMPLATE, space_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def coarse(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("coarse")
    models = tiny_family(folder / "models", "llama", layers=4)
    tasks = write_task(folder / "tasks", items=12)
    settings = {"evaluations": 24, "population": 8, "scan": 2}
    path = write_config(folder / "x.yaml", models, tasks, space={"granularity": "all"}, search=settings)
    search(Config.from_file(path), folder / "run")
    return open_run(folder / "run")


def finer(run: Run, start: dict[str, object], **settings: object) -> Config:
    space = {"granularity": "blocks", "blocks": 2}
    return changed(run.config, space=space, search={"start": start, "evaluations": 8, **settings})


def proposed(directory: Path) -> list[dict[str, object]]:
    return [dict(trial.parameters) for trial in open_run(directory).trials() if trial.kind == "candidate"]


def test_a_finer_search_scores_the_coarse_winner_and_goes_on_from_there_even_when_that_run_is_gone(
    coarse: Run, tmp_path: Path
) -> None:
    shutil.copytree(coarse.directory, tmp_path / "coarse")
    config = finer(coarse, {"run": str(tmp_path / "coarse"), "steps": True})
    search(config, tmp_path / "fine")
    shutil.rmtree(tmp_path / "coarse")
    run = open_run(tmp_path / "fine")
    result = coarse.result()
    assert result is not None
    winner = coarse.trials()[result["winner"]["trial"]]
    (start,) = (trial for trial in run.trials() if trial.kind == "start")
    assert start.score == winner.score
    for name, value in start.parameters.items():
        assert value == winner.parameters[name.rpartition(".")[0]]
    resume(tmp_path / "fine", evaluations=16)
    more = changed(config, search={"evaluations": 16})
    shutil.copytree(coarse.directory, tmp_path / "coarse")
    search(more, tmp_path / "whole")
    assert proposed(tmp_path / "fine") == proposed(tmp_path / "whole")
    first = [trial for trial in run.trials() if trial.generation == 0]
    at = np.array([*start.parameters.values()], dtype=float)
    uniform = np.array([[*trial.parameters.values()] for trial in first], dtype=float)
    # The first generation lies around the start.
    assert np.abs(uniform.mean(axis=0) - at).max() < 0.3


def test_first_steps_follow_how_far_the_better_candidates_lie_apart(coarse: Run) -> None:
    config = finer(coarse, {"run": str(coarse.directory), "steps": True})
    experiment = open_experiment(config)
    assert config.search.start is not None
    found = start_of(config.search.start, experiment.template, experiment.space, step_size=0.15, where="x.yaml")
    candidates = [trial for trial in coarse.trials() if trial.kind == "candidate"][12:]
    best = sorted(candidates, key=lambda trial: (-(trial.fitness or 0), trial.number))[:6]
    for name, step in found.steps.items():
        values = [float(trial.parameters[name.rpartition(".")[0]]) for trial in best]
        (dimension,) = (item for item in experiment.space.dimensions if item.name == name)
        expected = np.std(values) / (0.15 * (dimension.high - dimension.low))
        assert step == pytest.approx(np.clip(expected, 0.1, 1.0))
    assert len(found.steps) == len(experiment.space.dimensions)


def test_a_recipe_is_a_start_too_and_a_finer_one_is_met_halfway(coarse: Run, tmp_path: Path) -> None:
    fine = open_experiment(finer(coarse, {"recipe": "none.yaml"}))
    genome = fine.space.default()
    genome[0] += 0.2
    (tmp_path / "recipe.yaml").write_text(fine.space.decode(genome).to_yaml())
    for space, word in ((fine.space, ""), (open_experiment(coarse.config).space, "nearest")):
        config = changed(coarse.config, search={"start": {"recipe": str(tmp_path / "recipe.yaml")}})
        assert config.search.start is not None
        found = start_of(config.search.start, fine.template, space, step_size=0.15, where="x.yaml")
        assert word in found.words
        if not word:
            assert np.array_equal(space.genome(found.parameters), genome)


def test_what_cannot_be_a_start_is_refused_with_the_remedy(coarse: Run, tmp_path: Path) -> None:
    models = tiny_family(tmp_path / "models", "llama", layers=4)

    def refused(config: Config) -> str:
        experiment = open_experiment(config)
        assert config.search.start is not None
        with pytest.raises(ConfigError) as error:
            start_of(config.search.start, experiment.template, experiment.space, step_size=0.15, where="x.yaml")
        assert str(error.value).count("x.yaml: search.start") == 1
        return str(error.value)

    there = {"run": str(coarse.directory)}
    experts = {name: str(folder) for name, folder in models.items() if name != "base"}
    other = changed(finer(coarse, there), models={"base": str(models["base"]), "experts": experts})
    assert "is a merge of other models" in refused(other)
    assert "or leave out search.start" in refused(other)
    ties = changed(finer(coarse, there), merge={"method": "ties", "options": {}})
    assert "method 'task_arithmetic' there, 'ties' here" in refused(ties)
    assert "trial 0 of" in refused(finer(coarse, there | {"trial": 0}))
    assert "no trial 999" in refused(finer(coarse, there | {"trial": 999}))
    assert "not a run directory" in refused(finer(coarse, {"run": str(tmp_path)}))
    with pytest.raises(ConfigError, match=r"search.start: give either run"):
        finer(coarse, {"run": "x", "recipe": "y"})


def test_a_merge_of_some_experts_is_a_start_where_the_space_chooses_experts(tmp_path: Path) -> None:
    space = space_of("methods", methods=["ties", "task_arithmetic"], subsets=True, granularity="all")
    names = [dimension.name for dimension in space.dimensions]
    genome = space.variants()[1]
    genome[names.index("task_arithmetic.experts")] = 1.0
    genome = settled(space.dimensions, genome)
    recipe = space.decode(genome)
    assert [*recipe.experts] == ["swahili"]
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    settings = StartConfig(recipe=str(tmp_path / "recipe.yaml"))
    found = start_of(settings, TEMPLATE, space, step_size=0.15, where="x.yaml")
    assert np.array_equal(space.genome(found.parameters), genome)
    with pytest.raises(ConfigError, match=r"other models: maths \(none there, maths here\)"):
        start_of(settings, TEMPLATE, space_of("coefficients"), step_size=0.15, where="x.yaml")
