"""A run directory with a few trials, made without a search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from evomerge.cli import app
from evomerge.config.config import Config
from evomerge.run.directory import create_run
from evomerge.run.evaluation import Evaluation
from evomerge.run.ledger import Ledger
from evomerge.space.base import Dimension

CONFIG = """
models: {base: some/base, experts: {maths: some/maths, language: some/language}}
benchmark: {tasks: [arithmetic]}
search: {evaluations: 8, scan: 1}
"""


class Cli:
    """Runs commands in this process, as a pipe would see them."""

    def __call__(self, *arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def cli() -> Cli:
    return Cli()


def model(name: str, kind: str, trial: int, score: float) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "trial": trial,
        "score": score,
        "interval": [score - 0.1, score + 0.1],
        "items": 200,
    }


def comparison(name: str, difference: float, p: float) -> dict[str, Any]:
    interval = [difference - 0.05, difference + 0.05]
    return {"winner_vs": name, "difference": difference, "interval": interval, "p": p, "p_holm": min(1.0, 2 * p)}


@pytest.fixture
def result() -> dict[str, Any]:
    """A result.json in which the winner beats the best expert and not the best uniform merge."""
    split = {
        "models": [
            model("base", "base", 0, 0.1),
            model("maths", "expert", 1, 0.2),
            model("language", "expert", 2, 0.3),
            model("uniform", "uniform", 3, 0.5),
            model("winner", "winner", 5, 0.52),
        ],
        "comparisons": [
            comparison("base", 0.42, 1e-12),
            comparison("maths", 0.32, 1e-9),
            comparison("language", 0.22, 0.001),
            comparison("uniform", 0.02, 0.3),
        ],
    }
    return {
        "winner": {"trial": 5, "kind": "candidate", "recipe": {}},
        "metrics": {"arithmetic": "exact_match,none"},
        "evaluations": 8,
        "budget": {"evaluations": 8, "hours": None, "shortlist": 5},
        "hours": 0.1,
        "shortlist": [],
        **{name: json.loads(json.dumps(split)) for name in ("search", "validation", "test")},
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Baselines, a complete, a failed and a running candidate."""
    directory = tmp_path / "run"
    directory.mkdir()
    made = create_run(directory, Config.from_yaml(CONFIG), {"identity": {}})
    ledger = Ledger.open(directory, "journal", made.facts["study"])
    weight = Dimension(name="weight[maths]", low=0.0, high=1.0, initial=0.5)
    seconds = {"materialise": 0.25, "respond": 1.5, "bookkeeping": 0.01}

    def add(kind: str, name: str, value: float | None = None, generation: int | None = None) -> int:
        parameters = None if value is None else {weight.name: value}
        return ledger.add(
            kind=kind, name=name, recipe_key=name, generation=generation, parameters=parameters, dimensions=(weight,)
        ).number

    for kind, name, score, value, generation in (
        ("base", "base", 0.125, None, None),
        ("expert", "maths", 0.25, None, None),
        ("uniform", "uniform 1", 0.5, 0.5, None),
        ("candidate", "candidate 0", 0.625, 0.75, 0),
    ):
        number = add(kind, name, value, generation)
        ledger.record(Evaluation(trial=number, split="search", score=score, tie_break=0.01, seconds=seconds))
    failed = add("candidate", "candidate 1", 0.875, 0)
    why = "not_finite: model.norm.weight [0] is inf"
    ledger.record(Evaluation(trial=failed, split="search", failure=why, lost_workers=("preempted", "preempted")))
    add("candidate", "candidate 2", 0.1, 0)
    return directory
