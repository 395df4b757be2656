"""The per-item table as Parquet, and other objectives from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from pyarrow import parquet
from typer.testing import CliRunner, Result

from evomerge.cli import app
from evomerge.config.config import Config
from evomerge.errors import ConfigError, RunError
from evomerge.report.items import export_items
from evomerge.report.rescore import rescore
from evomerge.run.directory import open_run
from evomerge.study.search import search
from helpers.search import write_config, write_task


def cli(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_llama: dict[str, Path]) -> Path:
    """A search over a multiple choice and a translation."""
    folder = tmp_path_factory.mktemp("items")
    tasks = write_task(folder / "tasks", items=12)
    choice = yaml.safe_load((tasks / "tiny_choice.yaml").read_text())
    choice["metric_list"].append({"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True})
    (tasks / "tiny_choice.yaml").write_text(yaml.safe_dump(choice))
    text = {
        **choice,
        "task": "tiny_text",
        "output_type": "generate_until",
        "doc_to_choice": None,
        "doc_to_text": "Say: {{question}}",
        "doc_to_target": "{{question}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6, "do_sample": False},
        "metric_list": [{"metric": "bleu"}, {"metric": "ter"}],
    }
    (tasks / "tiny_text.yaml").write_text(yaml.safe_dump({key: value for key, value in text.items() if value}))
    path = write_config(
        folder / "x.yaml",
        tiny_llama,
        tasks,
        benchmark={"tasks": ["tiny_choice", {"task": "tiny_text", "weight": 0.02}]},
        search={"evaluations": 8, "population": 4, "scan": 2, "shortlist": 1},
    )
    search(Config.from_file(path), folder / "run")
    return folder / "run"


@pytest.mark.slow
def test_every_item_of_every_trial_has_a_row(run: Path, tmp_path: Path) -> None:
    file, rows = export_items(run, tmp_path / "items.parquet")
    frame = pd.read_parquet(file)
    ledger = open_run(run).ledger()
    assert len(frame) == rows == sum(sum(item.table.sizes.values()) for item in ledger.evaluations() if item.table)
    assert set(frame["split"]) == {"search", "validation", "test"}
    choice = frame[(frame["split"] == "search") & (frame["task"] == "tiny_choice")]
    for number, mean in choice.groupby("trial")["acc,none"].mean().items():
        evaluation = ledger.evaluation(int(str(number)), "search")
        assert evaluation is not None
        assert mean == pytest.approx(evaluation.aggregates["tiny_choice"]["acc,none"])
    assert (choice["log_likelihoods"].map(len) == 3).all()
    assert choice["texts"].isna().all()
    assert choice["bleu,none"].isna().all()
    text = frame[frame["task"] == "tiny_text"]
    pair = json.loads(text["bleu,none"].iloc[0])
    assert pair[1] == text["texts"].iloc[0][0]
    assert text["acc,none"].isna().all()
    assert (frame["tokens"] > 5).all()
    first = frame[(frame["trial"] == 3) & (frame["split"] == "search")]
    evaluation = ledger.evaluation(3, "search")
    assert evaluation is not None
    assert first["seconds"].sum() == pytest.approx(evaluation.seconds["respond"], rel=1e-4)


@pytest.mark.slow
def test_log_likelihoods_choose_the_answers_that_were_scored(run: Path, tmp_path: Path) -> None:
    file, _ = export_items(run, tmp_path / "items.parquet", trial=0, split="search")
    frame = pd.read_parquet(file).query("task == 'tiny_choice'")
    assert set(frame["trial"]) == {0}
    ties = [max(row["log_likelihoods"]) for _, row in frame.iterrows()]
    assert all(value < 0 for value in ties)
    right = frame[frame["tie_break"] > 0.5]
    assert (right["acc,none"] == 1.0).all()


def test_the_command_exports_a_part(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "part.parquet"
    assert cli("items", run, out, "--trial", 1, "--split", "test").stdout == f"Wrote {out}: 24 rows\n"
    assert parquet.read_table(out).column("trial").unique().to_pylist() == [1]
    again = cli("items", run, out)
    assert again.exit_code == 1
    assert "exists already" in again.stderr


def test_what_is_not_recorded_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no trial 99"):
        export_items(run, tmp_path / "x.parquet", trial=99)
    ledger = open_run(run).ledger()
    untested = next(trial.number for trial in ledger.trials() if ledger.evaluation(trial.number, "test") is None)
    with pytest.raises(RunError, match="no test scores"):
        export_items(run, tmp_path / "x.parquet", trial=untested, split="test")
    with pytest.raises(RunError, match=r"x\.csv: items are written as Parquet"):
        export_items(run, tmp_path / "x.csv")
    assert list(tmp_path.iterdir()) == []


def test_the_runs_own_objective_gives_back_its_own_fitness(run: Path) -> None:
    found = rescore(run)
    assert [item.fitness for item in found] == sorted((item.fitness or 0.0 for item in found), reverse=True)
    for item in found:
        assert (item.score, item.fitness) == (item.trial.score, item.trial.fitness)


def test_other_weights_and_metrics_rank_trials_as_their_aggregates_do(run: Path) -> None:
    ledger = open_run(run).ledger()
    aggregates = {item.trial: item.aggregates for item in ledger.evaluations() if item.split == "search"}
    for item in rescore(run, weights={"tiny_choice": 0.0}, metrics={"tiny_text": "ter"}):
        assert item.score == item.fitness == -aggregates[item.trial.number]["tiny_text"]["ter,none"]
    for item in rescore(run, weights={"tiny_choice": 3, "tiny_text": 1}, metrics={"tiny_choice": "acc_norm"}):
        found = aggregates[item.trial.number]
        expected = 0.75 * found["tiny_choice"]["acc_norm,none"] + 0.25 * found["tiny_text"]["bleu,none"]
        assert item.score == pytest.approx(expected)


def test_the_command_lists_trials_by_another_objective(run: Path) -> None:
    trials = json.loads(
        cli("trials", run, "--weights", "tiny_text=0", "--metric", "tiny_choice=acc_norm", "--format", "json").stdout
    )
    scores = [trial["fitness"] for trial in trials]
    assert scores == sorted(scores, reverse=True)
    shown = cli("trials", run, "--weights", "tiny_text=1").stdout
    numbers = {int(line.split()[0]) for line in shown.splitlines() if line[:8].strip().isdigit()}
    assert numbers == {trial["number"] for trial in trials}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": {"tiny_chioce": 1.0}}, "tiny_choice"),
        ({"weights": {"tiny_choice": -1.0}}, "0 or more"),
        ({"weights": {"tiny_choice": 0.0, "tiny_text": 0.0}}, "positive weight"),
        ({"metrics": {"tiny_text": "acc"}}, "unknown metric 'acc'"),
    ],
)
def test_another_objective_that_the_run_does_not_hold_is_refused(
    run: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        rescore(run, **settings)
