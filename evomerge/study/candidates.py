"""Candidates to outcomes: each recipe evaluated once on a split, whole or block by block, and recorded.

Knows jobs, blocks and scores. Does not know how candidates are proposed, nor which of them wins.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import BenchmarkError
from evomerge.execute.base import Answers, Failure, Job, Outcome
from evomerge.recipe.recipe import Recipe
from evomerge.run.answers import Part
from evomerge.run.clock import without_preparing
from evomerge.run.evaluation import Evaluation
from evomerge.run.recipes import checkpoint_recipe, own_recipe
from evomerge.run.records import record_of
from evomerge.run.trial import Trial, TrialKind, TrialState, each_once
from evomerge.score.requests import Response
from evomerge.space.base import Genome
from evomerge.study.covariates import Covariates
from evomerge.study.estimates import Estimates
from evomerge.study.jobs import Jobs
from evomerge.study.references import REFERENCE
from evomerge.study.rivalry import Rivalry, in_order
from evomerge.study.session import Session


class Candidates:
    """The candidates of an open search, from genome to recorded evaluation."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.space = session.space
        self.benchmark = session.benchmark
        self.ledger = session.ledger
        self.parts = session.parts
        self.rivalry = Rivalry(session)
        self.covariates = Covariates(session)
        self.estimates = Estimates(session, self.rivalry, self.covariates)
        self._recipes: dict[int, Recipe] = {}
        """Of new trials, until they end: a genome is decoded once."""

    def trial(
        self,
        kind: TrialKind,
        name: str,
        genome: Genome | None = None,
        *,
        generation: int | None = None,
        told: Sequence[int] = (),
    ) -> Trial:
        """The trial of this kind and recipe that the ledger holds, or a new one.

        A genome proposed twice is two trials (the second takes over the first's result). `told` is recorded with a
        new one.
        """
        if kind is TrialKind.METHOD:
            recipe = self.session.experiment.other_methods[name]
        else:
            recipe = self._checkpoint(name) if genome is None else self.space.decode(genome)
        key = recipe.key()
        if kind is not TrialKind.CANDIDATE:
            trial = self.ledger.find(kind, key)
            if trial is not None:
                return trial
        added = self.ledger.add(
            kind=kind,
            name=name,
            recipe_key=key,
            generation=generation,
            parameters=None if genome is None else self.space.parameters(genome),
            dimensions=self.space.dimensions,
            told=told,
        )
        if not added.state.is_finished:
            self._recipes[added.number] = recipe
        return added

    def elite(self, candidate: Trial) -> Trial:
        """The trial in which a stopped candidate answers all items."""
        genome = self.space.genome(candidate.parameters)
        return self.trial(TrialKind.ELITE, candidate.name, genome)

    def recipe(self, trial: Trial) -> Recipe:
        """The recipe of a trial."""
        if (known := self._recipes.get(trial.number)) is not None:
            return known
        if trial.kind.is_checkpoint:
            return self._checkpoint(trial.name)
        if trial.kind is TrialKind.METHOD:
            return self.session.experiment.other_methods[trial.name]
        return self.space.decode(self.space.genome(trial.parameters))

    def evaluate_phase(self, phase: str, trials: Sequence[Trial], split: str) -> None:
        """Evaluate trials on a split as a phase of the search, which announces as many: each counts once."""
        every = each_once(trials)
        self.session.phase(phase, len(every))
        self.evaluate(every, split)

    def evaluate(self, trials: Sequence[Trial], split: str) -> None:
        """Evaluate the trials that have no result on `split` yet, each recipe once; return when all are done.

        Where search items are answered in blocks, the pruner decides after each block but the last whether a
        proposed candidate answers the next. One that doesn't is pruned for good, and has no evaluation.
        """
        waiting: dict[str, list[Trial]] = {}
        stopped = {trial.recipe_key for trial in trials if self.is_pruned(trial)}
        for trial in trials:
            if self.ledger.evaluation(trial.number, split) is not None or self.is_pruned(trial):
                continue
            if trial.recipe_key in stopped:
                # The driver was killed after it had stopped the first of the same.
                self.prune(trial)
            elif not self.take_over(trial, split):
                waiting.setdefault(trial.recipe_key, []).append(trial)
        if not waiting:
            return
        by_number = {same[0].number: same for same in waiting.values()}

        def finish(number: int, outcome: Outcome) -> None:
            self.finish(by_number[number], split, outcome)

        def go_on(first: Trial, post: Callable[[Job], None]) -> None:
            same = by_number[first.number]
            if split != "search" or first.kind is not TrialKind.CANDIDATE or self.rivalry.goes_on(first):
                post(self.job(first, split))
            else:
                for trial in same:
                    self.prune(trial)

        jobs = Jobs(follow=bool(self.session.blocks(split)))
        for first, *_ in waiting.values():
            try:
                self.session.benchmark_for(first)
            except BenchmarkError as error:
                finish(first.number, Failure(reason="error", message=f"{first.name} can't be asked by itself: {error}"))
                continue
            # A search that was killed between a candidate's last block and its evaluation has all that it needs.
            if (whole := self.whole(first, split)) is not None:
                finish(first.number, whole)
            else:
                go_on(first, jobs.last)
        for job, outcome in self.session.executor_for(split).run(jobs):
            jobs.done()
            if job.blocks is None or isinstance(outcome, Failure):
                finish(job.number, self.covariates.blamed(job, outcome))
                continue
            self.keep(job, outcome)
            trial = by_number[job.number][0]
            if (whole := self.whole(trial, split)) is not None:
                finish(job.number, whole)
            else:
                go_on(trial, jobs.first)

    def take_over(self, trial: Trial, split: str) -> bool:
        """Record what is known of a trial's recipe as the trial's; whether anything is."""
        known = self.ledger.evaluation_of(trial.recipe_key, split)
        if known is not None:
            self._record(_copy(known, trial.number), trial)
        return known is not None

    def finish(self, same: Sequence[Trial], split: str, outcome: Outcome) -> None:
        """Record what became of trials that have the same recipe, the first of which was evaluated."""
        first, *others = same
        evaluation = self.assess(first, split, outcome)
        self._record(evaluation, first)
        for other in others:
            self._record(_copy(evaluation, other.number), other)

    def keep(self, job: Job, outcome: Answers) -> None:
        """Make answers to blocks durable."""
        part = Part(
            trial=job.number,
            split=job.split,
            block=self.parts.count(job.number, job.split),
            blocks=self._by_block(job, outcome.responses),
            seconds=outcome.seconds,
            peak_bytes=outcome.peak_bytes,
            worker=outcome.worker,
            lost_workers=outcome.lost_workers,
            distances=outcome.distances,
        )
        self.parts.add(part)

    def _by_block(self, job: Job, responses: Sequence[Response]) -> tuple[tuple[Response, ...], ...]:
        """Answers to several blocks in one go, apart."""
        if job.blocks is None or len(job.blocks) == 1:
            return (tuple(responses),)
        session = self.session
        places = [session.benchmark.places(job.split, session.blocks(job.split)[block]) for block in job.blocks]
        answers = dict(zip(sorted(place for block in places for place in block), responses, strict=True))
        return tuple(tuple(answers[place] for place in block) for block in places)

    def is_pruned(self, trial: Trial) -> bool:
        """Whether a trial was stopped before it had answered all search items."""
        return self.ledger.trial(trial.number).state is TrialState.PRUNED

    def _checkpoint(self, model: str) -> Recipe:
        make = own_recipe if model in self.session.as_themselves else checkpoint_recipe
        return make(self.session.experiment.template, model)

    def job(self, trial: Trial, split: str) -> Job:
        """What is to be done next for a trial."""
        if self.session.is_by_itself(trial):
            requests = self.session.benchmark_for(trial).requests(split)
            return Job(number=trial.number, recipe=self.recipe(trial), split=split, requests=requests)
        if split == "search" and self.covariates.are_missing(trial):
            return Job(number=trial.number, recipe=self.recipe(trial), split=REFERENCE, blocks=(0,))
        blocks = None
        if self.session.blocks(split):
            done = self.parts.count(trial.number, split)
            blocks = tuple(self.session.order(trial, split)[done : self.rivalry.next_stop(trial, done)])
        return Job(
            number=trial.number,
            recipe=self.recipe(trial),
            split=split,
            blocks=blocks,
            spent_s=sum(
                part.seconds[phase] for part in self._parts(trial, split) for phase in ("materialise", "respond")
            ),
        )

    def _parts(self, trial: Trial, split: str) -> tuple[Part, ...]:
        """All that a trial has answered for a split, reference answers first."""
        before = self.parts.of(trial.number, REFERENCE) if split == "search" else ()
        return (*before, *self.parts.of(trial.number, split))

    def whole(self, trial: Trial, split: str) -> Answers | None:
        """A trial's answers to all requests of a split, once each of its blocks is there."""
        blocks = len(self.session.blocks(split))
        if not blocks or self.parts.count(trial.number, split) < blocks:
            return None
        responses = in_order(self.session, trial, split, self.parts.blocks(trial.number, split))
        parts = self._parts(trial, split)
        return Answers(
            responses=tuple(responses),
            seconds={phase: sum(part.seconds[phase] for part in parts) for phase in parts[0].seconds},
            peak_bytes=max(part.peak_bytes for part in parts),
            worker=parts[-1].worker,
            lost_workers=tuple(one for part in parts for one in part.lost_workers),
            distances=parts[0].distances,
        )

    def fitness(self, trial: Trial) -> float | None:
        """Fitness of an evaluated trial on the search items; None if it failed."""
        evaluation = self.ledger.evaluation(trial.number, "search")
        return None if evaluation is None else evaluation.fitness

    def told(self, trial: Trial) -> tuple[float, ...] | None:
        """What the algorithm is told of an evaluated trial, a number for each objective; None if it failed."""
        evaluation = self.ledger.evaluation(trial.number, "search")
        return None if evaluation is None else evaluation.told

    def item_scores(self, trials: Sequence[Trial]) -> NDArray[np.float64]:
        """Scores on each search item, (trials, items); not a number for a trial that hasn't a score of its own."""
        sizes = Counter(item.task for item in self.benchmark.splits["search"])
        found = np.full((len(trials), sum(sizes.values())), np.nan)
        for row, trial in zip(found, trials, strict=True):
            evaluation = self.ledger.evaluation(trial.number, "search")
            if evaluation is not None and evaluation.table is not None and evaluation.score is not None:
                row[:] = self.benchmark.objective.item_scores(evaluation.table, sizes)
        return found

    def search_evaluations(self) -> dict[int, Evaluation]:
        """Evaluations on the search items, by trial number."""
        return {item.trial: item for item in self.ledger.evaluations() if item.split == "search"}

    def assess(self, model: Trial, split: str, outcome: Outcome) -> Evaluation:
        """Turn a worker's answers into scores. A score that isn't finite is a failure like any other."""
        trial = model.number
        if isinstance(outcome, Failure):
            message = outcome.message
            if outcome.request is not None:
                item = self.session.benchmark_for(model).item(split, outcome.request)
                message += f" (item {item.id} of {item.task})"
            return Evaluation(
                trial=trial, split=split, failure=f"{outcome.reason}: {message}", lost_workers=outcome.lost_workers
            )
        start = time.perf_counter()
        try:
            table = self.session.benchmark_for(model).score(split, outcome.responses)
            if self.session.is_by_itself(model):
                # The same documents in the same order, whose identity holds the prompt that the model saw.
                named: dict[str, list[str]] = {}
                for item in self.benchmark.splits[split]:
                    named.setdefault(item.task, []).append(item.id)
                table = table.with_items(named)
            if split == "search":
                table = self.covariates.in_table(table, model)
            aggregates = self.benchmark.aggregate(table)
        except BenchmarkError as error:
            return Evaluation(trial=trial, split=split, failure=f"error: {error}", seconds=outcome.seconds)
        score = self.benchmark.objective.score(aggregates, table.sizes)
        seconds = {**outcome.seconds, "bookkeeping": time.perf_counter() - start}
        if not math.isfinite(score):
            return Evaluation(trial=trial, split=split, failure=f"not_finite: score {score}", seconds=seconds)
        lengths = self.session.lengths(model, split, table) if self.session.measures.needs_lengths() else {}
        distances = self.session.distances(model) if self.session.is_by_itself(model) else outcome.distances
        return Evaluation(
            trial=trial,
            split=split,
            score=score,
            measured=self.session.measures.values(table, aggregates, lengths, distances),
            tie_break=self.benchmark.objective.tie_break(table),
            penalty=self.benchmark.objective.penalty(aggregates, table.sizes),
            shortfall=self.benchmark.objective.shortfall(aggregates),
            table=table,
            aggregates=aggregates,
            seconds=seconds,
            peak_bytes=outcome.peak_bytes,
            worker=outcome.worker,
            lost_workers=outcome.lost_workers,
        )

    def prune(self, trial: Trial) -> None:
        """Record that a trial was stopped before it had answered all search items."""
        self._recipes.pop(trial.number, None)
        blocks = self.parts.count(trial.number, "search")
        self.ledger.prune(trial.number, blocks, self.rivalry.scores(trial.number, blocks).mean() if blocks else None)
        self.session.clock.evaluated()
        self.session.observer.trial(record_of(self.ledger, self.ledger.trial(trial.number)))

    def _record(self, evaluation: Evaluation, trial: Trial) -> None:
        self._recipes.pop(trial.number, None)
        self.ledger.record(evaluation)
        self.session.clock.evaluated(without_preparing(evaluation.seconds))
        if evaluation.split == "search":
            trial = self.ledger.trial(trial.number)
        # Of this evaluation, which may be of another split.
        self.session.observer.trial(replace(record_of(self.ledger, trial), seconds=evaluation.seconds))


def _copy(evaluation: Evaluation, trial: int) -> Evaluation:
    """The same result for a trial with the same recipe, which took nothing."""
    return replace(
        evaluation, trial=trial, same_as=evaluation.trial, seconds={}, peak_bytes=0, worker="", lost_workers=()
    )
