"""A run in which nothing is right says so, with what the models answered; any other says nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.config.config import Config
from evomerge.report.nothing_right import nothing_right
from evomerge.run.directory import Run, create_run
from evomerge.run.evaluation import Evaluation
from evomerge.run.ledger import Ledger
from evomerge.score.table import ItemAnswers, ItemTable, TaskScores

METRIC = "exact_match,sum"


def run_with(folder: Path, *, higher_is_better: bool = True) -> Run:
    """A run whose only model answered two items with text."""
    folder.mkdir()
    config = Config.from_data({"models": {"base": "a/b", "experts": {"x": "a/c"}}, "benchmark": {"tasks": ["sums"]}})
    tasks = [{"task": "sums", "metric": METRIC, "higher_is_better": higher_is_better}]
    run = create_run(folder, config, {"identity": {}, "benchmark": {"tasks": tasks}})
    ledger = Ledger.open(folder, "journal", run.facts["study"])
    trial = ledger.add(kind="base", name="base", recipe_key="base")
    answers = ItemAnswers.of([[], []], [["three " * 20], ["8 apples"]], [3, 3])
    table = ItemTable(tasks={"sums": TaskScores(items=("a", "b"), values={METRIC: (0.0, 0.0)}, answers=answers)})
    ledger.record(
        Evaluation(trial=trial.number, split="search", score=0.0, table=table, aggregates={"sums": {METRIC: 0.0}})
    )
    return run


def test_all_zero_names_the_filter_some_answers_and_where_all_of_them_are(tmp_path: Path) -> None:
    said = nothing_right(run_with(tmp_path / "run"), [0.0, 0.0])
    assert said is not None
    for part in ("too hard", METRIC, "'8 apples'", f"evomerge items {tmp_path / 'run'} answers.parquet"):
        assert part in said
    assert "three " * 15 not in said, "long answers are cut"


@pytest.mark.parametrize("scores", [[], [0.0, 0.25], [-0.5, 0.0]])
def test_a_score_of_any_model_is_enough_to_say_nothing(tmp_path: Path, scores: list[float]) -> None:
    assert nothing_right(run_with(tmp_path / "run"), scores) is None


def test_zero_errors_are_not_taken_for_nothing_right(tmp_path: Path) -> None:
    assert nothing_right(run_with(tmp_path / "run", higher_is_better=False), [0.0]) is None
