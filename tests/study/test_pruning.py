"""Candidates that a pruner stops after a block: states, resuming, and what the search makes of them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest

from evomerge.config.config import Config
from evomerge.errors import ConfigError
from evomerge.pruners.median import MedianStopping
from evomerge.run.directory import open_run
from evomerge.run.ledger import JOURNAL
from evomerge.score.objective import Objective
from evomerge.score.table import ItemTable, TaskScores
from evomerge.study.search import resume, search
from evomerge.testing.runs import essence
from helpers.executors import Shuffled, executors
from helpers.search import Count, Interrupt, changed
from helpers.search import answered_blocks as answered

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pruning(config: Config) -> Config:
    return changed(config, search={"block": 4, "pruner": "median", "pruner_options": {"rivals": 3}})


@pytest.fixture(scope="module")
def pruned_run(tmp_path_factory: pytest.TempPathFactory, pruning: Config) -> Path:
    directory = tmp_path_factory.mktemp("pruned") / "run"
    search(pruning, directory)
    return directory


def test_pruned_trials_are_a_state_of_their_own_and_have_answered_less(pruned_run: Path) -> None:
    run = open_run(pruned_run)
    trials, status, result = run.trials(), run.status(), run.result()
    pruned = {trial.number for trial in trials if trial.state == "pruned"}
    assert pruned
    assert {trial.kind for trial in trials if trial.number in pruned} == {"candidate"}
    assert {trial.state for trial in trials} == {"pruned", "complete"}
    assert (status.pruned, status.finished, status.running) == (len(pruned), 28, 0)
    blocks = {number: sum(trial == number for trial, _ in answered(pruned_run)) for number in range(len(trials))}
    whole = {trial.number for trial in trials if trial.parameters} - pruned
    assert {blocks[number] for number in pruned} <= {1, 2}
    # A copy of an earlier recipe takes over its result and answers nothing itself.
    assert {blocks[number] for number in whole} <= {0, 3}
    assert result is not None
    assert not pruned & {row["trial"] for row in result["shortlist"]}
    assert not pruned & {item.trial for item in run.ledger().evaluations()}


def test_optuna_sees_them_as_pruned(pruned_run: Path) -> None:
    backend = optuna.storages.journal.JournalFileBackend(str(pruned_run / JOURNAL))
    study = optuna.load_study(
        study_name=open_run(pruned_run).facts["study"], storage=optuna.storages.JournalStorage(backend)
    )
    states = {trial.number: trial.state.name.lower() for trial in study.trials}
    assert states == {trial.number: trial.state for trial in open_run(pruned_run).trials()}


@pytest.mark.parametrize("after", [9, 17, 20, 30])
def test_an_interrupted_search_prunes_the_same_trials_and_asks_no_block_twice(
    tmp_path: Path, pruning: Config, pruned_run: Path, after: int
) -> None:
    directory = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        search(pruning, directory, observer=Interrupt(after))
    resume(directory)
    assert essence(directory) == essence(pruned_run)
    assert sorted(answered(directory)) == sorted(answered(pruned_run))


def test_a_driver_killed_between_a_block_and_its_decision_decides_the_same(
    tmp_path: Path, pruning: Config, pruned_run: Path
) -> None:
    """The study as it was before any trial was pruned, with the block's answers already on disk."""
    directory = tmp_path / "run"
    first = next(trial.number for trial in open_run(pruned_run).trials() if trial.state == "pruned")
    with pytest.raises(KeyboardInterrupt):
        search(pruning, directory, observer=Interrupt(first + 1))
    lines = (directory / JOURNAL).read_text().splitlines(keepends=True)
    assert json.loads(lines[-1])["trial_id"] == first
    (directory / JOURNAL).write_text("".join(lines[:-1]))
    assert open_run(directory).trials()[first].state == "running"
    resume(directory)
    assert essence(directory) == essence(pruned_run)
    assert sorted(answered(directory)) == sorted(answered(pruned_run))


def test_a_finished_run_is_found_finished(pruning: Config, pruned_run: Path) -> None:
    count = Count()
    search(pruning, pruned_run, observer=count)
    assert count.evaluated == []


def test_the_order_in_which_workers_answer_changes_no_decision(
    tmp_path: Path, pruning: Config, pruned_run: Path
) -> None:
    with executors(Shuffled):
        search(pruning, tmp_path / "run")
    assert essence(tmp_path / "run") == essence(pruned_run)


def test_rivals_are_the_generation_before_and_the_uniform_merges_for_the_first(
    tmp_path: Path, pruning: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(MedianStopping, "goes_on", lambda self, candidate, rivals: seen.append(len(rivals)) or True)
    search(pruning, tmp_path / "run")
    blocks = Counter(trial for trial, _ in answered(tmp_path / "run"))
    candidates = [trial for trial in open_run(tmp_path / "run").trials() if trial.number in blocks]
    before = Counter(-1 if trial.kind == "uniform" else trial.generation for trial in candidates)
    expected = [before[trial.generation - 1] for trial in candidates if trial.generation is not None]
    assert len({*before}) > 3
    # Asked after each block but the last.
    assert Counter(seen) == Counter(expected * (max(blocks.values()) - 1))


def test_a_pruner_without_blocks_or_with_a_wrong_name_is_refused(tmp_path: Path, config: Config) -> None:
    with pytest.raises(ConfigError, match=r"set search\.block"):
        changed(config, search={"pruner": "median"})
    with pytest.raises(ConfigError, match=r"search\.pruner: unknown pruner 'medain'"):
        search(changed(config, search={"pruner": "medain", "block": 4}), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"search\.pruner_options\.itmes"):
        search(
            changed(config, search={"pruner": "median", "block": 4, "pruner_options": {"itmes": 2}}), tmp_path / "run"
        )


def test_item_scores_average_to_the_weighted_score_of_the_items_seen() -> None:
    def scores(*values: float) -> TaskScores:
        return TaskScores(items=tuple(map(str, range(len(values)))), values={"m": values})

    objective = Objective(
        metrics={"a": "m", "b": "m"}, weights={"a": 3.0, "b": 1.0}, higher_is_better={"a": True, "b": False}
    )
    table = ItemTable(tasks={"a": scores(1.0, 0.0, 1.0, 1.0), "b": scores(2.0, 4.0)})
    found = objective.item_scores(table, {"a": 8, "b": 3})
    assert found.mean() == pytest.approx(0.75 * 0.75 - 0.25 * 3.0)
    assert np.allclose(objective.item_scores(replace(table, tasks={"b": table.tasks["b"]}), {"a": 8, "b": 3}), [-2, -4])
