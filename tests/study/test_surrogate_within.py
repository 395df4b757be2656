"""Candidates that a Gaussian process proposes within a search: which they are, what they are from, how they resume."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from evomerge.algorithms.surrogate import expected_best
from evomerge.benchmark import SPLITS
from evomerge.config.config import Config
from evomerge.errors import ConfigError
from evomerge.run.directory import open_run
from evomerge.run.trial import Trial, TrialKind
from evomerge.study import surrogate
from evomerge.study.budget import spending
from evomerge.study.experiment import open_experiment
from evomerge.study.search import resume, search
from evomerge.testing.runs import essence
from helpers.executors import stopped
from helpers.search import changed

FRESH = {"block": 2, "items": "fresh", "items_per_candidate": 6}
POPULATION, SCAN, GENERATIONS = 4, 3, 6

Told = list[tuple[dict[bytes, float], bytes]]


@pytest.fixture(scope="module", params=["fixed", "fresh"])
def searched(request: pytest.FixtureRequest, config: Config) -> Config:
    settings = {"evaluations": GENERATIONS * POPULATION, "population": POPULATION, "scan": SCAN, "shortlist": 2}
    return changed(config, search={**settings, "surrogate_every": 1, **(FRESH if request.param == "fresh" else {})})


@contextmanager
def listening() -> Iterator[Told]:
    """What the process is fitted to, score by genome, and what it expects the most of, each time that it is asked."""
    found: Told = []

    def expected(dimensions: Any, genomes: Any, scores: Any, variances: Any) -> NDArray[np.float64]:
        known = {genome.tobytes(): score for genome, score in zip(genomes, scores, strict=True)}
        best = expected_best(dimensions, genomes, scores, variances)
        assert best is not None
        found.append((known, best.tobytes()))
        return best

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(surrogate, "expected_best", expected)
        yield found


@pytest.fixture(scope="module")
def told_and_run(tmp_path_factory: pytest.TempPathFactory, searched: Config) -> tuple[Told, Path]:
    directory = tmp_path_factory.mktemp("within") / "run"
    with listening() as told:
        search(searched, directory)
    return told, directory


@pytest.fixture(scope="module")
def run(told_and_run: tuple[Told, Path]) -> Path:
    return told_and_run[1]


def candidates(directory: Path) -> list[Trial]:
    return [trial for trial in open_run(directory).ledger().trials() if trial.kind is TrialKind.CANDIDATE]


def genomes(trials: list[Trial]) -> list[bytes]:
    return [np.array([*trial.parameters.values()]).tobytes() for trial in trials]


@pytest.mark.slow
def test_the_last_of_each_generation_is_what_it_expects_most_of_and_the_algorithm_learns_from_it(
    searched: Config, tmp_path: Path, told_and_run: tuple[Told, Path]
) -> None:
    told, run = told_and_run
    search(changed(searched, search={"surrogate_every": 0}), tmp_path / "without")
    own, others = genomes(candidates(run)), genomes(candidates(tmp_path / "without"))
    assert len(own) == len(others) == GENERATIONS * POPULATION
    assert len(told) == GENERATIONS - 3
    first = 4 * POPULATION - 1
    assert own[:first] == others[:first]
    # It learns from the one that isn't its own, and so asks for others.
    assert not {*own[first:]} & {*others[first:]}
    uniform = [trial for trial in open_run(run).ledger().trials() if trial.kind is TrialKind.UNIFORM]
    for generation, (known, best) in enumerate(told, start=3):
        assert {*known} == {*own[: generation * POPULATION], *genomes(uniform)}
        assert own[(generation + 1) * POPULATION - 1] == best
    fitness = {trial.number: trial.fitness for trial in open_run(run).trials()}
    scored = {key: fitness[trial.number] for trial, key in zip(uniform, genomes(uniform), strict=True)}
    assert scored.items() <= told[-1][0].items()


@pytest.mark.slow
def test_it_has_its_turn_in_every_second_generation(searched: Config, tmp_path: Path) -> None:
    with listening() as told:
        search(changed(searched, search={"surrogate_every": 2}), tmp_path / "run")
    assert [len(known) for known, _ in told] == [SCAN + 4 * POPULATION]


@pytest.mark.slow
@pytest.mark.parametrize("after", [9, 17, 22, 25])
def test_an_interrupted_search_ends_as_one_that_was_not(
    searched: Config, run: Path, tmp_path: Path, after: int
) -> None:
    with stopped(after=after):
        search(searched, tmp_path / "run")
    resume(tmp_path / "run")
    assert essence(tmp_path / "run") == essence(run)


@pytest.mark.slow
def test_what_is_on_record_is_taken_as_it_is(
    searched: Config, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another processor may expect the most of another merge."""
    shutil.copytree(run, tmp_path / "run")
    before = genomes(candidates(tmp_path / "run"))

    def elsewhere(dimensions: Any, *_: Any) -> NDArray[np.float64]:
        return np.array([item.low for item in dimensions])

    monkeypatch.setattr(surrogate, "expected_best", elsewhere)
    resume(tmp_path / "run", evaluations=(GENERATIONS + 1) * POPULATION)
    after = genomes(candidates(tmp_path / "run"))
    assert after[: len(before)] == before
    assert after[-1] == elsewhere(open_experiment(searched).space.dimensions).tobytes()


@pytest.mark.slow
def test_a_search_that_is_extended_goes_on_as_one_with_that_budget(searched: Config, run: Path, tmp_path: Path) -> None:
    cut = 4 * POPULATION + 2
    search(changed(searched, search={"evaluations": cut}), tmp_path / "extended")
    resume(tmp_path / "extended", evaluations=GENERATIONS * POPULATION)
    assert genomes(candidates(tmp_path / "extended")) == genomes(candidates(run))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "asynchronous"}, "surrogate_every counts generations, and mode: asynchronous has none"),
        ({"algorithm": "tpe"}, r"here: search\.surrogate_every: tpe learns from its own candidates alone; .* \(cma\)"),
        ({"constraints": {"x": {"tasks": "tiny_choice", "at_least": 0.1}}}, "leave out surrogate and surrogate_every"),
        ({"surrogate_every": -1}, "surrogate_every"),
    ],
)
def test_what_it_can_not_guide_is_refused_before_anything_starts(
    config: Config, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        open_experiment(changed(config, search={"surrogate_every": 1, **settings}), where="here")


@pytest.mark.parametrize(("every", "turns"), [(1, "each generation has"), (4, "one in 4 generations has")])
def test_what_it_proposes_is_said_before(config: Config, every: int, turns: str) -> None:
    settings = changed(config, search={"surrogate_every": every}).search
    found = spending(settings, {"search": 12, "validation": 12, "test": 24}, dict.fromkeys(("baselines", *SPLITS), 3))
    assert any(f"{turns} one candidate that a surrogate proposes" in sentence for sentence in found)


def test_a_search_without_one_is_as_it_was(config: Config) -> None:
    assert "surrogate_every" not in config.identity()["search"]
    assert changed(config, search={"surrogate_every": 2}).identity()["search"]["surrogate_every"] == 2
