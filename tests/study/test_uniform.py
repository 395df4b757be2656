"""Uniform merges: which are tried, which is the control, and how runs from before either rule go on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evomerge.config.config import Config
from evomerge.files.atomic import read_json, write_json
from evomerge.run.directory import Run, open_run
from evomerge.run.ledger import Ledger
from evomerge.space.base import Genome
from evomerge.space.coefficients import CoefficientSpace
from evomerge.study.search import resume, search
from evomerge.testing.runs import essence
from helpers.commands import run
from helpers.search import Interrupt, write_clustered_task, write_config

pytestmark = pytest.mark.slow


def uniform_scores(run: Run, split: str) -> dict[int, float]:
    """Fitness of the uniform merges that have been scored on a split."""
    ledger = run.ledger()
    found = {trial.number: ledger.evaluation(trial.number, split) for trial in ledger.trials()}
    return {
        number: evaluation.fitness
        for number, evaluation in found.items()
        if evaluation is not None and evaluation.fitness is not None and ledger.trial(number).kind == "uniform"
    }


def equal_weights(space: CoefficientSpace, count: int) -> list[Genome]:
    """A scan of equal weights alone."""
    low, high = (np.array([getattr(item, name) for item in space.dimensions]) for name in ("low", "high"))
    return [space.default(), *(low + part * (high - low) for part in np.linspace(0.1, 0.3, count - 1))]


def recorded(directory: Path) -> list[dict[str, Any]]:
    return [dict(trial.parameters) for trial in open_run(directory).trials() if trial.kind == "uniform"]


def test_the_control_is_the_best_on_validation_of_the_uniform_merges_that_were_best_in_the_search(
    undisturbed: Path,
) -> None:
    run = open_run(undisturbed)
    result = run.result()
    assert result is not None
    by_search, validated = uniform_scores(run, "search"), uniform_scores(run, "validation")
    best = sorted(by_search, key=lambda number: (-by_search[number], number))[:2]
    assert set(best) <= set(validated)
    control = max(best, key=lambda number: (validated[number], by_search[number], -number))
    (tested,) = [model["trial"] for model in result["test"]["models"] if model["kind"] == "uniform"]
    assert tested == control
    assert set(uniform_scores(run, "test")) <= {control, result["winner"]["trial"]}
    assert {row["trial"] for row in result["shortlist"]} >= set(best)


@pytest.mark.parametrize("after", [1, 20])
def test_a_run_from_before_goes_on_with_the_uniform_merges_it_has_and_its_own_choice_of_one(
    tmp_path: Path, config: Config, after: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CoefficientSpace, "starting_points", equal_weights)
        with pytest.raises(KeyboardInterrupt):
            search(config, tmp_path / "run", observer=Interrupt(after))
    facts = read_json(tmp_path / "run" / "run.json")
    del facts["selection"]
    write_json(tmp_path / "run" / "run.json", facts)
    before = recorded(tmp_path / "run")
    resume(tmp_path / "run")
    assert recorded(tmp_path / "run") == before
    run = open_run(tmp_path / "run")
    result = run.result()
    assert result is not None
    by_search = uniform_scores(run, "search")
    assert len(by_search) == 4
    (control,) = [model["trial"] for model in result["test"]["models"] if model["kind"] == "uniform"]
    assert control == max(by_search, key=lambda number: (by_search[number], -number))


@pytest.mark.parametrize("rule", [2, 3])
def test_items_in_clusters_are_told_from_others_but_in_runs_that_began_without(
    tmp_path: Path, tiny_llama: dict[str, Path], rule: int
) -> None:
    file = write_config(tmp_path / "x.yaml", tiny_llama, write_clustered_task(tmp_path / "tasks"))
    settings = ["search={evaluations: 4, population: 4, scan: 3}", "benchmark.cluster=topic"]
    with pytest.raises(KeyboardInterrupt):
        search(Config.from_file(file, settings=settings), tmp_path / "run", observer=Interrupt(3))
    facts = read_json(tmp_path / "run" / "run.json")
    write_json(tmp_path / "run" / "run.json", facts | {"selection": rule})
    given: list[Any] = []

    def noted(trials: Any, items: Any, weights: Any, clusters: Any = None) -> Any:
        given.append(clusters)
        return trials

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evomerge.study.conclude.not_clearly_worse", noted)
        resume(tmp_path / "run")
    assert given
    for clusters in given:
        assert (clusters is None) == (rule == 2)
        assert clusters is None or len(set(clusters["tiny_choice"])) == 4


def test_a_driver_killed_while_it_records_the_uniform_merges_goes_on_as_if_undisturbed(
    tmp_path: Path, config: Config, undisturbed: Path
) -> None:
    add = Ledger.add

    def killed(ledger: Ledger, **trial: Any) -> Any:
        if len(ledger.trials()) == 5:
            raise KeyboardInterrupt
        return add(ledger, **trial)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "add", killed)
        with pytest.raises(KeyboardInterrupt):
            search(config, tmp_path / "run")
    assert len(recorded(tmp_path / "run")) == 2
    resume(tmp_path / "run")
    assert essence(tmp_path / "run") == essence(undisturbed)


def test_weights_spread_over_three_experts_find_a_better_uniform_merge_than_equal_ones_at_the_same_cost() -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "uniform.py"
    row = run(["--experts", "3", "--seeds", "60"], script=script).stdout.splitlines()[-1]
    (low,) = re.findall(r"\[([+-][0-9.]+),", row)
    assert float(low) > 0, row
