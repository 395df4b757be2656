"""Merges that a Gaussian process proposes at the end of a search: what they answer, how they resume, what is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evomerge.benchmark import SPLITS
from evomerge.config.config import Config
from evomerge.errors import ConfigError
from evomerge.report.model_card import model_card
from evomerge.run.directory import open_run
from evomerge.run.trial import TrialKind, TrialState
from evomerge.study import surrogate
from evomerge.study.budget import spending
from evomerge.study.experiment import open_experiment
from evomerge.study.search import resume, search
from evomerge.testing.runs import essence
from helpers.executors import stopped
from helpers.search import changed

pytestmark = pytest.mark.slow

FRESH = {"block": 2, "items": "fresh", "items_per_candidate": 6}


@pytest.fixture(scope="module", params=["fixed", "fresh"])
def searched(request: pytest.FixtureRequest, config: Config) -> Config:
    settings = {"evaluations": 16, "scan": 3, "shortlist": 2, "surrogate": 2}
    return changed(config, search=settings | (FRESH if request.param == "fresh" else {}))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, searched: Config) -> Path:
    directory = tmp_path_factory.mktemp("surrogate") / "run"
    search(searched, directory)
    return directory


def test_it_proposes_merges_that_answer_everything_and_may_win(run: Path) -> None:
    trials = open_run(run).trials()
    own = [trial for trial in trials if trial.kind is TrialKind.SURROGATE]
    assert 1 <= len(own) <= 2
    assert own == trials[-len(own) :]
    for number, trial in enumerate(own, start=1):
        assert trial.name == f"surrogate {number} after 16 candidates"
        assert trial.state is TrialState.COMPLETE
        assert trial.generation is None
        assert open_run(run).ledger().evaluation(trial.number, "search").table is not None  # type: ignore[union-attr]
    # By the rule of all merges but the mean: the best on the search items are validated.
    merges = [trial for trial in trials if trial.parameters and trial.kind is not TrialKind.MEAN]
    assert all(trial.kind.is_ranked for trial in merges)
    ranked = sorted(merges, key=lambda trial: -(trial.fitness or 0.0))
    validated = {entry["trial"] for entry in open_run(run).result()["shortlist"]}  # type: ignore[index]
    assert ranked[0].number in validated


def test_it_learns_from_all_merges_of_the_space_that_have_a_score(
    run: Path, searched: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[bytes, tuple[float, float]]] = []

    def expected(dimensions: Any, genomes: Any, scores: Any, variances: Any) -> Any:
        told.append(
            {genome.tobytes(): (score, error) for genome, score, error in zip(genomes, scores, variances, strict=True)}
        )
        return 0.9 * genomes[-1] + 0.05

    monkeypatch.setattr(surrogate, "expected_best", expected)
    search(searched, tmp_path / "run")
    trials = open_run(tmp_path / "run").trials()
    merges = [trial for trial in trials if trial.parameters and trial.kind is not TrialKind.SURROGATE]
    assert len(told[0]) == len({tuple(trial.parameters.values()) for trial in merges})
    assert len(told[1]) == len(told[0]) + 1
    scored = {np.array([*trial.parameters.values()]).tobytes(): trial for trial in merges if trial.fitness is not None}
    for key, trial in scored.items():
        assert told[0][key][0] == trial.fitness
    # What has answered six of twelve items is half as well known.
    errors = {key in scored: error for key, (_, error) in told[0].items()}
    if searched.search.items == "fresh":
        assert errors[False] == pytest.approx(2 * errors[True])
    else:
        assert set(errors) == {True}


@pytest.mark.parametrize("left", [1, 2, 3])
def test_an_interrupted_search_ends_as_one_that_was_not(
    tmp_path: Path, searched: Config, run: Path, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = sum(1 for trial in open_run(run).trials() if trial.kind is not TrialKind.SURROGATE)
    with stopped(after=outcomes - 3 + left):
        search(searched, tmp_path / "run")
    resume(tmp_path / "run")
    assert essence(tmp_path / "run") == essence(run)


def test_a_search_that_goes_on_is_told_of_again(tmp_path: Path, searched: Config) -> None:
    search(searched, tmp_path / "run")
    resume(tmp_path / "run", evaluations=24)
    names = [trial.name for trial in open_run(tmp_path / "run").trials() if trial.kind is TrialKind.SURROGATE]
    assert names[0] == "surrogate 1 after 16 candidates"
    assert names[-1].endswith("after 24 candidates")


def test_a_search_without_one_is_as_it_was(config: Config, searched: Config) -> None:
    assert "surrogate" not in config.identity()["search"]
    assert searched.identity()["search"]["surrogate"] == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"search": {"surrogate": 1, "constraints": {"x": {"tasks": "tiny_choice", "at_least": 0.1}}}},
            "constraints are",
        ),
        (
            {"search": {"surrogate": 1, "algorithm": "random"}, "space": {"kind": "layers", "granularity": "all"}},
            r"here: search\.surrogate: a Gaussian process is over continuous dimensions: .* is integer",
        ),
    ],
)
def test_what_it_can_not_speak_of_is_refused_before_anything_starts(
    config: Config, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        open_experiment(changed(config, **changes), where="here")


def test_what_it_costs_is_said_before(searched: Config) -> None:
    said = " ".join(
        spending(
            searched.search, {"search": 12, "validation": 12, "test": 24}, dict.fromkeys(("baselines", *SPLITS), 3)
        )
    )
    assert "beside the budget, up to 2 that a surrogate proposes at the end answer all search items" in said


def test_a_card_says_where_its_coefficients_come_from(run: Path) -> None:
    opened = open_run(run)
    own = next(trial for trial in opened.trials() if trial.kind is TrialKind.SURROGATE)
    card = model_card(opened, own, opened.recipe(own.number), name="own")
    assert "a Gaussian process, fitted to all scores of a search (cma), expected the most" in " ".join(card.split())
