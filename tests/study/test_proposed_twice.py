"""A recipe that is proposed twice in a generation is asked once, and both are told the same when it is stopped."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from evomerge.algorithms.optuna_samplers import Random
from evomerge.config.config import Config
from evomerge.run.directory import open_run
from evomerge.run.ledger import Ledger
from evomerge.space.base import Genome
from evomerge.study.search import resume, search
from helpers.search import answered_blocks, changed

pytestmark = pytest.mark.slow

_FRESH = {"block": 2, "items": "fresh", "items_per_candidate": 6}


@pytest.mark.filterwarnings("error:Mean of empty slice", "error:invalid value encountered")
@pytest.mark.parametrize(
    "settings",
    [
        {"block": 4, "pruner": "median", "pruner_options": {"rivals": 3}},
        {"block": 2, "pruner": "standard_error", "pruner_options": {"errors": 0.5, "items": 4}},
        {"block": 4, "pruner": "median", "pruner_options": {"rivals": 3}, "estimator": "mean"},
        {**_FRESH, "pruner": "none"},
        {**_FRESH, "pruner": "standard_error", "pruner_options": {"errors": 0.5, "items": 2}},
    ],
    ids=["median", "standard_error", "estimated", "fresh", "fresh and stopped"],
)
def test_a_stopped_recipe_is_told_as_one_candidate(
    tmp_path: Path, config: Config, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[list[float]] = []
    ask = Random._ask

    def twice(self: Random) -> list[Genome]:
        first = ask(self)
        half = first[: len(first) // 2]
        return [*half, *half]

    def hear(self: Random, genomes: Sequence[Genome], fitness: NDArray[np.float64]) -> None:
        heard.append(fitness[:, 0].tolist())

    monkeypatch.setattr(Random, "_ask", twice)
    monkeypatch.setattr(Random, "_tell", hear)
    directory = tmp_path / "run"
    common = {"algorithm": "random", "evaluations": 24, "population": 12, "scan": 4, "shortlist": 2}
    search(changed(config, search={**common, **settings}), directory)
    trials = open_run(directory).trials()
    blocks = Counter(trial for trial, _ in answered_blocks(directory))
    stopped = 0
    for generation, fitness in enumerate(heard):
        values: dict[str, set[float]] = defaultdict(set)
        inside = [trial for trial in trials if trial.generation == generation]
        for trial, value in zip(inside, fitness, strict=True):
            values[json.dumps(trial.parameters)].add(value)
            stopped += trial.state == "pruned" and not blocks[trial.number]
        assert len(values) == 6
        assert {len(found) for found in values.values()} == {1}
        assert np.isfinite(fitness).all()
    assert stopped, "none of those that were stopped had answered nothing itself"


def test_a_driver_killed_between_stopping_two_of_one_recipe_does_not_ask_the_second(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, prune = Random._ask, Ledger.prune
    monkeypatch.setattr(Random, "_ask", lambda self: [*(half := ask(self)[:4]), *half])
    settings = {"algorithm": "random", "evaluations": 16, "population": 8, "scan": 4, "shortlist": 2}
    pruner = {"block": 4, "pruner": "median", "pruner_options": {"rivals": 3}}
    directory = tmp_path / "run"
    stopped: list[int] = []

    def killed(ledger: Ledger, trial: int, blocks: int = 0, score: float | None = None) -> None:
        if stopped:
            raise KeyboardInterrupt
        stopped.append(trial)
        prune(ledger, trial, blocks, score)

    monkeypatch.setattr(Ledger, "prune", killed)
    with pytest.raises(KeyboardInterrupt):
        search(changed(config, search={**settings, **pruner}), directory)
    monkeypatch.setattr(Ledger, "prune", prune)
    resume(directory)
    trials = open_run(directory).trials()
    first = trials[stopped[0]]
    second = next(trial for trial in trials if trial.number > first.number and trial.parameters == first.parameters)
    assert second.state == "pruned"
    assert second.number not in {trial for trial, _ in answered_blocks(directory)}
