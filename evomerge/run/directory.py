"""The run directory: everything about one search, and the lock that keeps it to one driver.

config.yaml        the experiment, with every default written out
run.json           what was found out at the start and must stay so: parameter groups, dtype, population, items
study.journal      the Optuna study (unless another storage is configured)
evaluations.jsonl  every evaluation with its item table, one line each
parts.jsonl        answers to blocks of search items, those given in one go in a line (with `search.block`)
estimates.jsonl    estimated scores of stopped candidates, a generation a line (with `search.estimator`)
merged/            the models that the config gives as recipes, each merged once before the search
prepared/          what the merge method computes once, for workers and later sessions; can be deleted between sessions
progress.json      phase, driving time and what was spent, for `evomerge status`
workers.json       what each worker does now, for `evomerge status`
result.json        winner, scores, intervals and comparisons, once the search has ended
lock               held by the driver
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.config.config import Config
from evomerge.errors import ResumeError, RunError, listed
from evomerge.files.atomic import read_json, write_json
from evomerge.files.lines import remedy
from evomerge.recipe.recipe import Recipe
from evomerge.run.answers import blocks_answered
from evomerge.run.clock import PROGRESS
from evomerge.run.frozen import freeze, frozen
from evomerge.run.ledger import EVALUATIONS, JOURNAL, Ledger
from evomerge.run.lock import driver_of, is_locked
from evomerge.run.merged import MERGED, with_folders
from evomerge.run.plan import Plan
from evomerge.run.recipes import MAPS, recipe_of
from evomerge.run.records import (
    RunStatus,
    TrialRecord,
    failures_of,
    generations_of,
    leaders,
    lost_workers_of,
    record_of,
)
from evomerge.run.trial import TrialKind, TrialState
from evomerge.run.workers import Workplace, workplace_of

if TYPE_CHECKING:
    # For an annotation alone, and it takes scipy to import.
    from evomerge.estimate.clusters import Clusters

FORMAT_VERSION = 2

PREPARED = "prepared"
DONE = "done"
"""The phase of a run that has ended."""

# Runs of format 1 hold no answers; they are read, and continued in the present format.
_READABLE = (1, FORMAT_VERSION)

# What a driver that was killed while it made the directory may have left there.
_OWN_FILES = frozenset({"lock", "config.yaml", JOURNAL, EVALUATIONS, MAPS, MERGED})
# Halves of files, and the lock files that Optuna puts beside a journal, also under another name to delete them.
_LEFT_OVER = (".*.tmp", f"{JOURNAL}.lock*")
_RECORDS_ALONE = "holds the records of a run, but run.json is missing"


class Run:
    """A run directory, open for reading. Safe to use while a driver is at work."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.facts = read_json(directory / "run.json")
        if self.facts.get("format") not in _READABLE:
            raise RunError(
                f"{directory / 'run.json'}: has format {self.facts.get('format')!r}; this release reads "
                f"{' and '.join(map(str, _READABLE))}"
            )
        if not isinstance(self.facts.get("study"), str):
            raise RunError(f"{directory / 'run.json'}: names no study; {remedy(directory)}")
        self.config = frozen(directory, self.facts)

    @property
    def opened_config(self) -> Config:
        """The config with folders in the place of models that were merged first: what opens models opens these."""
        return with_folders(self.config, self.directory)

    def ledger(self) -> Ledger:
        """The ledger as it is on disk now, for reading."""
        return Ledger.read(self.directory, self.config.storage, self.facts["study"], self.config.search.goals)

    def trials(self) -> list[TrialRecord]:
        """All trials in order of number."""
        ledger = self.ledger()
        return [record_of(ledger, trial) for trial in ledger.trials()]

    def result(self) -> dict[str, Any] | None:
        """The contents of result.json; None before the search has ended."""
        path = self.directory / "result.json"
        return read_json(path) if path.exists() else None

    @property
    def knows_clusters(self) -> bool:
        """Whether it is known which test items belong together; not of runs of earlier releases whose items do."""
        return "clusters" in self.facts or self.config.benchmark.cluster is None

    @property
    def clusters(self) -> Clusters | None:
        """Of the test items by task; None where each is by itself, or it isn't known."""
        kept: Mapping[str, list[int]] | None = self.facts.get("clusters")
        # Sorted as the names were, since what is drawn at random goes by that.
        return None if kept is None else {task: tuple(f"{one:09d}" for one in own) for task, own in kept.items()}

    def has_ended(self) -> bool:
        """Whether there is a result for the present budget, which may have grown since there was one."""
        result = self.result()
        if result is None:
            return False
        keys = set(result["budget"]) | (self.config.search.spendable & {"budget"})
        return bool(result["budget"] == self.config.search.model_dump(include=keys))

    def progress(self) -> dict[str, Any]:
        """The contents of progress.json; empty before a driver has written it."""
        return read_json(self.directory / PROGRESS, missing_ok=True)

    def recipe(self, number: int, *, as_given: bool = False) -> Recipe:
        """The complete recipe of a trial.

        Args:
            number: of the trial.
            as_given: whether models that were merged first are named by their recipes, as in the config, rather than by
                their folders.

        Raises: RunError if there is no such trial.
        """
        trials = self.ledger().trials()
        if not 0 <= number < len(trials):
            raise RunError(
                f"{self.directory}: no trial {number}; it has trials 0 to {len(trials) - 1}. "
                f"See: evomerge trials {self.directory}"
            )
        config = self.config if as_given else self.opened_config
        return recipe_of(config, self.facts, trials[number], self.directory)

    def status(self) -> RunStatus:
        """Counts, best, workers, rate, and what is to come."""
        trials = self.trials()
        progress = self.progress()
        candidates = [trial for trial in trials if trial.kind is TrialKind.CANDIDATE]
        finished = [trial for trial in candidates if trial.state.is_finished]
        complete = [trial for trial in trials if trial.score is not None and trial.kind.is_ranked]
        alive, ended = is_locked(self.directory), self.has_ended()
        phase = progress.get("phase", "not started")
        if phase == DONE and not ended:
            phase = "not continued"
        rate = progress.get("rate_per_minute")
        since = self._since_progress() if alive else 0.0
        driven_s = float(progress.get("driving_seconds", 0.0)) + since
        left, plan = None, self.plan()
        total = plan.candidates(progress)
        if plan.items is not None and phase in {"validation", "test", DONE}:
            total = len(finished)
        done, expected = self._done(trials), total + 1 if phase == "search" else None
        if alive:
            left = plan.seconds_left(phase, done.get(phase, 0), rate, total=expected, driven_s=driven_s)
        unfinished = sum(trial.state is TrialState.RUNNING for trial in candidates)
        history, median = generations_of(finished)
        place = workplace_of(self.directory) if alive else Workplace()
        stopped = {} if alive or ended else progress.get("stopped", {})
        return RunStatus(
            phase=phase,
            finished=len(finished),
            failed=sum(trial.state is TrialState.FAILED for trial in candidates),
            pruned=self._stopped([trial for trial in candidates if trial.state is TrialState.PRUNED]),
            running=unfinished if alive else 0,
            budget=total,
            items=progress.get("items"),
            items_budget=self.config.search.budget.items,
            best=max(complete, key=lambda trial: -math.inf if trial.fitness is None else trial.fitness, default=None),
            median=median,
            rate_per_minute=rate,
            seconds_left=left,
            driver_alive=alive,
            driver=driver_of(self.directory),
            driven_s=driven_s,
            leaders=leaders(trials),
            interrupted=0 if alive else unfinished,
            stopped_by=stopped.get("by"),
            error=stopped.get("error"),
            history=history,
            failures=failures_of(trials),
            last_failure=next((trial.reason for trial in reversed(trials) if trial.reason), None),
            lost_workers=lost_workers_of(trials),
            to_come={} if ended else plan.to_come(phase, done, total=expected),
            gpu_hours=(progress.get("gpu_seconds", 0.0) + since * place.gpus) / 3600,
            gpu_hours_left=left * place.gpus / 3600 if left is not None and place.gpus else None,
            workers=place.workers,
            utilisation=place.utilisation,
        )

    def plan(self) -> Plan:
        """The evaluations of the whole run by phase."""
        return Plan.of(self.config, self.facts)

    def _stopped(self, pruned: Sequence[TrialRecord]) -> int:
        """How many of these were stopped early: with fresh items, nobody answers more than a share of them."""
        search = self.config.search
        if search.items == "fixed" or search.block is None or not pruned:
            return len(pruned)
        if search.pruner == "none":
            return 0
        share = math.ceil(search.items_per_candidate / search.block)
        answered = blocks_answered(self.directory, self.facts["study"])
        return sum(answered[trial.number] < share for trial in pruned)

    def _since_progress(self) -> float:
        """Seconds since progress.json was written, by the file system's time."""
        try:
            return max(0.0, time.time() - (self.directory / PROGRESS).stat().st_mtime)
        except OSError:
            return 0.0

    def _done(self, trials: Sequence[TrialRecord]) -> dict[str, int]:
        """Evaluations that are done, by phase."""
        baselines = sum(trial.kind.is_baseline and trial.state.is_finished for trial in trials)
        return {
            "baselines": baselines,
            "search": sum(trial.state.is_finished for trial in trials) - baselines,
            "validation": sum(trial.validation is not None for trial in trials),
            "test": sum(trial.test is not None for trial in trials),
        }


