"""Estimated scores in a search: what is told of stopped candidates, when it falls back, and resuming."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from evomerge.algorithms.cma_es import CMAES
from evomerge.config.config import Config
from evomerge.errors import ConfigError
from evomerge.run.directory import open_run
from evomerge.run.estimates import ESTIMATES, told_of
from evomerge.run.observer import SilentObserver
from evomerge.space.base import Genome
from evomerge.study.search import resume, search
from evomerge.testing.runs import essence
from helpers.search import Interrupt, changed

pytestmark = pytest.mark.slow

PRUNING = {"block": 4, "pruner": "median", "pruner_options": {"rivals": 3}, "step_size": 1.0, "evaluations": 16}


class Hear(SilentObserver):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


def told(directory: Path) -> list[dict[str, Any]]:
    return [dict(line) for line in told_of(directory, open_run(directory).facts["study"])]


@pytest.fixture(scope="module")
def estimating(config: Config) -> Config:
    return changed(
        config, search={**PRUNING, "evaluations": 40, "estimator": "p_irt", "estimator_options": {"models": 22}}
    )


@pytest.fixture(scope="module")
def estimated(tmp_path_factory: pytest.TempPathFactory, estimating: Config) -> tuple[Path, list[str]]:
    directory, hear = tmp_path_factory.mktemp("estimated") / "run", Hear()
    search(estimating, directory, observer=hear)
    return directory, hear.messages


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory, estimating: Config) -> Path:
    """Interrupted in the second generation, in the third and in the fourth. Don't write into it."""
    directory = tmp_path_factory.mktemp("unfinished") / "run"
    for after in (16, 11, 11):
        with pytest.raises(KeyboardInterrupt):
            search(estimating, directory, observer=Interrupt(after))
    return directory


def test_the_plain_mean_is_that_of_the_items_answered_and_no_better_than_the_best(
    tmp_path: Path, config: Config
) -> None:
    directory = tmp_path / "run"
    search(changed(config, search={**PRUNING, "estimator": "mean"}), directory)
    found, trials = told(directory), open_run(directory).trials()
    assert found
    assert {one["estimator"] for one in found} == {"mean"}
    answered = [json.loads(line)["trial"] for line in (directory / "parts.jsonl").read_text().splitlines()]
    for one in found:
        best = max(t.fitness for t in trials if t.generation == one["generation"] and t.fitness is not None)
        for number, value, error in zip(one["trials"], one["told"], one["errors"], strict=True):
            assert trials[number].state == "pruned"
            blocks = answered.count(number)
            right = value * 4 * blocks
            assert value == best or right == pytest.approx(round(right), abs=1e-9)
            assert 0 < error < 0.5


def test_an_estimator_without_enough_models_is_replaced_and_the_run_says_so(
    estimated: tuple[Path, list[str]],
) -> None:
    directory, messages = estimated
    found = told(directory)
    assert found[0]["estimator"] == "difference"
    assert re.fullmatch(r"p_irt needs 22 models that answered every item, and has \d+", found[0]["reasons"]["p_irt"])
    assert messages[0].startswith("scores are estimated by difference instead of p_irt (p_irt: p_irt needs 22 models")
    names = [one["estimator"] for one in found]
    changes = sum(one != other for one, other in pairwise(names))
    assert sum(message.startswith("scores are estimated by") for message in messages) == 1 + changes
    for one in found:
        trusts = one["calibration"] is not None and one["calibration"]["doubt"] is None
        assert (one["estimator"] == "p_irt") == trusts


def test_the_algorithm_is_told_the_estimates_and_without_an_estimator_none_are_made(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[NDArray[np.float64]] = []
    tell = CMAES.tell

    def hear(self: CMAES, genomes: Sequence[Genome], fitness: NDArray[np.float64], items: None) -> None:
        heard.append(fitness[:, 0])
        tell(self, genomes, fitness, items)

    monkeypatch.setattr(CMAES, "tell", hear)
    search(changed(config, search={**PRUNING, "estimator": "difference"}), tmp_path / "estimating")
    trials = open_run(tmp_path / "estimating").trials()
    estimates = told(tmp_path / "estimating")
    assert estimates
    for one in estimates:
        numbers = [trial.number for trial in trials if trial.generation == one["generation"]]
        fitness = dict(zip(numbers, heard[one["generation"]].tolist(), strict=True))
        assert [fitness[number] for number in one["trials"]] == one["told"]
    search(changed(config, search=PRUNING), tmp_path / "plain")
    assert "pruned" in {trial.state for trial in open_run(tmp_path / "plain").trials()}
    assert not (tmp_path / "plain" / ESTIMATES).exists()


def test_an_interrupted_search_is_told_the_same(
    tmp_path: Path, unfinished: Path, estimated: tuple[Path, list[str]]
) -> None:
    directory = Path(shutil.copytree(unfinished, tmp_path / "run"))
    resume(directory)
    assert essence(directory) == essence(estimated[0])
    assert told(directory) == told(estimated[0])


def test_a_damaged_file_of_estimates_is_written_anew(
    tmp_path: Path, unfinished: Path, estimated: tuple[Path, list[str]]
) -> None:
    directory = Path(shutil.copytree(unfinished, tmp_path / "run"))
    path = directory / ESTIMATES
    text = path.read_text()
    path.write_text(text.replace("difference", "different", 1))
    assert path.read_text() != text
    resume(directory)
    assert told(directory) == told(estimated[0])


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({**PRUNING, "estimator": "gpirt"}, "search.estimator: unknown estimator 'gpirt'. Did you mean 'gp_irt'"),
        ({**PRUNING, "estimator": "p_irt", "estimator_options": {"weight": 1}}, "estimator_options.weight: unknown"),
        ({"estimator": "p_irt"}, "set search.pruner and search.block"),
        ({**PRUNING, "estimator_options": {"models": 9}}, "set search.estimator, or leave them out"),
        (
            {"block": 2, "items": "fresh", "items_per_candidate": 6, "pruner": "standard_error", "estimator": "mean"},
            "use estimator: none, or items: fixed",
        ),
        ({**PRUNING, "estimator": "mean", "objectives": {"score": "tiny_choice"}}, "use pruner: none with them"),
    ],
)
def test_an_estimator_that_cannot_be_used_is_refused_before_anything_starts(
    tmp_path: Path, config: Config, keys: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words.replace("(", r"\(")):
        search(changed(config, search=keys), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_estimates_are_numbers_that_an_algorithm_can_be_told(estimated: tuple[Path, list[str]]) -> None:
    values = [value for one in told(estimated[0]) for value in (*one["told"], *one["errors"])]
    assert values
    assert np.isfinite(values).all()
