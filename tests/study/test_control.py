"""Controls: random and uniform merges at the cost of a search, each a run of its own, compared on the same items."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from evomerge.cli import app
from evomerge.config.config import Config
from evomerge.errors import RunError
from evomerge.files.atomic import read_json
from evomerge.run.answers import PARTS
from evomerge.run.directory import Run, open_run
from evomerge.run.trial import TrialKind
from evomerge.study.control import candidates_worth, control
from evomerge.study.search import search
from evomerge.testing.runs import essence
from helpers.search import Count, Interrupt, changed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, config: Config) -> Path:
    directory = tmp_path_factory.mktemp("controlled") / "run"
    search(changed(config, search={"evaluations": 6, "scan": 2}), directory)
    return directory


def test_each_control_costs_what_the_search_did_and_is_compared_on_its_test_items(tmp_path: Path, ended: Path) -> None:
    directory = tmp_path / "run"
    shutil.copytree(ended, directory)
    before = essence(directory)
    stop = Interrupt(9)
    with pytest.raises(KeyboardInterrupt):
        control(directory, observer=lambda where: stop)
    found = {each.name: each for each in control(directory)}
    again = Count()
    assert control(directory, observer=lambda where: again) == [*found.values()]
    assert again.evaluated == []
    assert essence(directory) == before
    for name, kind in (("random", "candidate"), ("uniform", "uniform")):
        own = open_run(directory / "control" / name)
        count = sum(trial.kind == kind for trial in own.trials())
        assert found[name].merges == count
        assert count + sum(trial.kind == "candidate" for trial in own.trials()) * (name == "uniform") >= 6
        assert own.facts["items"] == open_run(directory).facts["items"]
        evaluation = own.ledger().evaluation(found[name].trial, "test")
        assert evaluation is not None
        assert evaluation.score == found[name].score
    result = open_run(directory).result()
    assert result is not None
    score = next(model["score"] for model in result["test"]["models"] if model["kind"] == "winner")
    for each in found.values():
        assert each.difference == pytest.approx(score - each.score)
        assert each.interval[0] <= each.difference <= each.interval[1]
        assert each.p <= each.p_holm <= 1
    written = {row["name"]: row for row in read_json(directory / "control.json")["controls"]}
    assert {name: row["difference"] for name, row in written.items()} == {
        name: each.difference for name, each in found.items()
    }
    shown = CliRunner().invoke(app, ["control", str(directory)])
    assert shown.exit_code == 0
    assert "best of a random search" in shown.output
    assert f"best of {found['uniform'].merges} uniform merges" in shown.output
    with pytest.raises(RunError, match=r"is itself a control, of .*run; give that run"):
        control(directory / "control" / "random")
    # Sentences are left whole in a pipe.
    table = shown.output.partition("The winner against")[2].partition("The winner is")[0]
    assert max(len(line.rstrip()) for line in table.splitlines()) <= 80


def test_a_search_that_is_extended_has_controls_of_its_new_cost(tmp_path: Path, ended: Path) -> None:
    directory = tmp_path / "run"
    shutil.copytree(ended, directory)
    before = {each.name: each for each in control(directory)}
    kept = essence(before["uniform"].directory)
    search(changed(open_run(directory).config, search={"evaluations": 8}), directory)
    shown = CliRunner().invoke(app, ["control", str(directory)]).output
    found = {each.name: each for each in control(directory)}
    (cost,) = {each.evaluations for each in found.values()}
    assert cost == candidates_worth(open_run(directory)) >= 8 > before["uniform"].evaluations
    assert found["random"].directory == before["random"].directory
    assert essence(before["uniform"].directory) == kept
    for name in ("random", "uniform-2"):
        own = open_run(directory / "control" / name)
        kinds = Counter(trial.kind for trial in own.trials())
        assert kinds[TrialKind.CANDIDATE] + (name != "random") * (kinds[TrialKind.UNIFORM] - 2) == cost
    # Each is shown as the search that it is: one that goes on, and one that begins.
    random, uniform = shown.partition(f"the uniform control, in {directory}")[::2]
    earlier = before["random"].evaluations
    assert f"searching: {cost} evaluations, {earlier} of them already done" in random
    assert f"{cost}/{cost} evaluated" in random
    assert "already done" not in uniform
    assert "best candidate" not in uniform.partition("searching")[0]


def test_a_search_whose_candidates_are_stopped_is_worth_fewer_whole_ones(
    ended: Path, undisturbed_in_blocks: Path
) -> None:
    # Before a generation has ended, the distribution's mean is the start, which is a baseline.
    assert candidates_worth(open_run(ended)) == 6
    assert candidates_worth(open_run(undisturbed_in_blocks)) == 28 + 1


def test_a_run_that_has_not_ended_has_no_control(tmp_path: Path, config: Config) -> None:
    with pytest.raises(KeyboardInterrupt):
        search(config, tmp_path / "run", observer=Interrupt(3))
    with pytest.raises(RunError, match="hasn't ended"):
        control(tmp_path / "run")


def answered(run: Run) -> set[tuple[str, int]]:
    """Every block of search items that was answered for a merge beyond the baselines."""
    trials = {trial.number: trial for trial in run.ledger().trials() if not trial.kind.is_baseline}
    lines = [json.loads(line) for line in (run.directory / PARTS).read_text().splitlines()]
    return {
        (trials[line["trial"]].recipe_key, line["block"] + place)
        for line in lines
        if line["split"] == "search" and line["trial"] in trials
        for place in range(line.get("blocks", 1))
    }


@pytest.mark.parametrize(
    "spending",
    [
        {"block": 4, "pruner": "standard_error", "estimator": "difference", "budget": {"items": 80}},
        {"block": 4, "items": "fresh", "items_per_candidate": 4, "evaluations": 8, "surrogate": 1},
    ],
    ids=["estimated", "fresh"],
)
def test_a_control_spends_nothing_as_its_search_did(tmp_path: Path, config: Config, spending: dict[str, Any]) -> None:
    data = {**config.model_dump(exclude_unset=True), "search": {"population": 4, "scan": 2, **spending}}
    search(Config.model_validate(data), tmp_path / "run")
    run = open_run(tmp_path / "run")
    worth = candidates_worth(run)
    # Three blocks are all items, and answers that the elite has from its candidate were given once.
    assert worth == math.ceil(len(answered(run)) / 3)
    control(tmp_path / "run")
    own = open_run(tmp_path / "run" / "control" / "random")
    assert sum(trial.kind is TrialKind.CANDIDATE for trial in own.trials()) == worth
    assert own.config.search.block is None