def open_run(directory: str | Path) -> Run:
    """Open a run directory for reading. Raises: RunError if it isn't one."""
    directory = Path(directory)
    if not (directory / "run.json").exists():
        if has_records(directory):
            raise RunError(f"{directory}: {_RECORDS_ALONE}; {remedy(directory)}")
        started = ", since its search never started" if (directory / "lock").exists() else ""
        raise RunError(f"{directory}: not a run directory: there is no run.json in it{started}")
    return Run(directory)


def create_run(directory: Path, config: Config, facts: Mapping[str, Any]) -> Run:
    """Write a new run directory. `run.json` comes last, so a crash in between leaves no half-made run.

    Raises: RunError if the directory holds files of something else, or can't be written.
    """
    clear_left_over(directory)
    refuse_foreign(directory)
    study = f"{directory.resolve().name}-{uuid.uuid4().hex[:8]}"
    for name in (JOURNAL, EVALUATIONS):
        (directory / name).unlink(missing_ok=True)
    freeze(directory, config)
    whole = {"format": FORMAT_VERSION, "study": study, **facts, "config": config.model_dump(mode="json")}
    Ledger.create(directory, config.storage, study, facts=whole, goals=config.search.goals)
    write_json(directory / "run.json", whole)
    return Run(directory)


def refuse_foreign(directory: Path) -> None:
    """Raises: RunError if a directory without a run, if there is one, holds the records of one, or files of something
    else than its beginnings.
    """
    if (directory / "run.json").exists() or not directory.is_dir():
        return
    recorded = any((directory / name).exists() for name in ("parts.jsonl", PROGRESS, "result.json"))
    if recorded or _has_lines(directory / EVALUATIONS, 1) or _has_lines(directory / JOURNAL, 3):
        raise RunError(f"{directory}: holds the records of a run, but run.json is missing; {remedy(directory)}")
    begun = {*_OWN_FILES, *(path.name for path in left_over(directory))}
    foreign = sorted(entry.name for entry in directory.iterdir() if entry.name not in begun)
    if foreign:
        raise RunError(
            f"{directory}: holds {listed(foreign)} and no run; choose a new or an empty directory with --run"
        )


def clear_left_over(directory: Path) -> None:
    """Delete what killed drivers left half-made. For the driver alone, which holds the run's lock."""
    for path in left_over(directory):
        path.unlink(missing_ok=True)


def left_over(directory: Path) -> list[Path]:
    """What killed drivers left half-made in a run directory."""
    found = (path for pattern in _LEFT_OVER for path in directory.glob(pattern))
    return sorted({path for path in found if path.is_file() or path.is_symlink()})


def has_records(directory: Path) -> bool:
    """Whether there are trials or evaluations; a study that was only created has fewer lines."""
    return _has_lines(directory / EVALUATIONS, 1) or _has_lines(directory / JOURNAL, 3)


def _has_lines(path: Path, least: int) -> bool:
    """Whether a file has so many lines."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        return sum(1 for _ in islice(file, least)) == least


def update_config(run: Run, config: Config) -> None:
    """Take over the parts of a config that may change between resumes: execution, budget, export."""
    if config.storage != run.config.storage:
        raise ResumeError(
            f"{run.directory}: its trials are in storage {run.config.storage!r}, this config says "
            f"{config.storage!r}. Restore the old value, or start a new run directory"
        )
    if config != run.config:
        freeze(run.directory, config)
        run.config = config
