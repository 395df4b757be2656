"""Whole searches for several objectives on tiny real models: the front, its picks, and killing in between."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.storages import JournalStorage

from evomerge.config.config import Config
from evomerge.errors import ConfigError
from evomerge.run.directory import open_run
from evomerge.run.fronts import front_of, history_of, merges_of, picked
from evomerge.run.journal import JOURNAL, Journal
from evomerge.score.pareto import dominates, hypervolume
from evomerge.study.check import check
from evomerge.study.search import resume, search
from evomerge.testing.runs import essence
from helpers.commands import Command
from helpers.search import Count, Interrupt, kill_after_lines
from helpers.several import write_experiment, write_tasks

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("around")]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("several") / "tasks")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, tiny_llama: dict[str, Path], tasks: Path) -> Config:
    path = tmp_path_factory.mktemp("config") / "two.yaml"
    return write_experiment(path, tiny_llama, tasks, objectives={"north": "north", "south": "south"})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, config: Config) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "two"
    search(config, directory)
    return directory


def test_the_front_holds_no_dominated_merge_and_all_others_are_dominated_or_equal(undisturbed: Path) -> None:
    run = open_run(undisturbed)
    ledger, result = run.ledger(), run.result()
    assert result is not None
    points = {
        trial.number: tuple(found.aggregates[task]["acc,none"] for task in ("north", "south"))
        for trial in ledger.trials()
        if not trial.kind.is_checkpoint and (found := ledger.evaluation(trial.number, "search")) is not None
    }
    assert len(points) == 18 + 3
    front = {row["trial"] for row in result["front"]}
    assert front
    for number, point in points.items():
        others = [other for one, other in points.items() if one != number]
        if number in front:
            assert not any(dominates(other, point) for other in others)
        else:
            assert any(dominates(other, point) or other == point for other in others)
    for row in result["front"]:
        assert tuple(row["search"]["objectives"].values()) == points[row["trial"]]


def test_picks_are_the_best_of_the_validated_front_and_tested(undisturbed: Path) -> None:
    run = open_run(undisturbed)
    ledger, result = run.ledger(), run.result()
    assert result is not None
    assert set(result["picks"]) == {"knee", "best:north", "best:south", "worst"}
    assert result["winner"]["trial"] == result["picks"]["knee"]
    validated = [row for row in result["front"] if "validation" in row]
    assert 0 < len(validated) <= 2 * 2
    for task in ("north", "south"):
        best = max(row["validation"]["objectives"][task] for row in validated)
        row = next(row for row in validated if row["trial"] == result["picks"][f"best:{task}"])
        assert row["validation"]["objectives"][task] == best
    for number in result["picks"].values():
        assert ledger.evaluation(number, "test") is not None
    lowest = {row["trial"]: min(row["validation"]["objectives"].values()) for row in validated}
    assert lowest[result["picks"]["worst"]] == max(lowest.values())


def test_comparisons_are_corrected_for_all_picks_baselines_and_objectives(undisturbed: Path) -> None:
    result = open_run(undisturbed).result()
    assert result is not None
    rows = result["pick_comparisons"]
    tested = {*result["picks"].values()}
    baselines = {row["trial"] for row in result["baselines"]}
    assert len(rows) == 2 * sum(one != other for one in tested for other in baselines)
    # Holm's step-down procedure, by its definition.
    ordered = sorted(rows, key=lambda row: row["p"])
    highest = 0.0
    for place, row in enumerate(ordered):
        highest = max(highest, min(1.0, row["p"] * (len(rows) - place)))
        assert row["p_holm"] == pytest.approx(highest)


def test_hypervolume_never_shrinks_and_is_that_of_the_front(undisturbed: Path) -> None:
    run = open_run(undisturbed)
    ledger, result = run.ledger(), run.result()
    history = history_of(ledger, run.config.search.goals)
    assert history is not None
    assert result is not None
    assert [step.candidates for step in history.steps] == [0, 6, 12, 18]
    volumes = [step.hypervolume for step in history.steps]
    assert volumes == sorted(volumes)
    baselines = [ledger.evaluation(one.number, "search") for one in ledger.trials() if one.kind.is_baseline]
    corner = np.min([found.aims for found in baselines if found is not None], axis=0)
    points = np.array([one.aims for one in merges_of(ledger)])
    assert volumes[-1] == pytest.approx(hypervolume(points, corner)) == result["hypervolume"]["value"]


def test_the_study_is_one_of_several_objectives_for_optuna(undisturbed: Path) -> None:
    run = open_run(undisturbed)
    storage = JournalStorage(Journal(undisturbed / JOURNAL, run.facts["study"]))
    study = optuna.load_study(study_name=run.facts["study"], storage=storage)
    aims = {one.trial: one.aims for one in run.ledger().evaluations() if one.split == "search"}
    assert {trial.number: tuple(trial.values) for trial in study.trials} == aims
    on_front = {number for number, point in aims.items() if not any(dominates(one, point) for one in aims.values())}
    assert {trial.number for trial in study.best_trials} == on_front


def test_a_search_that_was_broken_off_anywhere_ends_with_the_same_front(
    config: Config, undisturbed: Path, tmp_path: Path
) -> None:
    for after in (2, 5, 9, 7):
        with pytest.raises(KeyboardInterrupt):
            search(config, tmp_path / "run", observer=Interrupt(after))
    search(config, tmp_path / "run")
    assert essence(tmp_path / "run") == essence(undisturbed)


def test_a_killed_search_ends_with_the_same_front(config: Config, undisturbed: Path, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(config.to_yaml())
    script = tmp_path / "script.py"
    script.write_text(
        "import sys; from evomerge.algorithms import PROPOSERS; from evomerge.study.search import search\n"
        "from evomerge.config.config import Config; from helpers.several import AROUND\n"
        "with PROPOSERS.extended(AROUND): search(Config.from_file(sys.argv[1]), sys.argv[2])"
    )
    for lines in (8, 21):
        process = Command([tmp_path / "x.yaml", tmp_path / "run"], script=script)
        kill_after_lines(process, tmp_path / "run" / "evaluations.jsonl", lines)
    search(config, tmp_path / "run")
    assert essence(tmp_path / "run") == essence(undisturbed)


def test_a_finished_search_is_not_run_again_and_goes_on_with_a_larger_budget(
    config: Config, undisturbed: Path, tmp_path: Path
) -> None:
    shutil.copytree(undisturbed, tmp_path / "run")
    count = Count()
    search(config, tmp_path / "run", observer=count)
    assert not count.evaluated
    result = resume(tmp_path / "run", evaluations=24)
    assert result.data["evaluations"] == 24


def test_weights_pick_the_best_weighted_sum_of_scaled_objectives(undisturbed: Path) -> None:
    run = open_run(undisturbed)
    merges, goals = front_of(merges_of(run.ledger())), run.config.search.goals
    points = np.array([one.aims for one in merges])
    extent = np.where(np.ptp(points, axis=0) > 0, np.ptp(points, axis=0), 1.0)
    sums = ((points - points.min(axis=0)) / extent) @ np.array([0.7, 0.3])
    found = picked("weights:north=0.7,south=0.3", merges, goals)
    assert sums[merges.index(found)] == pytest.approx(sums.max())


def test_an_algorithm_for_one_objective_is_refused_with_what_can_be_done(
    tmp_path: Path, tiny_llama: dict[str, Path], tasks: Path
) -> None:
    config = write_experiment(
        tmp_path / "x.yaml", tiny_llama, tasks, algorithm="cma", objectives={"north": "north", "south": "south"}
    )
    with pytest.raises(ConfigError) as error:
        search(config, tmp_path / "run", where="x.yaml")
    assert str(error.value).startswith(
        "x.yaml: search.algorithm: cma takes one objective, and search.objectives has 2: north, south; use an "
        "algorithm for several ("
    )
    assert "around" in str(error.value)
    assert str(error.value).endswith("or give each objective a weight, so that their weighted sum is searched")
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize(
    ("objectives", "words"),
    [
        (
            {"north": "nort", "south": "south"},
            r"x.yaml: search.objectives.north.tasks: unknown task of the benchmark 'nort'. Did you mean 'north'\?",
        ),
        (
            {"north": "north", "short": {"length": "all"}},
            "x.yaml: search.objectives.short.length: the benchmark has no answers of generated text",
        ),
        (
            {"north": "north", "short": {"length": ["north", "text"]}},
            "x.yaml: search.objectives.short.length: north has no answers of generated text",
        ),
    ],
)
def test_what_the_benchmark_cannot_measure_is_refused_before_anything_starts(
    tmp_path: Path, tiny_llama: dict[str, Path], tasks: Path, objectives: dict[str, object], words: str
) -> None:
    of = ("north", "text") if "text" in str(objectives) else ("north", "south")
    config = write_experiment(tmp_path / "x.yaml", tiny_llama, tasks, of=of, objectives=objectives)
    for attempt in (lambda: search(config, tmp_path / "run", where="x.yaml"), lambda: check(config, where="x.yaml")):
        with pytest.raises(ConfigError, match=words):
            attempt()
    assert not (tmp_path / "run" / "run.json").exists()
