"""A search for scores and short answers under a constraint, from its screens to the exported picks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from evomerge.cli import app
from evomerge.config.config import Config
from evomerge.errors import RunError
from evomerge.run.directory import open_run
from evomerge.run.ledger import Ledger
from evomerge.study.export import export
from evomerge.study.score_model import evaluate
from evomerge.study.search import search
from helpers.several import write_experiment, write_tasks

OBJECTIVES: dict[str, Any] = {"north": "north", "text": ["text"], "length": {"length": "all"}}
CONSTRAINTS = {"keeps-short": {"length": "text", "worse_by_at_most": 0.25, "than": "uniform"}}


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("around")]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("three") / "tasks", items=16)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_llama: dict[str, Path], tasks: Path) -> Path:
    folder = tmp_path_factory.mktemp("three")
    config = write_experiment(
        folder / "x.yaml",
        tiny_llama,
        tasks,
        of=("north", "south", "text"),
        objectives=OBJECTIVES,
        constraints=CONSTRAINTS,
    )
    search(config, folder / "run")
    return folder / "run"


def shown(*arguments: object) -> str:
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert found.exit_code == 0, found.output
    return found.output


def mean_tokens(ledger: Ledger, trial: int) -> float:
    """Of the prompts and answers of the task of text on the search items."""
    found = ledger.evaluation(trial, "search")
    assert found is not None
    assert found.table is not None
    answers = found.table.tasks["text"].answers
    assert answers is not None
    return sum(answers.tokens()) / len(answers.tokens())


def test_lengths_are_the_tokens_that_were_generated(run: Path) -> None:
    ledger = open_run(run).ledger()
    base = mean_tokens(ledger, 0)
    for trial in ledger.trials():
        found = ledger.evaluation(trial.number, "search")
        assert found is not None
        assert 1 <= found.measured["length"] <= 6
        # What is asked is the same for every model, so lengths differ as tokens in all do.
        shorter = ledger.evaluation(0, "search").measured["length"] - found.measured["length"]  # type: ignore[union-attr]
        assert shorter == pytest.approx(base - mean_tokens(ledger, trial.number))


def test_no_merge_on_the_front_breaks_the_constraint(run: Path) -> None:
    opened = open_run(run)
    result, ledger = opened.result(), opened.ledger()
    assert result is not None
    scores = {trial.number: trial.score or 0.0 for trial in ledger.trials() if trial.kind == "uniform"}
    limit = mean_tokens(ledger, max(scores, key=scores.__getitem__)) + 0.25
    broken = 0
    for trial in ledger.trials():
        found = ledger.evaluation(trial.number, "search")
        assert found is not None
        assert found.is_feasible == (mean_tokens(ledger, trial.number) <= limit + 1e-9)
        broken += not found.is_feasible
        if not found.is_feasible:
            assert trial.number not in {row["trial"] for row in result["front"]}
    assert broken


def test_an_exported_pick_scores_as_it_was_tested(run: Path, tmp_path: Path) -> None:
    opened = open_run(run)
    result = opened.result()
    assert result is not None
    for pick in ("best:north", "worst"):
        folder = export(run, tmp_path / pick.replace(":", "-"), pick=pick)
        number = result["picks"][pick]
        config = opened.config
        scored = evaluate(str(folder), config.benchmark, split="test", execution=config.execution)
        tested = opened.ledger().evaluation(number, "test")
        assert tested is not None
        assert {one.task: one.score for one in scored} == {
            task: tested.aggregates[task][metric] for task, metric in result["metrics"].items()
        }
        card = (folder / "README.md").read_text()
        assert f"(trial {number})" in card
        row = next(row for row in result["front"] if row["trial"] == number)
        values = " | ".join(f"{value:.4g}" for value in row["test"]["objectives"].values())
        assert f"| this merge | {values} |" in card
        assert "keeps-short" in card


def test_the_screens_show_the_front_in_80_columns(run: Path) -> None:
    result = open_run(run).result()
    assert result is not None
    front = {row["trial"] for row in result["front"]}
    for output in (shown("trials", run), shown("trials", run, "--front"), shown("status", run)):
        assert max(map(len, output.splitlines()[:12])) <= 80
        assert "length" in output
    lines = shown("trials", run, "--front").splitlines()
    assert {int(line.split()[0]) for line in lines if line.split() and line.split()[0].isdigit()} == front
    assert "hypervolume" in shown("status", run)
    assert "less is better: length" in " ".join(shown("status", run).split())
    data = json.loads(shown("status", run, "--json"))["several_objectives"]
    assert {row["trial"] for row in data["front"]} == front
    assert [step["candidates"] for step in data["hypervolume"]["steps"]] == [0, 6, 12, 18]
    rows = json.loads(shown("trials", run, "--format", "json"))
    assert all({*OBJECTIVES, *CONSTRAINTS} == {*row["measured"]} for row in rows)
    assert "measured.length" in shown("trials", run, "--format", "csv").splitlines()[0]


@pytest.mark.parametrize(
    ("pick", "words"),
    [
        ("kne", r"--pick: unknown pick 'kne'. Did you mean 'knee'\?"),
        ("best:nort", r"--pick: unknown objective 'nort'. Did you mean 'north'\?"),
        ("weights:north", r"--pick: weights: 'north': write NAME=NUMBER with a number from 0 on"),
        ("weights:north=0", "every weight is 0; give one of them a positive weight"),
        ("99", "no trial 99; it has trials 0 to"),
    ],
)
def test_a_pick_that_there_is_not_is_refused(run: Path, tmp_path: Path, pick: str, words: str) -> None:
    with pytest.raises(RunError, match=words):
        export(run, tmp_path / "out", pick=pick)
    with pytest.raises(RunError, match="--trial and --pick both say which merge"):
        export(run, tmp_path / "out", pick=pick, trial=1)


def test_recipes_of_picks_are_those_of_their_trials(run: Path) -> None:
    picks = open_run(run).result()["picks"]  # type: ignore[index]
    for pick in ("knee", "best:length", "weights:north=1"):
        recipe = shown("recipe", run, "--pick", pick)
        if pick in picks:
            assert recipe == shown("recipe", run, "--trial", picks[pick])
    assert shown("recipe", run) == shown("recipe", run, "--pick", "knee")


@pytest.mark.parametrize(
    ("changes", "feasible"), [({"at_least": 0.0}, True), ({"at_least": 1.5}, False), ({"at_most": 0.0}, None)]
)
def test_one_objective_under_a_constraint(
    tmp_path: Path, tiny_llama: dict[str, Path], tasks: Path, changes: dict[str, float], feasible: bool | None
) -> None:
    settings = {"algorithm": "cma", "constraints": {"south": {"tasks": "south", **changes}}, "evaluations": 12}
    config: Config = write_experiment(tmp_path / "x.yaml", tiny_llama, tasks, **settings)
    data = search(config, tmp_path / "run").data
    ledger = open_run(tmp_path / "run").ledger()
    winner = ledger.evaluation(data["winner"]["trial"], "search")
    assert winner is not None
    if feasible is not None:
        assert (data["feasible_merges"] > 0) == feasible
    assert data["requirements"]["search"]["feasible"] == winner.is_feasible
    if not data["feasible_merges"]:
        least = min(
            found.violation
            for trial in ledger.trials()
            if trial.kind.is_ranked and (found := ledger.evaluation(trial.number, "search")) is not None
        )
        validated = [ledger.evaluation(row["trial"], "search") for row in data["shortlist"]]
        assert min(found.violation for found in validated if found is not None) == least
        assert "No merge meets all of them on the search items" in " ".join(shown("status", tmp_path / "run").split())
    with pytest.raises(RunError, match="its search has one objective"):
        export(tmp_path / "run", tmp_path / "out", pick="knee")


def test_weighted_objectives_are_searched_as_their_sum(
    tmp_path: Path, tiny_llama: dict[str, Path], tasks: Path
) -> None:
    objectives = {"text": {"tasks": "text", "weight": 1}, "length": {"length": "text", "weight": 0.25}}
    config = write_experiment(
        tmp_path / "x.yaml", tiny_llama, tasks, of=("text",), algorithm="cma", evaluations=12, objectives=objectives
    )
    data = search(config, tmp_path / "run").data
    ledger = open_run(tmp_path / "run").ledger()
    for trial in ledger.trials():
        found = ledger.evaluation(trial.number, "search")
        assert found is not None
        sum_ = found.aggregates["text"]["exact_match,none"] - 0.25 * found.measured["length"]
        assert found.fitness == pytest.approx(sum_)
    validated = {row["trial"]: ledger.evaluation(row["trial"], "validation") for row in data["shortlist"]}
    best = max(found.fitness or -9.0 for found in validated.values() if found is not None)
    assert ledger.evaluation(data["winner"]["trial"], "validation").fitness == best  # type: ignore[union-attr]
