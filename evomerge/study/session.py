"""What one search holds open: its models, space, benchmark, run directory, ledger and executor.

Does not know what is evaluated, in which order, or why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.benchmark.base import Benchmark
from evomerge.config.config import Config
from evomerge.errors import ResumeError, counted, listed
from evomerge.execute.base import Executor
from evomerge.execute.settings import arithmetic_of, gpus_of, make_executor, worker_settings
from evomerge.files.atomic import write_atomically
from evomerge.inference.arithmetic import Arithmetic
from evomerge.materialise.distance import relative_distance
from evomerge.models.alignment import digest
from evomerge.models.own_settings import own_notes
from evomerge.run.answers import Parts
from evomerge.run.clock import Clock
from evomerge.run.consistency import is_supported
from evomerge.run.directory import PREPARED, Run, clear_left_over, create_run, update_config
from evomerge.run.frozen import with_every_item
from evomerge.run.identity import check_same_experiment
from evomerge.run.ledger import Ledger
from evomerge.run.observer import Observer
from evomerge.run.recipes import MAPS, unchanged_of
from evomerge.run.trial import Trial, TrialKind
from evomerge.score.goals import Goals
from evomerge.score.requests import LogLikelihoodRequest
from evomerge.score.table import ItemTable
from evomerge.space.base import Space
from evomerge.study.advice import left_out
from evomerge.study.answered import schedule_of
from evomerge.study.arithmetic import arithmetic_of_run, remarks
from evomerge.study.budget import budget_of, check_budget
from evomerge.study.experiment import Experiment, check_pruner, open_experiment
from evomerge.study.facts import facts_of, facts_of_new
from evomerge.study.inputs import check_same_files, input_files
from evomerge.study.maps import find_maps
from evomerge.study.measures import Measures, answer_lengths, prompt_tokens
from evomerge.study.merge_first import merge_first
from evomerge.study.pulse import Pulse
from evomerge.study.references import REFERENCE, reference_requests
from evomerge.study.schedule import Schedule, stratified_blocks
from evomerge.study.start import Start, start_of
from evomerge.study.story import story_of_start


class Session:
    """Everything that one search holds open. A context manager; workers start with the first evaluation.

    Raises: on entering, EvomergeError subclasses for a config, model or benchmark that can't be used, or a
        directory of another experiment.
    """

    finished: dict[str, Any] | None = None
    """Contents of result.json if the run has ended and its budget hasn't grown; all else then stays closed."""
    config: Config
    """The experiment, with folders in the place of models that were merged first."""
    asked: Config
    """As it was given, with their recipes."""
    experiment: Experiment
    arithmetic: Arithmetic
    """What every worker computes in."""
    space: Space
    benchmark: Benchmark
    population: int
    """Candidates per generation."""
    as_themselves: Mapping[str, Sequence[str]]
    """By model that is scored as it is by itself, its settings that a merge hasn't."""
    start: Start | None
    """Where the search starts, if from another run or a recipe."""
    run: Run
    clock: Clock
    ledger: Ledger
    parts: Parts
    goals: Goals
    """Objectives and constraints; without any the benchmark's score is searched for."""
    measures: Measures
    references: Sequence[LogLikelihoodRequest]
    """The reference answer of each search item, where models are asked for its probability; else nothing."""

    def __init__(self, config: Config, directory: Path, observer: Observer, where: str) -> None:
        self.config = self.asked = config
        self.directory = directory
        self.observer = observer
        self.where = where
        self._executor: Executor | None = None
        self._held = ExitStack()
        self._splits: set[str] = set()
        self._own: dict[str, Benchmark] = {}
        self._prompts: dict[tuple[str, str], dict[str, NDArray[np.float64]]] = {}

    def __enter__(self) -> Session:
        try:
            self._open()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def _open(self) -> None:
        existing = ledger = None
        if (self.directory / "run.json").exists():
            clear_left_over(self.directory)
            existing = Run(self.directory)
        if existing is not None:
            if "every_item" not in self.config.benchmark.model_fields_set:
                self.config = self.asked = with_every_item(self.config, existing.config.benchmark.every_item)
            check_same_experiment(existing, {"identity": self.asked.identity()}, where=self.where)
            self.arithmetic = arithmetic_of_run(existing, self.config.execution, where=self.where)
            update_config(existing, self.asked)
            result = existing.result()
            if result is not None:
                ledger = self._open_ledger(existing)
                supported = is_supported(self.directory, result, ledger) and ledger.is_whole
                if supported and result["budget"] == budget_of(self.config):
                    self.finished = result
                    return
        begun = existing is not None
        self.config = merge_first(self.asked, self.directory, self.observer, begun=begun, where=self.where)
        self.observer.phase("models", None)
        known = None if existing is None else unchanged_of(existing.facts)
        self.experiment = open_experiment(self.config, where=self.where, unchanged=known)
        dtype = self.experiment.dtype
        if existing is None:
            self.arithmetic = arithmetic_of(self.config.execution, dtype)
        recorded = {} if existing is None else existing.facts.get("files", {})
        files = input_files(self.config, self.experiment.opened, where=self.where, recorded=recorded)
        check_same_files(self.directory, recorded, files)
        self._align(existing)
        self.space = self.experiment.space
        self.observer.phase("benchmark", None)
        self.benchmark = self.experiment.benchmark
        check_pruner(self.experiment)
        self.references = reference_requests(self.experiment)
        self.goals = self.config.search.goals
        self.measures = Measures(self.config.search, self.benchmark, where=self.where)
        said = remarks(self.arithmetic, dtype, resumed=existing is not None)
        for sentence in (*left_out(self.space), *self.benchmark.truncated, *self.benchmark.notes, *said):
            self.observer.message(sentence)
        # Runs of earlier releases go on as they began: every model with the base's settings.
        begun_without = existing is not None and "as_themselves" not in existing.facts
        self.as_themselves = {} if begun_without else self.experiment.as_themselves
        for sentence in own_notes(self.as_themselves):
            self.observer.message(sentence)
        self.start = self._found_start(existing)
        facts = self._facts()
        check_budget(self.experiment, (facts if existing is None else existing.facts)["population"])
        if existing is None:
            # Workers that can't be had are refused before anything is written.
            self._start_workers()
            if self.experiment.maps is not None:
                write_atomically(self.directory / MAPS, self.experiment.maps)
            self.run = create_run(
                self.directory, self.asked, facts | facts_of_new(self.experiment, files, self.references)
            )
        else:
            check_same_experiment(existing, facts, where=self.where)
            self.run = existing
        self.population = self.run.facts["population"]
        self.clock = Clock(self.directory)
        self.ledger = ledger or self._open_ledger(self.run)
        if lost := self.ledger.lost:
            self.observer.message(
                f"evaluations.jsonl: the evaluations of {counted(len(lost), 'trial')} are lost and made again: "
                f"{listed(map(str, lost))}"
            )
        self.parts = Parts(self.directory, self.run.facts["study"])
        self.ledger.describe(*story_of_start(self.run))

    def _facts(self) -> dict[str, Any]:
        return facts_of(
            self.experiment,
            asked=self.asked,
            dtypes=self._dtypes,
            start=self.start,
            as_themselves=self.as_themselves,
        )

    def _found_start(self, existing: Run | None) -> Start | None:
        """Where the search starts, found once: what it was found in may be moved or go on meanwhile.

        Raises: ConfigError.
        """
        if existing is not None:
            kept = existing.facts.get("start")
            return None if kept is None else Start.from_data(kept)
        settings = self.config.search
        if settings.start is None:
            return None
        given, template = self.asked.models.sources().references, self.experiment.template
        step = settings.step_size
        found = start_of(settings.start, template, self.space, given=given, step_size=step, where=self.where)
        self.observer.message(found.words)
        return found

    def _open_ledger(self, run: Run) -> Ledger:
        return Ledger.open(self.directory, self.config.storage, run.facts["study"], self.config.search.goals)

    def _align(self, existing: Run | None) -> None:
        """Show the models under the maps of the run, which are found once and then kept in its directory.

        Raises: ResumeError if they are lost, and others would be found now.
        """
        if self.config.models.align is None:
            return
        self.observer.phase("alignment", None)
        kept = None if existing is None else existing.facts.get("alignment")
        path = self.directory / MAPS
        if kept is not None and path.is_file() and digest(path.read_bytes()) == kept:
            maps = path.read_bytes()
        else:
            maps = find_maps(self.experiment, self.observer.message)
            if kept is not None and digest(maps) != kept:
                raise ResumeError(
                    f"{path}: is lost or damaged, and other maps would be found now (on another machine, or by other "
                    "versions); restore the file from a copy, or start a new run directory"
                )
            if kept is not None:
                write_atomically(path, maps)
        self.experiment = self.experiment.aligned(maps)
        for name, model in self.experiment.models.by_name.items():
            for note in model.notes:
                self.observer.message(f"{'the base' if name == 'base' else f'expert {name!r}'}: {note}")

    def __exit__(self, *raised: Any) -> None:
        if raised[1] is not None and hasattr(self, "clock"):
            self.clock.stopped(raised[1])
        self._held.close()

    def phase(self, name: str, total: int) -> None:
        """A phase of so many evaluations begins."""
        self.observer.phase(name, total)
        self.clock.phase(name)

    def benchmark_for(self, trial: Trial) -> Benchmark:
        """What a trial is asked: the benchmark, or its own form of it if it is scored by itself.

        Raises: BenchmarkError if it can't be asked so.
        """
        if not self.is_by_itself(trial):
            return self.benchmark
        if trial.name not in self._own:
            self._own[trial.name] = self.experiment.benchmark_of(trial.name)
        return self._own[trial.name]

    def is_by_itself(self, trial: Trial) -> bool:
        """Whether a trial is a given model that is scored with its own settings."""
        return trial.kind.is_checkpoint and trial.name in self.as_themselves

    def lengths(self, trial: Trial, split: str, table: ItemTable) -> dict[str, NDArray[np.float64]]:
        """Tokens of a trial's answers to each item, by task that generates text: see `answer_lengths`."""
        key = (trial.name if self.is_by_itself(trial) else "", split)
        if key not in self._prompts:
            self._prompts[key] = prompt_tokens(self.benchmark_for(trial), split)
        return answer_lengths(self._prompts[key], table)

    def distances(self, trial: Trial) -> dict[str, float]:
        """Of a given model's own weights from those of the models that objectives and constraints name."""
        models, names = self.experiment.models.by_name, self.config.search.distances
        return {name: relative_distance(models[trial.name].tensor, models[name]) for name in names}

    def blocks(self, split: str) -> list[list[int]]:
        """Positions of the items of each block; empty if the split is answered at once."""
        return self._search_blocks if split == "search" else []

    def order(self, trial: Trial, split: str) -> Sequence[int]:
        """Numbers of a split's blocks, in the order in which a trial answers them."""
        if split != "search":
            return range(0)
        known = self.origin(trial) if trial.kind is TrialKind.ELITE else trial
        return self.schedule.order(known.generation)

    def origin(self, elite: Trial) -> Trial:
        """The candidate whose answers a trial of the elite goes on from."""
        found = self.ledger.find(TrialKind.CANDIDATE, elite.recipe_key)
        assert found is not None
        return found

    @cached_property
    def schedule(self) -> Schedule:
        """Which blocks of search items a candidate answers, in which order."""
        return schedule_of(self.config.search, len(self.blocks("search")))

    @cached_property
    def _search_blocks(self) -> list[list[int]]:
        search, items = self.config.search, self.benchmark.splits["search"]
        if search.block is None:
            return []
        if search.items == "fresh":
            return stratified_blocks([item.task for item in items], search.block, search.seed)
        return self.benchmark.blocks("search", search.block)

    def executor_for(self, split: str) -> Executor:
        """The executor, with the split's requests made known to it; workers start if there are none yet.

        Raises: ExecutionError if they can't be had.
        """
        executor = self._executor or self._start_workers()
        if split not in self._splits:
            blocks = [self.benchmark.places(split, items) for items in self.blocks(split)]
            executor.add_requests(split, self.benchmark.requests(split), blocks or None)
            if split == "search" and self.references:
                executor.add_requests(REFERENCE, self.references, [range(len(self.references))])
            if not self._splits:
                self._held.callback(Pulse(self.directory, executor, lambda: self.clock.gpus).close)
            self._splits.add(split)
            self.observer.phase("ready", None)
            self.clock.count_afresh()
        self.clock.gpus = gpus_of(self.config.execution, executor.workers)
        return executor

    def _start_workers(self) -> Executor:
        self.observer.phase("workers", None)
        states, maps = self.directory / PREPARED, self.experiment.maps
        settings = worker_settings(self.config, **self._dtypes, states=states, maps=maps)
        self._executor = self._held.enter_context(closing(make_executor(self.config.execution, settings)))
        return self._executor

    @property
    def _dtypes(self) -> dict[str, str]:
        return {"dtype": self.experiment.dtype, "compute_dtype": self.arithmetic.dtype}
