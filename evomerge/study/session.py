"""The driver of one run: its models, benchmark, ledger and executor, and how candidates pass through them."""

from __future__ import annotations

import math
import platform
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

from evomerge.benchmark.base import Benchmark
from evomerge.config.config import Config
from evomerge.errors import BenchmarkError
from evomerge.execute.base import Answers, Executor, Failure, Job, Outcome
from evomerge.execute.settings import make_executor, worker_settings
from evomerge.files.atomic import write_json
from evomerge.recipe.recipe import Recipe
from evomerge.run.answers import Part, Parts
from evomerge.run.clock import Clock
from evomerge.run.directory import PREPARED, Run, create_run, update_config
from evomerge.run.evaluation import Evaluation
from evomerge.run.identity import check_same_experiment
from evomerge.run.ledger import Ledger, Trial
from evomerge.run.observer import Observer
from evomerge.run.recipes import checkpoint_recipe
from evomerge.run.records import record_of
from evomerge.score.objective import LANGUAGE, Objective
from evomerge.score.requests import Response
from evomerge.score.table import ItemTable
from evomerge.space.base import Genome
from evomerge.study.experiment import Experiment, open_experiment, population_of
from evomerge.study.select import SPLITS, Scored, best_uniform, shortlist, summary

_VERSIONS = ("evomerge", "torch", "transformers", "lm-eval", "cma", "optuna", "numpy")


GoOn = Callable[[Trial, ItemTable], bool]


