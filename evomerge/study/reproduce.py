"""A winner scored again, and held against what was recorded, item by item."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evomerge.errors import ExecutionError, RunError
from evomerge.execute.base import Failure, Job
from evomerge.execute.settings import make_executor, worker_settings
from evomerge.models.alignment import digest
from evomerge.run.directory import PREPARED, open_run
from evomerge.run.recipes import MAPS, unchanged_of
from evomerge.score.table import ItemTable
from evomerge.study.arithmetic import arithmetic_of_run
from evomerge.study.experiment import open_experiment
from evomerge.study.inputs import check_same_files, input_files


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduced:
    """What a trial scores now, and what it scored."""

    trial: int
    split: str
    recorded: float
    found: float
    items: int
    differing: int
    """Items with another value in some metric."""

    @property
    def matches(self) -> bool:
        """Whether the score is the same to the last digit, and every item's too."""
        return self.recorded == self.found and not self.differing


def reproduce(
    directory: str | Path,
    *,
    trial: int | None = None,
    split: str = "test",
    report: Callable[[str], None] = lambda doing: None,
) -> Reproduced:
    """Score the winner of a run again, from the same files, on the same items. Nothing in the run changes.

    Args:
        directory: the run's.
        trial: another trial, by number.
        split: the items, on which it must have a score.
        report: called with what is being done, before it is.

    Raises: RunError if there is nothing to compare with, or items are others; ResumeError if files have changed;
        ExecutionError if it can't be scored any more; as `open_experiment`.
    """
    run = open_run(directory)
    where = str(run.directory / "config.yaml")
    number = _winner(run.result(), run.directory) if trial is None else trial
    recipe, kept = run.recipe(number), run.ledger().evaluation(number, split)
    if kept is None or kept.table is None or kept.score is None:
        raise RunError(f"{run.directory}: trial {number} has no score on {split} items to compare with")
    report("opening the models and building the benchmark")
    experiment = open_experiment(run.opened_config, where=where, unchanged=unchanged_of(run.facts))
    recorded = run.facts.get("files", {})
    check_same_files(
        run.directory, recorded, input_files(experiment.config, experiment.opened, where=where, recorded=recorded)
    )
    if "alignment" in run.facts:
        maps = (run.directory / MAPS).read_bytes() if (run.directory / MAPS).is_file() else b""
        if digest(maps) != run.facts["alignment"]:
            raise RunError(f"{run.directory / MAPS}: lost or damaged, so the models can't be aligned as they were")
        experiment = experiment.aligned(maps)
    if run.ledger().trial(number).kind.is_checkpoint and experiment.as_themselves:
        raise RunError(f"{run.directory}: trial {number} is a model with settings of its own; give a merge")
    benchmark = experiment.benchmark
    if benchmark.fingerprint[split] != run.facts["items"][split]:
        raise RunError(f"{run.directory}: the {split} items aren't those that were answered: their data has changed")
    report(f"scoring trial {number} on {len(benchmark.splits[split])} {split} items")
    compute = arithmetic_of_run(run, run.config.execution, where=where).dtype
    settings = worker_settings(
        experiment.config,
        dtype=experiment.dtype,
        compute_dtype=compute,
        states=run.directory / PREPARED,
        maps=experiment.maps,
    )
    executor = make_executor(run.config.execution, settings)
    try:
        executor.add_requests(split, benchmark.requests(split))
        ((_, outcome),) = executor.run([Job(number=0, recipe=recipe, split=split)])
    finally:
        executor.close()
    if isinstance(outcome, Failure):
        raise ExecutionError(f"trial {number} can't be scored any more: {outcome.reason}: {outcome.message}")
    table = benchmark.score(split, outcome.responses)
    return Reproduced(
        trial=number,
        split=split,
        recorded=kept.score,
        found=benchmark.objective.score(benchmark.aggregate(table), table.sizes),
        items=sum(table.sizes.values()),
        differing=_differing(kept.table, table),
    )


def _winner(result: dict[str, object] | None, directory: Path) -> int:
    winner = None if result is None else result["winner"]
    if not isinstance(winner, dict):
        raise RunError(
            f"{directory}: has no winner yet; end it with evomerge resume, or give --trial and --split search"
        )
    return int(winner["trial"])


def _differing(recorded: ItemTable, found: ItemTable) -> int:
    """How many items have another value in a metric that both have."""
    count = 0
    for task, scores in found.tasks.items():
        old = recorded.tasks[task].values
        differs = np.zeros(len(scores.items), dtype=bool)
        for metric, values in scores.values.items():
            if metric in old:
                differs |= np.array([repr(a) != repr(b) for a, b in zip(old[metric], values, strict=True)])
        count += int(differs.sum())
    return count
