"""Merges of other methods beside a search: scored once, validated, tested, and the same after any interruption."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import numpy as np
import pytest

from evomerge.config.config import Config
from evomerge.errors import ConfigError, ResumeError
from evomerge.materialise.folder import write_folder
from evomerge.methods.published import kind_of, labels
from evomerge.run.directory import open_run
from evomerge.run.lock import lock
from evomerge.run.observer import SilentObserver
from evomerge.study.baselines import score_baselines
from evomerge.study.candidates import Candidates
from evomerge.study.check import check
from evomerge.study.export import export
from evomerge.study.search import resume, search
from evomerge.study.session import Session
from evomerge.testing.runs import essence
from helpers.search import Interrupt, changed, kill_after_lines, start, write_config

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compared(config: Config) -> Config:
    return changed(config, search={"baselines": "standard", "evaluations": 10})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, compared: Config) -> Path:
    directory = tmp_path_factory.mktemp("compared") / "run"
    search(compared, directory)
    return directory


def test_each_is_scored_before_the_first_candidate_and_the_best_of_each_method_is_tested(run: Path) -> None:
    trials = open_run(run).trials()
    names = [trial.name for trial in trials if trial.kind == "method"]
    # The models have two layers, too few to swap.
    assert names == [name for name in labels(["standard"], ("a", "b")) if kind_of(name) != "layer_swap"]
    first = next(trial.number for trial in trials if trial.kind == "candidate")
    assert all(trial.number < first and trial.validation is not None for trial in trials if trial.kind == "method")
    result = open_run(run).result()
    assert result is not None
    tested = [model["name"] for model in result["test"]["models"] if model["kind"] == "method"]
    assert [kind_of(name.removeprefix("method ")) for name in tested] == list(dict.fromkeys(map(kind_of, names)))
    arithmetic = {trial.name: trial for trial in trials if trial.name.startswith("task_arithmetic")}
    best = max(arithmetic.values(), key=lambda trial: trial.validation or 0.0)
    assert arithmetic[tested[0].removeprefix("method ")].validation == best.validation
    rivals = {model["name"] for model in result["test"]["models"] if model["trial"] != result["winner"]["trial"]}
    assert {row["winner_vs"] for row in result["test"]["comparisons"]} == rivals


def test_the_plan_counts_them(run: Path, compared: Config) -> None:
    opened = open_run(run)
    done = {
        split: sum(found.split == split for found in opened.ledger().evaluations())
        for split in ("search", "validation", "test")
    }
    most = opened.plan().evaluations
    assert most["baselines"] + most["search"] >= done["search"]
    assert most["validation"] >= done["validation"]
    assert most["test"] >= done["test"]
    report = check(compared)
    assert report.baselines == [trial.name for trial in opened.trials() if trial.kind == "method"]
    assert report.baseline_bytes > 0


def test_an_interrupted_run_ends_the_same(tmp_path: Path, compared: Config, run: Path) -> None:
    # Among uniform merges, methods, candidates and what is validated and tested.
    for after in (5, 3, 4, 4, 14, 7):
        with pytest.raises(KeyboardInterrupt):
            search(compared, tmp_path / "run", observer=Interrupt(after))
    resume(tmp_path / "run")
    assert essence(tmp_path / "run") == essence(run)


def test_a_killed_run_ends_the_same(
    tmp_path: Path, tiny_llama: dict[str, Path], tasks: Path, compared: Config, run: Path
) -> None:
    file = write_config(tmp_path / "c.yaml", tiny_llama, tasks, search={"baselines": "standard", "evaluations": 10})
    for lines in sorted(random.Random(1).sample(range(2, 30), 2)):
        process = start(file, tmp_path / "run")
        kill_after_lines(process, tmp_path / "run" / "evaluations.jsonl", lines)
        assert process.returncode == -signal.SIGKILL
    resume(tmp_path / "run")
    assert essence(tmp_path / "run") == essence(run)


def test_what_is_exported_of_one_is_what_its_recipe_makes(tmp_path: Path, run: Path) -> None:
    opened = open_run(run)
    trial = next(trial for trial in opened.trials() if trial.name == "ties")
    recipe = opened.recipe(trial.number)
    assert (recipe.method, recipe.options["election"]) == ("ties", "unweighted")
    folder = export(run, tmp_path / "exported", trial=trial.number)
    again = write_folder(recipe, tmp_path / "again")
    assert (folder / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    assert "settings that were given, not searched" in (folder / "README.md").read_text()


def test_a_run_without_them_goes_on_without_them_and_takes_none_up(
    tmp_path: Path, config: Config, undisturbed: Path
) -> None:
    assert "baselines" not in open_run(undisturbed).facts["identity"]["search"]
    short = changed(config, search={"evaluations": 4})
    search(short, tmp_path / "run")
    with pytest.raises(ResumeError, match=r"search\.baselines"):
        search(changed(short, search={"baselines": "standard"}), tmp_path / "run")


def test_a_name_that_does_not_fit_is_refused_with_its_key(config: Config) -> None:
    with pytest.raises(ConfigError, match=r"search\.baselines: layer_swap needs three layers"):
        check(changed(config, search={"baselines": ["layer_swap"]}))
    with pytest.raises(ConfigError, match=r"search\.baselines: unknown baseline 'dares'"):
        check(changed(config, search={"baselines": ["dares"]}))


@pytest.mark.parametrize(
    ("given", "asked"), [("none", ()), (None, ()), ("ties", ("ties",)), (["ties", "standard"], ("ties", "standard"))]
)
def test_a_single_name_needs_no_list(config: Config, given: object, asked: tuple[str, ...]) -> None:
    assert changed(config, search={"baselines": given}).search.baselines == asked


def test_the_best_of_them_that_the_space_can_express_is_where_the_search_starts(tmp_path: Path, config: Config) -> None:
    asked = changed(config, search={"baselines": ["task_arithmetic", "model_stock"], "scan": 1})
    with lock(tmp_path / "run"), Session(asked, tmp_path / "run", SilentObserver(), "config") as session:
        candidates = Candidates(session)
        start = score_baselines(candidates)
        assert start is not None
        scored = {
            trial.name: candidates.fitness(trial) for trial in session.ledger.trials() if not trial.kind.is_checkpoint
        }
        # Model Stock has no coefficients for each layer that task arithmetic could have.
        best = max((name for name in scored if name != "model_stock"), key=lambda name: scored[name] or 0.0)
        weight = {"uniform 1": 0.5, "task_arithmetic 0.3": 0.3, "task_arithmetic 0.4": 0.4}[best]
        assert start == pytest.approx(np.full(len(session.space.dimensions), weight))
        assert session.space.encode(session.experiment.other_methods["model_stock"]) is None
