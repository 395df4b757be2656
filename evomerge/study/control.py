"""Controls of a search: random candidates, and uniform merges, at the same cost over the same models and items.

What an algorithm finds is worth what it finds beyond these. Each control is a search of its own in a folder of the run,
with its own validation, and goes on like any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

from evomerge.benchmark.clusters import by_task
from evomerge.config.config import Config
from evomerge.config.search import SearchConfig
from evomerge.errors import RunError
from evomerge.estimate.clusters import clustered_comparison
from evomerge.estimate.comparisons import holm
from evomerge.estimate.proportions import Interval
from evomerge.files.atomic import write_json
from evomerge.run.directory import PREPARED, Run, open_run
from evomerge.run.evaluation import Evaluation
from evomerge.run.observer import Observer, SilentObserver
from evomerge.run.recipes import unchanged_of
from evomerge.run.trial import WINNER, TrialKind
from evomerge.study.answered import answered_beyond_baselines
from evomerge.study.experiment import open_experiment
from evomerge.study.search import search

FOLDER = "control"
RESULT = "control.json"
RANDOM, UNIFORM = "random", "uniform"
_KINDS = {RANDOM: TrialKind.CANDIDATE, UNIFORM: TrialKind.UNIFORM}
_SHARED = {"population", "scan", "shortlist", "seed", "initial", "step_size"}
"""What a control's search has of the run's; all else is as it is by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """The best merge of one control, chosen on validation, beside the winner on the test items."""

    name: str
    directory: Path
    trial: int
    evaluations: int
    """Merges beyond the run's baselines that cost as much, each whole."""
    merges: int
    """Those that it scored on the search items: uniform ones, or random ones."""
    score: float
    difference: float
    """The winner's score minus this one's."""
    interval: Interval
    p: float
    p_holm: float


def control(directory: str | Path, *, observer: Callable[[Path], Observer] | None = None) -> list[Control]:
    """Run both controls of a search that has ended, or go on with them, and compare the winner with them.

    Args:
        directory: the run's.
        observer: gives what is told of a control's search, by its run directory.

    Raises: RunError for a run that hasn't ended, or has several objectives; whatever a search raises.
    """
    run = open_run(directory)
    if (of := _controlled(run.directory)) is not None:
        raise RunError(f"{directory}: is itself a control, of {of}; give that run")
    result = run.result()
    if result is None or not run.has_ended():
        raise RunError(f"{directory}: its search hasn't ended, so there is no winner to compare with a control")
    if not run.config.search.goals.is_empty:
        raise RunError(f"{directory}: has objectives or constraints of its own, and controls have one score alone")
    cost = candidates_worth(run)
    found: list[tuple[str, Run, int, Evaluation]] = []
    for name, config in _configs(run, cost).items():
        where = _folder(run.directory / FOLDER / name, config)
        watching = SilentObserver() if observer is None else observer(where)
        watching.message(f"the {name} control, in {where}")
        ended = search(config, where, observer=watching, where=f"{name} control")
        kind = TrialKind.UNIFORM if name == UNIFORM else WINNER
        trials = [model["trial"] for model in ended.data["test"]["models"] if model["kind"] == kind]
        own = open_run(where)
        evaluation = own.ledger().evaluation(trials[0], "test") if trials else None
        if evaluation is None or evaluation.table is None or evaluation.score is None:
            raise RunError(f"{where}: its best merge has no score on the test items")
        found.append((name, own, trials[0], evaluation))
    controls = _compared(run, int(result["winner"]["trial"]), found, cost)
    write_json(run.directory / RESULT, {"evaluations": cost, "controls": [_data(each, run) for each in controls]})
    return controls


def candidates_worth(run: Run) -> int:
    """How many candidates that answer everything cost as many answers as the run's merges beyond its baselines did,
    rounded up.
    """
    items: int = sum(task["items"]["search"] for task in run.facts["benchmark"]["tasks"])
    return max(1, math.ceil(answered_beyond_baselines(run) / items))


def _controlled(directory: Path) -> Path | None:
    """The run of which this is a control; None if it is none."""
    folder = directory.absolute().parent
    return folder.parent if folder.name == FOLDER and (folder.parent / "run.json").exists() else None


def _folder(first: Path, config: Config) -> Path:
    """Where the control of such a config is, or will be.

    A run that was extended since it had controls has random ones that are extended, too. Its uniform ones are others,
    beside those from before: `search.scan` may not change in a run.
    """
    folders = chain((first,), (first.with_name(f"{first.name}-{number}") for number in count(2)))
    return next(
        folder
        for folder in folders
        if not (folder / "run.json").exists() or open_run(folder).config.search.scan == config.search.scan
    )


def _configs(run: Run, cost: int) -> dict[str, Config]:
    """Each control's config: the run's, with other candidates and nothing that stops them."""
    config = run.opened_config
    shared = config.search.model_dump(include=_SHARED)
    settings = {
        RANDOM: {"algorithm": "random", "evaluations": cost},
        # A search proposes one candidate at least.
        UNIFORM: {"algorithm": "random", "evaluations": 1, "scan": config.search.scan + max(0, cost - 1)},
    }
    states = config.execution.prepared_directory or str((run.directory / PREPARED).absolute())
    # What is compared is computed alike.
    stored = run.facts["dtype"]
    compute = "stored" if run.facts.get("compute_dtype", stored) == stored else "float32"
    execution = config.execution.model_copy(update={"prepared_directory": states, "compute_dtype": compute})
    return {
        name: config.model_copy(
            update={"search": SearchConfig.model_validate({**shared, **own}), "execution": execution}
        )
        for name, own in settings.items()
    }


def _compared(run: Run, winner: int, found: list[tuple[str, Run, int, Evaluation]], cost: int) -> list[Control]:
    """The winner against each control on the same test items."""
    evaluation = run.ledger().evaluation(winner, "test")
    if evaluation is None or evaluation.table is None:
        raise RunError(f"{run.directory}: the winner has no score on the test items")
    unchanged = unchanged_of(run.facts)
    benchmark = open_experiment(run.opened_config, where=str(run.directory), unchanged=unchanged).benchmark
    tables = [evaluation.table, *(own.table for _, _, _, own in found if own.table is not None)]
    mine, *others = benchmark.samples(tables)
    weights = benchmark.objective.weights_for(evaluation.table.sizes)
    clusters = by_task(benchmark.splits["test"])
    comparisons = [clustered_comparison(mine, other, weights, clusters) for other in others]
    corrected = holm([comparison.p for comparison in comparisons])
    return [
        Control(
            name=name,
            directory=control.directory,
            trial=trial,
            evaluations=cost,
            merges=sum(each.kind is _KINDS[name] and each.score is not None for each in control.trials()),
            score=own.score if own.score is not None else math.nan,
            difference=comparison.difference,
            interval=comparison.interval,
            p=comparison.p,
            p_holm=p_holm,
        )
        for (name, control, trial, own), comparison, p_holm in zip(found, comparisons, corrected, strict=True)
    ]


def _data(found: Control, run: Run) -> dict[str, Any]:
    return {
        "name": found.name,
        "run": str(found.directory.relative_to(run.directory)),
        "trial": found.trial,
        "merges": found.merges,
        "score": found.score,
        "difference": found.difference,
        "interval": list(found.interval),
        "p": found.p,
        "p_holm": found.p_holm,
    }
