"""What a page of a run is made of, read once: its trials, its result, how far it is, and what its scores are worth."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np

from evomerge.errors import RecipeError, RunError
from evomerge.recipe.recipe import Recipe
from evomerge.report.rescore import objective_of
from evomerge.run.directory import DONE, Run
from evomerge.run.fronts import KNEE, front_of, merges_of, picked
from evomerge.run.lock import is_locked
from evomerge.run.recipes import recipe_of
from evomerge.run.records import TrialRecord, leaders, record_of
from evomerge.run.trial import TrialKind, TrialState
from evomerge.score.objective import INFEASIBLE, Objective
from evomerge.score.table import ItemTable


class RunFacts:
    """A run as it is on disk now. Safe while the run is being driven.

    Args:
        run: open for reading.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.config = run.config
        self.goals = run.config.search.goals
        self.is_driven = is_locked(run.directory)
        self.result = run.result()
        self.has_ended = self.result is not None and run.has_ended()
        self.progress = run.progress()
        self.ledger = run.ledger()
        self.trials: list[TrialRecord] = [record_of(self.ledger, trial) for trial in self.ledger.trials()]
        self.candidates = [trial for trial in self.trials if trial.kind is TrialKind.CANDIDATE]
        self.leaders = leaders(self.trials)

    @property
    def name(self) -> str:
        """Of the run: that of its directory."""
        return self.run.directory.resolve().name

    @cached_property
    def objective(self) -> Objective:
        """How scores of tasks become one number."""
        return objective_of(self.run)

    @cached_property
    def shown(self) -> TrialRecord | None:
        """The merge whose coefficients and answers are shown: the winner, the knee of a front, or the best so far."""
        if self.result is not None:
            number = self.result["picks"].get(KNEE) if self.goals.are_several else None
            return self.trials[int(self.result["winner"]["trial"] if number is None else number)]
        if self.goals.are_several:
            members = front_of(merges_of(self.ledger))
            return self.trials[picked(KNEE, members, self.goals).trial] if members else None
        ranked = [trial for trial in self.trials if trial.fitness is not None and trial.kind.is_ranked]
        return max(ranked, key=lambda trial: trial.fitness or -math.inf, default=None)

    @property
    def shown_as(self) -> str:
        """What that merge is, in words."""
        assert self.shown is not None
        number = self.shown.number
        if self.goals.are_several:
            return f"the knee of the front{'' if self.result else ' so far'}, trial {number}"
        return f"the winner, trial {number}" if self.result else f"the best so far on the search items, trial {number}"

    @cached_property
    def recipe(self) -> Recipe | None:
        """Of that merge."""
        if self.shown is None:
            return None
        if self.result is not None and self.result.get("winner", {}).get("trial") == self.shown.number:
            return Recipe.from_data(self.result["winner"]["recipe"], where="result.json")
        try:
            trial = self.ledger.trial(self.shown.number)
            return recipe_of(self.config, self.run.facts, trial, self.run.directory)
        except (RunError, RecipeError):
            return None

    @property
    def expert_on_test(self) -> TrialRecord | None:
        """The expert with the highest score on the test items."""
        tested = [trial for trial in self.trials if trial.kind is TrialKind.EXPERT and trial.test is not None]
        return max(tested, key=lambda trial: trial.test or 0.0, default=None)

    def table(self, trial: int, split: str) -> ItemTable | None:
        """A trial's scores on each item of a split."""
        found = self.ledger.evaluation(trial, split)
        return None if found is None else found.table

    def error(self, trial: int) -> float | None:
        """The standard error of a trial's score over the search items; None if its metrics aren't means of items."""
        table = self.table(trial, "search")
        return None if table is None else self.error_of(table)

    def error_of(self, table: ItemTable) -> float | None:
        """The standard error of a score; None where metrics aren't means of items, or a task has one item."""
        means = self.objective.means
        if means is not None and set(self.objective.metrics) - means:
            return None
        variance = 0.0
        for task, weight in self.objective.weights_for(table.sizes).items():
            values = np.array(table.tasks[task].values[self.objective.metrics[task]], dtype=np.float64)
            if len(values) < 2:
                return None
            variance += weight**2 * float(values.var(ddof=1)) / len(values)
        return math.sqrt(variance)

    def state(self) -> str:
        """How far the search is, in a sentence or two."""
        count = sum(trial.state.is_finished for trial in self.candidates)
        budget = self.run.plan().candidates(self.progress)
        if self.has_ended:
            return f"The search has ended after {count:,} candidate{'s' if count != 1 else ''}."
        phase = str(self.progress.get("phase", "not started"))
        where = "" if phase in {"not started", DONE} else f" during {phase}"
        done = f"with {count:,} of {budget:,} candidates done"
        now = (
            f"This run is being driven and has not ended: {phase}, {done}"
            if self.is_driven
            else f"This run has stopped{where} and has not ended, {done}"
        )
        if self.result is not None:
            return f"{now}. The result below is that of the smaller budget that it had before."
        return f"{now}. There is no result yet: nothing has been scored on test items."

    def count(self, state: TrialState) -> int:
        """Candidates in a state."""
        return sum(trial.state is state for trial in self.candidates)

    @property
    def scored(self) -> list[TrialRecord]:
        """Candidates with a score on all search items, which meet all requirements."""
        return [
            trial
            for trial in self.candidates
            if trial.score is not None and trial.fitness is not None and trial.fitness > -INFEASIBLE
        ]

    def benchmark(self) -> dict[str, Any]:
        """What candidates are scored on, as run.json has it."""
        found: dict[str, Any] = self.run.facts["benchmark"]
        return found
