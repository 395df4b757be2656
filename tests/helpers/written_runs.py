"""Run directories that are written trial by trial, without models: runs in any state, with known scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evomerge.config.config import Config
from evomerge.run.directory import Run, create_run, open_run
from evomerge.run.evaluation import Evaluation
from evomerge.run.ledger import Ledger
from evomerge.run.trial import TrialKind
from evomerge.score.table import ItemTable, TaskScores
from evomerge.space.base import Dimension

METRIC = "acc,none"
DIMENSIONS = tuple(Dimension(name=f"weight.x.layer_{layer}", low=0, high=1, initial=0.5) for layer in (0, 1))
ITEMS = 10


def table(right: int) -> ItemTable:
    """So many of ten items answered rightly."""
    values = tuple(float(place < right) for place in range(ITEMS))
    return ItemTable(tasks={"sums": TaskScores(items=tuple(map(str, range(ITEMS))), values={METRIC: values})})


def write_run(
    folder: Path, outcomes: Sequence[int | str | None], *, generation: int = 4, baselines: bool = True
) -> Run:
    """A run over two layers of one expert.

    Args:
        folder: to be made.
        outcomes: of each candidate: how many items are right, why it failed, `pruned`, or None where none is known.
        generation: candidates of each generation.
        baselines: whether base, expert and a uniform merge have scores: 2, 4 and 5 of 10 items.
    """
    folder.mkdir()
    config = Config.from_data(
        {
            "models": {"base": "a/b", "experts": {"x": "a/c"}},
            "space": {"granularity": "layer"},
            "benchmark": {"tasks": ["sums"]},
            "search": {"evaluations": 40},
        }
    )
    task = {"task": "sums", "metric": METRIC, "higher_is_better": True, "weight": 1.0, "items": {"search": ITEMS}}
    facts = {
        "identity": {},
        "benchmark": {"tasks": [task]},
        "dtype": "float32",
        "options": {},
        "places": [[0, "mlp"], [1, "mlp"]],
        "space": {"dimensions": [{"name": one.name} for one in DIMENSIONS]},
    }
    run = create_run(folder, config, facts)
    ledger = Ledger.open(folder, "journal", run.facts["study"])
    if baselines:
        for kind, name, right in ((TrialKind.BASE, "base", 2), (TrialKind.EXPERT, "x", 4), (TrialKind.UNIFORM, "u", 5)):
            trial = ledger.add(
                kind=kind, name=name, recipe_key=name, parameters=_parameters(0, kind), dimensions=DIMENSIONS
            )
            ledger.record(_scored(trial.number, right))
    for place, outcome in enumerate(outcomes):
        trial = ledger.add(
            kind=TrialKind.CANDIDATE,
            name=f"candidate {place}",
            recipe_key=f"c{place}",
            generation=place // generation,
            parameters=_parameters(place, TrialKind.CANDIDATE),
            dimensions=DIMENSIONS,
        )
        if outcome == "pruned":
            ledger.prune(trial.number)
        elif isinstance(outcome, str):
            ledger.record(Evaluation(trial=trial.number, split="search", failure=outcome))
        elif outcome is not None:
            ledger.record(_scored(trial.number, outcome))
    return open_run(folder)


def _parameters(place: int, kind: TrialKind) -> dict[str, float]:
    if kind in {TrialKind.BASE, TrialKind.EXPERT}:
        return {}
    return {"weight.x.layer_0": 0.1 + 0.01 * place, "weight.x.layer_1": 0.9 - 0.013 * (place**2 % 7)}


def _scored(trial: int, right: int) -> Evaluation:
    return Evaluation(
        trial=trial,
        split="search",
        score=right / ITEMS,
        table=table(right),
        aggregates={"sums": {METRIC: right / ITEMS}},
        seconds={"materialise": 0.5, "respond": 1.0},
    )