class Driver:
    """Everything that one search holds open. A context manager; workers start with the first evaluation.

    Attributes:
        finished: contents of result.json if the run has ended and its budget hasn't grown, else None.
    """

    experiment: Experiment
    benchmark: Benchmark
    objective: Objective
    ledger: Ledger
    parts: Parts
    run: Run

    def __init__(self, config: Config, directory: Path, observer: Observer, where: str) -> None:
        self.config = config
        self.directory = directory
        self.observer = observer
        self.where = where
        self.finished: dict[str, Any] | None = None
        self._executor: Executor | None = None
        self._splits: set[str] = set()

    def __enter__(self) -> Driver:
        try:
            self._open()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _open(self) -> None:
        existing = Run(self.directory) if (self.directory / "run.json").exists() else None
        if existing is not None:
            check_same_experiment(existing, {"identity": self.config.identity()}, where=self.where)
            update_config(existing, self.config)
            result = existing.result()
            if result is not None and result["budget"] == self.config.search.model_dump(
                include={"evaluations", "hours", "shortlist"}
            ):
                self.finished = result
                return
        self.observer.phase("models", None)
        self.experiment = open_experiment(self.config, where=self.where)
        self.space = self.experiment.space
        self.observer.phase("benchmark", None)
        self.benchmark = self.experiment.benchmark
        self.objective = self.benchmark.objective
        for sentence in (*self.benchmark.truncated, *self.benchmark.notes):
            self.observer.message(sentence)
        facts = self._facts()
        if existing is None:
            # Workers that can't be had are refused before anything is written.
            self._start_workers()
            self.run = create_run(self.directory, self.config, facts)
        else:
            check_same_experiment(existing, facts, where=self.where)
            self.run = existing
        self.population: int = self.run.facts["population"]
        self.clock = Clock(self.directory)
        self.ledger = Ledger.open(self.directory, self.config.storage, self.run.facts["study"])
        self.parts = Parts(self.directory)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._executor is not None:
            self._executor.close()

    def trial(self, kind: str, name: str, genome: Genome | None = None, *, generation: int | None = None) -> Trial:
        """The trial of this kind and recipe that the ledger holds, or a new one.

        A genome proposed twice is two trials (the second takes over the first's result).
        """
        recipe = self._checkpoint_recipe(name) if genome is None else self.space.decode(genome)
        key = recipe.key()
        if kind != "candidate":
            for trial in self.ledger.trials():
                if (trial.kind, trial.recipe_key) == (kind, key):
                    return trial
        return self.ledger.add(
            kind=kind,
            name=name,
            recipe_key=key,
            generation=generation,
            parameters=None if genome is None else self.space.parameters(genome),
            dimensions=self.space.dimensions,
        )

    def recipe(self, trial: Trial) -> Recipe:
        """The recipe of a trial."""
        if trial.kind in {"base", "expert"}:
            return self._checkpoint_recipe(trial.name)
        return self.space.decode(self.space.genome(trial.parameters))

    def generations(self) -> dict[int, list[Trial]]:
        """Recorded candidates by generation, in ask order."""
        found: dict[int, list[Trial]] = {}
        for trial in self.ledger.trials():
            if trial.generation is not None:
                found.setdefault(trial.generation, []).append(trial)
        return found

    def evaluate(self, trials: Sequence[Trial], split: str, *, go_on: GoOn | None = None) -> None:
        """Evaluate the trials that have no result on `split` yet, each recipe once; return when all are done.

        Args:
            trials: the candidates.
            split: whose items to answer.
            go_on: asked after each block but the last whether the trial is worth the next, given what is known of
                it. One that isn't has no evaluation: `partial` has its scores so far, and calling again goes on
                where it stopped. Only for splits that are answered in blocks (`search.block`).
        """
        keys = {trial.number: trial.recipe_key for trial in self.ledger.trials()}
        known = {
            keys[item.trial]: item for item in self.ledger.evaluations() if item.split == split and item.same_as is None
        }
        waiting: dict[str, list[Trial]] = {}
        for trial in trials:
            if self.ledger.evaluation(trial.number, split) is not None:
                continue
            if trial.recipe_key in known:
                self._record(_copy(known[trial.recipe_key], trial.number), trial)
            else:
                waiting.setdefault(trial.recipe_key, []).append(trial)
        if not waiting:
            return
        by_number = {same[0].number: same for same in waiting.values()}

        def finish(number: int, outcome: Outcome) -> None:
            first, *others = by_number[number]
            evaluation = self._assess(number, split, outcome)
            self._record(evaluation, first)
            for other in others:
                self._record(_copy(evaluation, other.number), other)

        jobs = _Jobs(follow=bool(self._blocks(split)))
        for first, *_ in waiting.values():
            # A search that was killed between a candidate's last block and its evaluation has all that it needs.
            if (whole := self._whole(first, split)) is not None:
                finish(first.number, whole)
            else:
                jobs.last(self._job(first, split))
        for job, outcome in self._executor_for(split).run(jobs):
            jobs.done()
            if job.block is None or isinstance(outcome, Failure):
                finish(job.number, outcome)
                continue
            self.parts.add(_part(job, outcome))
            trial = by_number[job.number][0]
            if (whole := self._whole(trial, split)) is not None:
                finish(job.number, whole)
            elif go_on is None or go_on(trial, self.partial(trial, split)):
                jobs.first(self._job(trial, split))

    def partial(self, trial: Trial, split: str) -> ItemTable:
        """Scores of the items that a trial has answered so far, block by block."""
        parts = self.parts.of(trial.number, split)
        items = [item for block in self._blocks(split)[: len(parts)] for item in block]
        return self.benchmark.score(split, self._in_order(split, parts), items=items)

    def _job(self, trial: Trial, split: str) -> Job:
        """What is to be done next for a trial."""
        parts = self.parts.of(trial.number, split)
        return Job(
            number=trial.number,
            recipe=self.recipe(trial),
            split=split,
            block=len(parts) if self._blocks(split) else None,
            spent_s=sum(part.seconds[phase] for part in parts for phase in ("materialise", "respond")),
        )

    def _whole(self, trial: Trial, split: str) -> Answers | None:
        """A trial's answers to all requests of a split, once each of its blocks is there."""
        parts = self.parts.of(trial.number, split)
        if not parts or len(parts) < len(self._blocks(split)):
            return None
        return Answers(
            responses=tuple(self._in_order(split, parts)),
            seconds={phase: sum(part.seconds[phase] for part in parts) for phase in parts[0].seconds},
            peak_bytes=max(part.peak_bytes for part in parts),
            worker=parts[-1].worker,
        )

    def _blocks(self, split: str) -> list[list[int]]:
        """Positions of the items of each block; empty if the split is answered at once."""
        size = self.config.search.block if split == "search" else None
        return [] if size is None else self.benchmark.blocks(split, size)

    def _in_order(self, split: str, parts: Sequence[Part]) -> list[Response]:
        """The responses of blocks, in the order of the split's requests."""
        found: dict[int, Response] = {}
        for part, items in zip(parts, self._blocks(split), strict=False):
            found |= dict(zip(self.benchmark.places(split, items), part.responses, strict=True))
        return [found[place] for place in sorted(found)]

    def fitness(self, trial: Trial) -> float | None:
        """Fitness of an evaluated trial on the search items; None if it failed."""
        evaluation = self.ledger.evaluation(trial.number, "search")
        return None if evaluation is None else evaluation.fitness

    def search_evaluations(self) -> dict[int, Evaluation]:
        """Evaluations on the search items, by trial number."""
        return {item.trial: item for item in self.ledger.evaluations() if item.split == "search"}

    def conclude(self) -> dict[str, Any]:
        """Choose the winner on validation, test it beside the baselines, and write result.json."""
        trials, evaluations = self.ledger.trials(), self.search_evaluations()
        candidates = shortlist(trials, evaluations, self.config.search.shortlist)
        baselines = [
            (trial, trial.kind)
            for trial in [
                *(trial for trial in trials if trial.kind in {"base", "expert"}),
                *best_uniform(trials, evaluations),
            ]
        ]
        compared = list({trial.number: trial for trial in [*candidates, *(trial for trial, _ in baselines)]}.values())
        self._phase("validation", len(compared))
        self.evaluate(compared, "validation")
        scores = {trial.number: self.ledger.evaluation(trial.number, "validation") for trial in candidates}
        validated = [
            trial for trial in candidates if (found := scores[trial.number]) is not None and found.fitness is not None
        ]
        if not validated:
            validated = candidates[:1]
        # max keeps the first of equals, and the shortlist is in order of search fitness.
        winner = max(validated, key=lambda trial: _fitness_of(scores[trial.number]))
        models = [*baselines, (winner, "winner")]
        self._phase("test", len(models))
        self.evaluate([trial for trial, _ in models], "test")
        data: dict[str, Any] = {
            "winner": {"trial": winner.number, "kind": winner.kind, "recipe": self.recipe(winner).to_data()},
            "metrics": dict(self.objective.metrics),
            "higher_is_better": dict(self.objective.higher_is_better),
            **({"languages": languages} if (languages := self.benchmark.languages) else {}),
            "evaluations": sum(trial.kind == "candidate" for trial in trials),
            "budget": self.config.search.model_dump(include={"evaluations", "hours", "shortlist"}),
            "hours": round(self.clock.hours, 4),
            "shortlist": [
                {
                    "trial": trial.number,
                    "kind": trial.kind,
                    "search": trial.score,
                    "validation": _score_of(scores[trial.number]),
                }
                for trial in candidates
            ],
        }
        for split in SPLITS:
            data[split] = self._summary(models, split)
        write_json(self.directory / "result.json", data)
        self.clock.phase("done")
        return data

    def _summary(self, models: Sequence[tuple[Trial, str]], split: str) -> dict[str, Any]:
        """Scores of the models on one split with intervals and comparisons, those without a score left out."""
        found: list[tuple[Trial, str, float, ItemTable, Evaluation]] = []
        for trial, kind in models:
            evaluation = self.ledger.evaluation(trial.number, split)
            if evaluation is None or evaluation.table is None or evaluation.score is None:
                self.observer.message(f"{trial.name} has no {split} score: {evaluation and evaluation.failure}")
                continue
            found.append((trial, kind, evaluation.score, evaluation.table, evaluation))
        if not found:
            return summary([], {})
        samples = self.benchmark.samples([table for _, _, _, table, _ in found])
        scored = [
            Scored(
                trial=trial.number,
                name={"uniform": "uniform", "winner": "winner"}.get(kind, trial.name),
                kind=kind,
                score=score,
                items=items,
                tasks={task: evaluation.aggregates[task][metric] for task, metric in self.objective.metrics.items()},
                languages={task: evaluation.aggregates[task][LANGUAGE] for task in self.objective.languages},
            )
            for (trial, kind, score, _, evaluation), items in zip(found, samples, strict=True)
        ]
        return summary(scored, self.objective.weights_for(found[0][3].sizes))

    def _assess(self, trial: int, split: str, outcome: Outcome) -> Evaluation:
        """Turn a worker's answers into scores. A score that isn't finite is a failure like any other."""
        if isinstance(outcome, Failure):
            message = outcome.message
            if outcome.request is not None:
                item = self.benchmark.item(split, outcome.request)
                message += f" (item {item.id} of {item.task})"
            return Evaluation(trial=trial, split=split, failure=f"{outcome.reason}: {message}")
        start = time.perf_counter()
        try:
            table = self.benchmark.score(split, outcome.responses)
            aggregates = self.benchmark.aggregate(table)
        except BenchmarkError as error:
            return Evaluation(trial=trial, split=split, failure=f"error: {error}", seconds=outcome.seconds)
        score = self.objective.score(aggregates, table.sizes)
        seconds = {**outcome.seconds, "bookkeeping": time.perf_counter() - start}
        if not math.isfinite(score):
            return Evaluation(trial=trial, split=split, failure=f"not_finite: score {score}", seconds=seconds)
        return Evaluation(
            trial=trial,
            split=split,
            score=score,
            tie_break=self.objective.tie_break(table),
            penalty=self.objective.penalty(aggregates, table.sizes),
            shortfall=self.objective.shortfall(aggregates),
            table=table,
            aggregates=aggregates,
            seconds=seconds,
            peak_bytes=outcome.peak_bytes,
            worker=outcome.worker,
        )

    def _record(self, evaluation: Evaluation, trial: Trial) -> None:
        self.ledger.record(evaluation)
        self.clock.evaluated()
        if evaluation.split == "search":
            trial = self.ledger.trial(trial.number)
        self.observer.trial(record_of(self.ledger, trial))

    def _executor_for(self, split: str) -> Executor:
        executor = self._executor or self._start_workers()
        if split not in self._splits:
            blocks = [self.benchmark.places(split, items) for items in self._blocks(split)]
            executor.add_requests(split, self.benchmark.requests(split), blocks or None)
            self._splits.add(split)
        return executor

    def _start_workers(self) -> Executor:
        self.observer.phase("workers", None)
        settings = worker_settings(self.config, dtype=self.experiment.dtype, states=self.directory / PREPARED)
        self._executor = make_executor(self.config.execution, settings)
        return self._executor

    def _phase(self, name: str, total: int) -> None:
        self.observer.phase(name, total)
        self.clock.phase(name)

    def _checkpoint_recipe(self, model: str) -> Recipe:
        return checkpoint_recipe(self.experiment.template, model)

    def _facts(self) -> dict[str, Any]:
        config, space = self.config, self.space
        population = population_of(self.experiment, len(self.benchmark.splits["search"]))
        versions = {"python": platform.python_version()}
        for name in _VERSIONS:
            with suppress(ModuleNotFoundError):
                versions[name] = version(name)
        return {
            "identity": config.identity(),
            "dtype": self.experiment.dtype,
            "options": dict(self.experiment.options),
            "places": [list(place) for place in self.experiment.places],
            "items": self.benchmark.fingerprint,
            "population": population,
            "space": space.describe(),
            "benchmark": self.benchmark.describe(),
            "versions": versions,
        }


