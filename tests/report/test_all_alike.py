"""A run in which nothing or everything is right says so, with what the models answered; any other says nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.config.config import Config
from evomerge.report.all_alike import all_alike
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
    said = all_alike(run_with(tmp_path / "run"), [0.0, 0.0])
    assert said is not None
    for part in (
        "scores 0 on the search items",
        "too hard",
        METRIC,
        "'8 apples'",
        f"evomerge items {tmp_path / 'run'} answers.parquet",
    ):
        assert part in said
    assert "three " * 15 not in said, "long answers are cut"


def test_all_ones_ask_for_harder_items_and_a_look_at_the_filter(tmp_path: Path) -> None:
    said = all_alike(run_with(tmp_path / "run"), [1.0, 1.0, 1.0])
    assert said is not None
    for part in ("Every model scores 1", "harder", METRIC, "'8 apples'"):
        assert part in said


@pytest.mark.parametrize("scores", [[], [0.0, 0.25], [-0.5, 0.0], [1.0, 0.75], [0.5, 0.5]])
def test_a_score_of_any_model_is_enough_to_say_nothing(tmp_path: Path, scores: list[float]) -> None:
    assert all_alike(run_with(tmp_path / "run"), scores) is None


def test_zero_errors_are_not_taken_for_all_alike(tmp_path: Path) -> None:
    assert all_alike(run_with(tmp_path / "run", higher_is_better=False), [0.0]) is None
