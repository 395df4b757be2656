"""Budgets of item evaluations: where a search ends, what counts, how it goes on."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from evomerge.cli.runs import Format, trials
from evomerge.cli.status import status
from evomerge.config.config import Config
from evomerge.config.execution import ExecutionConfig
from evomerge.errors import ConfigError, ResumeError
from evomerge.execute.settings import gpus_of
from evomerge.run.clock import Clock
from evomerge.run.directory import open_run
from evomerge.run.trial import TrialKind
from evomerge.study.answered import answered_by_trial
from evomerge.study.check import check
from evomerge.study.search import resume, search
from evomerge.testing.runs import essence
from helpers.executors import stopped
from helpers.search import Count, answered_blocks, changed

pytestmark = pytest.mark.slow

ITEMS = 12
"""Search items of the small experiment."""


def limited(config: Config, items: int, **settings: Any) -> Config:
    """The experiment with a budget of items alone."""
    data = changed(config, search=settings).model_dump(mode="json")
    del data["search"]["evaluations"]
    data["search"]["budget"] = {"items": items}
    return Config.from_data(data)


def spent_on_disk(directory: Path, block: int) -> int:
    """Items in the blocks that candidates answered, the last of which may be smaller."""
    candidates = {trial.number for trial in open_run(directory).trials() if trial.kind is TrialKind.CANDIDATE}
    blocks = Counter(trial for trial, _ in answered_blocks(directory) if trial in candidates)
    return sum(min(ITEMS, block * count) for count in blocks.values())


@pytest.fixture(scope="module")
def pruned(config: Config) -> Config:
    settings = {"scan": 2, "shortlist": 2, "block": 5, "pruner": "standard_error"}
    return limited(config, 210, **settings, pruner_options={"errors": 0.5, "items": 4})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, pruned: Config) -> Path:
    directory = tmp_path_factory.mktemp("budget") / "run"
    search(pruned, directory)
    return directory


def test_items_are_spent_and_never_exceeded(run: Path) -> None:
    spent, opened = spent_on_disk(run, 5), open_run(run)
    assert 210 - 8 * ITEMS < spent <= 210
    proposed = [trial for trial in opened.trials() if trial.kind is TrialKind.CANDIDATE]
    assert "pruned" in {trial.state for trial in proposed}
    # More than it would pay for if each answered everything.
    assert len(proposed) > 210 // ITEMS
    assert opened.progress()["items"] == spent == sum(answered_by_trial(run=opened).values())
    found = opened.status()
    assert (found.items, found.items_budget, found.budget) == (spent, 210, len(proposed))
    assert opened.has_ended()
    result = opened.result()
    assert result is not None
    assert result["budget"]["budget"]["items"] == 210


def test_status_and_trials_tell_what_was_spent(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spent, answered = spent_on_disk(run, 5), answered_by_trial(open_run(run))
    status(run)
    shown = " ".join(capsys.readouterr().out.split())
    assert f"items {spent} of 210 item evaluations" in shown
    assert f"{len(answered)} of {len(answered)} done" in shown
    trials(run, format_=Format.json)
    listed = json.loads(capsys.readouterr().out)
    assert {trial["number"]: trial["items"] for trial in listed if "items" in trial} == answered
    trials(run)
    assert " items " in capsys.readouterr().out


def test_an_interrupted_search_ends_at_the_same_trial(tmp_path: Path, pruned: Config, run: Path) -> None:
    with stopped(after=16):
        search(pruned, tmp_path / "run")
    assert len((tmp_path / "run" / "parts.jsonl").read_text().splitlines()) == 16
    resume(tmp_path / "run")
    assert essence(tmp_path / "run") == essence(run)
    assert sorted(answered_blocks(tmp_path / "run")) == sorted(answered_blocks(run))
    count = Count()
    resume(tmp_path / "run", observer=count)
    assert count.evaluated == []


def test_a_larger_budget_goes_on_where_the_smaller_one_ended(tmp_path: Path, config: Config) -> None:
    settings = {"scan": 2, "shortlist": 2}
    search(limited(config, 8 * ITEMS, **settings), tmp_path / "run")
    with pytest.raises(ResumeError, match="--items 95 is below the run's 96"):
        resume(tmp_path / "run", items=95)
    with pytest.raises(ResumeError, match="use --items"):
        resume(tmp_path / "run", evaluations=100)
    resume(tmp_path / "run", items=16 * ITEMS + 5)
    search(limited(config, 16 * ITEMS + 5, **settings), tmp_path / "whole")
    candidates = [
        [trial.parameters for trial in open_run(tmp_path / name).trials() if trial.kind is TrialKind.CANDIDATE]
        for name in ("run", "whole")
    ]
    assert candidates[0] == candidates[1]
    assert len(candidates[0]) == 16
    assert open_run(tmp_path / "run").has_ended()


def test_whichever_limit_is_first_ends_the_search(tmp_path: Path, config: Config) -> None:
    both = changed(config, search={"scan": 2, "evaluations": 8, "budget": {"items": 1000}})
    search(both, tmp_path / "run")
    found = answered_by_trial(open_run(tmp_path / "run"))
    assert [*found.values()] == [ITEMS] * 8


def test_a_run_without_a_limit_of_items_gets_none(undisturbed: Path) -> None:
    with pytest.raises(ResumeError, match="use --evaluations"):
        resume(undisturbed, items=5000)


def test_limits_are_the_same_by_either_name_and_refused_if_they_differ(config: Config) -> None:
    data = config.model_dump(mode="json")
    del data["search"]["evaluations"]
    data["search"]["budget"] = {"candidates": 40, "hours": 2}
    found = Config.from_data(data).search
    assert (found.evaluations, found.hours, found.budget.candidates) == (40, 2.0, None)
    with pytest.raises(ConfigError, match="leave out one"):
        changed(config, search={"budget": {"candidates": 40}})
    for wrong, message in (
        ({"items": 0}, "at least 1"),
        ({"items": "many"}, "number"),
        ({"candidates": -1}, "at least"),
    ):
        with pytest.raises(ConfigError, match=message):
            changed(config, search={"budget": wrong})


def test_a_config_with_a_budget_is_read_back_as_it_was_and_is_the_same_experiment(pruned: Config) -> None:
    assert Config.from_yaml(pruned.to_yaml()) == pruned
    assert not pruned.search.is_limited
    plain = json.dumps(changed(pruned, search={"budget": {}, "evaluations": 3}).identity())
    assert plain == json.dumps(pruned.identity())
    assert "budget" not in plain


def test_what_cannot_be_spent_is_refused_before_anything_is_written(tmp_path: Path, config: Config) -> None:
    for small in (limited(config, 8 * ITEMS - 1), limited(config, 8 * ITEMS - 1, block=5, pruner="racing")):
        with pytest.raises(ConfigError, match=r"less than a generation may cost.*at least 96"):
            search(small, tmp_path / "run")
        with pytest.raises(ConfigError, match="at least 96"):
            check(small)
    on_gpus = changed(config, search={"budget": {"gpu_hours": 1}}, execution={"device": "cpu"})
    with pytest.raises(ConfigError, match=r"use search\.budget\.hours"):
        search(on_gpus, tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()


def test_check_says_what_is_spent_where(pruned: Config, config: Config) -> None:
    first, stopped, end = check(pruned).spending
    # The base, two experts and two uniform merges.
    assert f"{5 * ITEMS} by the base" in first
    assert "at most 210 by candidates (17 to 42 of them, 12 each at most)" in first
    assert "up to 2 of the best" in stopped
    assert end == "the search ends after 210 item evaluations by candidates"
    assert check(config).spending[-1] == "the search ends after 28 candidates"


def test_hours_of_gpus_are_hours_of_driving_times_the_gpus_in_use(tmp_path: Path) -> None:
    shared = ExecutionConfig(backend="ray", device="cuda", gpus_per_worker=0.5)
    assert gpus_of(shared, 6) == 3.0
    assert gpus_of(ExecutionConfig(backend="inline", device="cuda"), 1) == 1.0
    assert gpus_of(ExecutionConfig(backend="ray", device="cpu"), 6) == 0.0
    (tmp_path / "progress.json").write_text(json.dumps({"driving_seconds": 7200.0, "gpu_seconds": 3600.0}))
    clock = Clock(tmp_path)
    assert clock.gpu_hours == 1.0
    clock.gpus = 3.0
    driven = clock.hours - 2.0
    assert 1.0 + 3 * driven <= clock.gpu_hours <= 1.0 + 3 * (clock.hours - 2.0)
    clock.spent(8, 96)
    again = Clock(tmp_path)
    assert again.gpu_hours == pytest.approx(1.0, abs=1e-3)
    again.phase("search")
    assert json.loads((tmp_path / "progress.json").read_text())["items"] == 96
