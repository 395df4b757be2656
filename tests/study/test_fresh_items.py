"""Generations that answer other items each: what is told, how they resume, and the elite that answers everything."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evomerge.config.config import Config
from evomerge.errors import ConfigError
from evomerge.run.directory import open_run
from evomerge.run.observer import SilentObserver
from evomerge.run.trial import TrialKind
from evomerge.study.rivalry import Rivalry
from evomerge.study.search import resume, search
from evomerge.study.session import Session
from evomerge.testing.runs import essence
from helpers.executors import Shuffled, executors, stopped
from helpers.search import answered_blocks, changed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["none", "standard_error"])
def fresh(request: pytest.FixtureRequest, config: Config) -> Config:
    settings = {"evaluations": 24, "scan": 2, "shortlist": 3, "block": 2, "items": "fresh", "items_per_candidate": 6}
    options = {} if request.param == "none" else {"errors": 0.5, "items": 2}
    return changed(config, search={**settings, "probe": 2, "pruner": request.param, "pruner_options": options})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, fresh: Config) -> Path:
    directory = tmp_path_factory.mktemp("fresh") / "run"
    search(fresh, directory)
    return directory


def lines(directory: Path) -> list[dict[str, Any]]:
    """What the run keeps of answers."""
    return [json.loads(line) for line in (directory / "parts.jsonl").read_text().splitlines()]


def test_candidates_answer_their_share_and_only_complete_ones_are_compared(run: Path, fresh: Config) -> None:
    opened = open_run(run)
    trials, result = opened.trials(), opened.result()
    blocks = Counter(trial for trial, _ in answered_blocks(run))
    candidates = [trial for trial in trials if trial.kind is TrialKind.CANDIDATE]
    assert {trial.state for trial in candidates} == {"pruned"}
    answered = {blocks[trial.number] for trial in candidates}
    assert max(answered) == 3
    assert (len(answered) > 1) == (fresh.search.pruner != "none")
    assert opened.status().pruned == sum(blocks[trial.number] < 3 for trial in candidates)
    elite = [trial for trial in trials if trial.kind is TrialKind.ELITE]
    assert len(elite) == fresh.search.shortlist
    # Nothing is decided between the blocks of a baseline, nor without a pruner between a candidate's.
    together = {line["trial"]: line.get("blocks", 1) for line in lines(run)}
    assert {together[trial.number] for trial in trials if trial.kind.is_baseline} == {6}
    assert {together[trial.number] for trial in candidates} == {3 if fresh.search.pruner == "none" else 1}
    assert {trial.state for trial in trials if trial.kind is not TrialKind.CANDIDATE} == {"complete"}
    assert {blocks[trial.number] for trial in elite} == {6}
    assert result is not None
    shortlist = {row["trial"] for row in result["shortlist"]}
    assert shortlist <= {item.trial for item in opened.ledger().evaluations()}
    # Probed after the second generation, and at the end.
    assert [trial.name for trial in trials if trial.kind is TrialKind.MEAN] == [
        "mean after 2 generations",
        "distribution mean",
    ]


def test_answers_to_blocks_in_one_go_are_those_of_each_item_asked_without_blocks(run: Path, undisturbed: Path) -> None:
    ours, theirs = open_run(run).ledger(), open_run(undisturbed).ledger()
    for trial in ours.trials()[:3]:
        assert trial.kind.is_checkpoint
        found, expected = ours.evaluation(trial.number, "search"), theirs.evaluation(trial.number, "search")
        assert found is not None
        assert expected is not None
        assert found.table is not None
        assert expected.table is not None
        for task, scores in expected.table.tasks.items():
            assert found.table.tasks[task].items == scores.items
            assert found.table.tasks[task].values == scores.values


def test_the_elite_goes_on_from_the_answers_that_there_are(run: Path) -> None:
    answers: dict[int, list[object]] = {}
    for line in lines(run):
        blocks = line["answers"] if "blocks" in line else [line["answers"]]
        answers.setdefault(line["trial"], []).extend(blocks)
    trials = open_run(run).trials()
    keys = {trial.number: tuple(trial.parameters.items()) for trial in trials}
    for elite in [trial for trial in trials if trial.kind is TrialKind.ELITE]:
        (origin,) = [
            trial.number
            for trial in trials
            if trial.kind is TrialKind.CANDIDATE and keys[trial.number] == keys[elite.number]
        ]
        assert answers[elite.number][: len(answers[origin])] == answers[origin]


def test_what_is_told_is_the_mean_over_the_items_answered_made_comparable_by_the_uniform_merges(
    run: Path, fresh: Config
) -> None:
    with Session(fresh, run, SilentObserver(), "here") as finished:
        assert finished.finished is not None
    with Session(changed(fresh, search={"evaluations": 25}), run, SilentObserver(), "here") as session:
        rivalry, ledger = Rivalry(session), session.ledger
        told = 0
        for trial in ledger.trials():
            if not (trial.kind is TrialKind.CANDIDATE and rivalry.has_answered_its_share(trial)):
                continue
            told += 1
            order = session.schedule.order(trial.generation)[:3]
            items = sorted(item for block in order for item in session.blocks("search")[block])
            gaps = []
            for uniform in ledger.trials():
                if uniform.kind is TrialKind.UNIFORM:
                    table = ledger.evaluation(uniform.number, "search").table  # type: ignore[union-attr]
                    accuracy = np.array(table.tasks["tiny_choice"].values["acc,none"])  # type: ignore[union-attr]
                    gaps.append(accuracy.mean() - accuracy[items].mean())
            mean = rivalry.scores(trial.number, 3).mean()
            # Tie-breaks are less than half of what an item of six is worth.
            assert 0 <= rivalry.estimated(trial) - mean - np.mean(gaps) < 1 / 12
        assert told


@pytest.mark.parametrize("after", [12, 31])
def test_an_interrupted_search_goes_on_with_the_same_items(
    tmp_path: Path, fresh: Config, run: Path, after: int
) -> None:
    with stopped(after=after):
        search(fresh, tmp_path / "run")
    resume(tmp_path / "run")
    assert essence(tmp_path / "run") == essence(run)
    assert sorted(answered_blocks(tmp_path / "run")) == sorted(answered_blocks(run))


def test_the_order_in_which_workers_answer_changes_nothing(tmp_path: Path, fresh: Config, run: Path) -> None:
    with executors(Shuffled):
        search(fresh, tmp_path / "run")
    assert essence(tmp_path / "run") == essence(run)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"items": "fresh"}, r"set search\.block"),
        ({"items": "fresh", "block": 2, "pruner": "median"}, "within a generation"),
        ({"items_per_candidate": 50}, r"set search\.items: fresh"),
        ({"items": "some"}, "fixed"),
        (
            {"items": "fresh", "block": 2, "constraints": {"x": {"tasks": "tiny_choice", "at_least": 0.1}}},
            "items: fixed",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused_with_the_remedy(
    config: Config, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        changed(config, search=settings)


def test_a_share_of_all_items_is_refused(tmp_path: Path, config: Config) -> None:
    wrong = changed(config, search={"items": "fresh", "block": 5, "items_per_candidate": 11})
    with pytest.raises(ConfigError, match="are all of the 12 search items; fresh items need fewer, such as 6"):
        search(wrong, tmp_path / "run")