class _Jobs:
    """Jobs still to be done. Where others may follow an outcome, it ends only when every outcome is known."""

    def __init__(self, *, follow: bool) -> None:
        self._waiting: deque[Job] = deque()
        self._running = 0
        self._follow = follow

    def __iter__(self) -> Iterator[Job | None]:
        while self._waiting or (self._follow and self._running):
            if self._waiting:
                self._running += 1
                yield self._waiting.popleft()
            else:
                yield None

    def done(self) -> None:
        """One that was drawn has an outcome."""
        self._running -= 1

    def first(self, job: Job) -> None:
        """Do this before the others."""
        self._waiting.appendleft(job)

    def last(self, job: Job) -> None:
        """Do this after the others."""
        self._waiting.append(job)


def _part(job: Job, outcome: Answers) -> Part:
    """A block's answers, to be kept."""
    assert job.block is not None
    return Part(
        trial=job.number,
        split=job.split,
        block=job.block,
        responses=outcome.responses,
        seconds=outcome.seconds,
        peak_bytes=outcome.peak_bytes,
        worker=outcome.worker,
    )


def _copy(evaluation: Evaluation, trial: int) -> Evaluation:
    """The same result for a trial with the same recipe."""
    return Evaluation(
        trial=trial,
        split=evaluation.split,
        score=evaluation.score,
        tie_break=evaluation.tie_break,
        penalty=evaluation.penalty,
        shortfall=evaluation.shortfall,
        table=evaluation.table,
        aggregates=evaluation.aggregates,
        failure=evaluation.failure,
        same_as=evaluation.trial,
    )


def _fitness_of(evaluation: Evaluation | None) -> float:
    return -math.inf if evaluation is None or evaluation.fitness is None else evaluation.fitness


def _score_of(evaluation: Evaluation | None) -> float | None:
    return None if evaluation is None else evaluation.score
