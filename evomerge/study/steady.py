"""An asynchronous search: as many candidates in flight as there are workers, each told as soon as it is known.

So no worker waits for the slowest candidate of a generation, and which candidates are proposed depends on who ends
first. Each trial therefore holds the trials that were told before it was asked; a search that goes on tells and asks
again in that order, tells what ended afterwards in the order of its record, and evaluates what was in flight.

Knows turns and the budget. Does not know how a candidate is evaluated, nor what is concluded.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from statistics import median

import numpy as np

from evomerge.algorithms.base import Proposer
from evomerge.execute.base import Failure, Job, Outcome
from evomerge.run.trial import Trial, TrialKind
from evomerge.study.candidates import Candidates
from evomerge.study.fronts import FrontReport
from evomerge.study.generations import lowest_of, recorded_genome
from evomerge.study.spent import Budget


def evolve_steadily(candidates: Candidates, proposer: Proposer) -> dict[int, float]:
    """Spend the budget, candidate by candidate.

    Returns: what the algorithm was told of each candidate, by number of its trial.
    Raises: ResumeError if the algorithm proposes others than those on record.
    """
    return _Search(candidates, proposer).run()


class _Search:
    """One search while it goes on."""

    def __init__(self, candidates: Candidates, proposer: Proposer) -> None:
        self._candidates = candidates
        self._session = session = candidates.session
        self._proposer = proposer
        self._budget = Budget(session, one_by_one=True)
        self._front = FrontReport(session) if session.goals.are_several else None
        baselines = [candidates.told(trial) for trial in candidates.ledger.trials() if trial.kind.is_baseline]
        self._lowest = lowest_of(np.full(session.goals.count, math.inf), baselines)
        self._told: dict[int, float] = {}
        self._numbers: dict[int, int] = {}
        """The algorithm's own number of each trial."""
        self._flying: dict[int, Trial] = {}
        """Trials that were asked and aren't told, by number, in ask order."""
        self._same: dict[str, list[Trial]] = {}
        """Of these, those with the same recipe; the first is evaluated."""
        self._unasked: list[int] = []
        """Trials that were told since the last was asked."""
        self._latest: list[Trial] = []
        """Trials that were told since figures were last reported."""
        self._jobs: deque[Job] = deque()
        self._running = 0
        self._is_over = False

    def run(self) -> dict[int, float]:
        """Go on from what is on record until the budget is spent and all that is in flight is known."""
        self._session.phase("search", self._budget.worth)
        self._replay()
        if not self._is_done():
            for job, outcome in self._session.executor_for("search").run(self._drawn()):
                self._running -= 1
                self._take(job, outcome)
        if self._latest:
            self._report()
        if spent := self._budget.items_spent:
            self._session.observer.message(f"stopped after {spent}")
        return self._told

    def _replay(self) -> None:
        """Ask and tell all that is on record, in the order in which it was."""
        ledger = self._candidates.ledger
        for trial in [trial for trial in ledger.trials() if trial.kind is TrialKind.CANDIDATE]:
            for number in trial.told:
                if ledger.evaluation(number, "search") is None:
                    # Its evaluation is lost; whatever was asked after it was asked with it.
                    self._candidates.evaluate([ledger.trial(number)], "search")
                self._tell(self._flying[number])
            own, genome = self._proposer.ask_one()
            recorded_genome(self._candidates, trial, genome)
            self._numbers[trial.number], self._flying[trial.number], self._unasked = own, trial, []
        for evaluation in ledger.evaluations():
            if evaluation.split == "search" and evaluation.trial in self._flying:
                self._tell(self._flying[evaluation.trial])
        for trial in [*self._flying.values()]:
            self._post(trial)

    def _is_done(self) -> bool:
        return not self._flying and not self._may_ask()

    def _may_ask(self) -> bool:
        """Whether the budget pays for one more beside those in flight."""
        if self._is_over or self._budget.candidates_left <= len(self._flying):
            return False
        if spent := self._budget.time_spent:
            self._is_over = True
            self._session.observer.message(f"stopped after {spent}")
        return not self._is_over

    def _drawn(self) -> Iterator[Job | None]:
        """Jobs as workers come for them; None while there is none, and outcomes that bring others are still to come."""
        executor = self._session.executor_for("search")
        while True:
            limit = self._session.config.search.in_flight or executor.workers
            while len(self._flying) < limit and self._may_ask():
                self._ask()
            if self._jobs:
                self._running += 1
                yield self._jobs.popleft()
            elif self._running:
                yield None
            else:
                return

    def _ask(self) -> None:
        own, genome = self._proposer.ask_one()
        count = len(self._numbers)
        trial = self._candidates.trial(
            TrialKind.CANDIDATE,
            f"candidate {count}",
            genome,
            generation=count // self._session.population,
            told=self._unasked,
        )
        self._numbers[trial.number], self._flying[trial.number], self._unasked = own, trial, []
        self._post(trial)

    def _post(self, trial: Trial) -> None:
        """Have a trial evaluated, unless its recipe is known or in flight."""
        candidates = self._candidates
        if candidates.take_over(trial, "search"):
            self._tell(trial)
            return
        same = self._same.setdefault(trial.recipe_key, [])
        same.append(trial)
        if len(same) > 1:
            return
        # A search that was killed between a candidate's last block and its evaluation has all that it needs.
        if (whole := candidates.whole(trial, "search")) is not None:
            self._finish(trial, whole)
        else:
            self._jobs.append(candidates.job(trial, "search"))

    def _take(self, job: Job, outcome: Outcome) -> None:
        """Keep what a worker found; a candidate with blocks to go comes before others."""
        trial = self._flying[job.number]
        if job.blocks is None or isinstance(outcome, Failure):
            self._finish(trial, outcome)
            return
        self._candidates.keep(job, outcome)
        if (whole := self._candidates.whole(trial, "search")) is not None:
            self._finish(trial, whole)
        else:
            self._jobs.appendleft(self._candidates.job(trial, "search"))

    def _finish(self, trial: Trial, outcome: Outcome) -> None:
        same = self._same.pop(trial.recipe_key)
        self._candidates.finish(same, "search", outcome)
        for one in same:
            self._tell(one)

    def _tell(self, trial: Trial) -> None:
        """Tell the algorithm of a trial that has ended; a failed one is as bad as the worst known so far."""
        found = self._candidates.told(trial)
        self._lowest = lowest_of(self._lowest, [found])
        floor = np.where(np.isfinite(self._lowest), self._lowest, 0.0)
        fitness = floor if found is None else np.array(found, dtype=np.float64)
        genome = self._candidates.space.genome(trial.parameters)
        scores = self._candidates.item_scores([trial])[0] if self._proposer.learns_items else None
        self._proposer.tell_one(self._numbers[trial.number], genome, fitness, scores)
        del self._flying[trial.number]
        self._told[trial.number] = float(fitness[0])
        self._unasked.append(trial.number)
        self._budget.spend([trial])
        self._latest.append(trial)
        if len(self._latest) == self._session.population:
            self._report()

    def _report(self) -> None:
        """Say how the candidates that ended last have done, as many as a population."""
        number = (len(self._told) - 1) // self._session.population
        failed = sum(self._candidates.fitness(trial) is None for trial in self._latest)
        if self._front is not None:
            self._front.generation(number, self._latest, failed)
        else:
            fitness = [self._told[trial.number] for trial in self._latest]
            self._session.observer.generation(number, max(fitness), median(fitness), failed)
        self._latest = []
