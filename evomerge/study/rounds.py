"""A generation evaluated in rounds: after each block, the pruner decides over all candidates that are still in.

A decision is made of answers alone, and of those of the whole generation, so it comes out the same whoever answered
first. After an interruption the rounds are gone through again from the answers that are on disk.
"""

from __future__ import annotations

from collections.abc import Sequence

from evomerge.execute.base import Failure
from evomerge.run.trial import Trial
from evomerge.study.candidates import Candidates
from evomerge.study.jobs import Jobs


def evaluate_generation(candidates: Candidates, trials: Sequence[Trial]) -> None:
    """Evaluate a generation on the search items, each recipe once; return when all are done or stopped.

    Args:
        candidates: of the search.
        trials: the whole generation.
    """
    if not candidates.rivalry.is_of_generations:
        candidates.evaluate(trials, "search")
    elif not all(_is_done(candidates, trial) for trial in trials):
        _Rounds(candidates, trials).run()


class _Rounds:
    """The rounds of one generation."""

    def __init__(self, candidates: Candidates, trials: Sequence[Trial]) -> None:
        self._candidates = candidates
        self._trials = trials
        self._same: dict[int, list[Trial]] = {}
        """By number of the trial that answers for them, the trials with the same recipe."""
        self._heads: dict[int, int] = {}
        """By number of each trial, that of the one that answers for it, which may be of an earlier generation."""

    def run(self) -> None:
        """Go through all rounds."""
        candidates = self._candidates
        self._find_heads()
        inside = [*self._trials]
        blocks = candidates.session.schedule.share
        for done in range(1, blocks + 1):
            self._answer([*dict.fromkeys(self._heads[trial.number] for trial in inside)], done)
            # Who has fewer answers has failed.
            inside = [trial for trial in inside if candidates.parts.count(self._heads[trial.number], "search") >= done]
            if done == blocks or not inside:
                break
            going = candidates.rivalry.survivors(
                [self._heads[trial.number] for trial in inside], done, len(self._trials)
            )
            for trial, goes_on in zip(inside, going, strict=True):
                # A recipe that is known from before is complete whatever the pruner says.
                if not goes_on and not _is_done(candidates, trial):
                    candidates.prune(trial)
            inside = [trial for trial, goes_on in zip(inside, going, strict=True) if goes_on]
        for trial in inside:
            # With fresh items, nobody answers more than a share of them.
            if not _is_done(candidates, trial):
                candidates.prune(trial)

    def _find_heads(self) -> None:
        """Find who answers for whom; a recipe that is known from before isn't evaluated again."""
        candidates = self._candidates
        first: dict[str, int] = {}
        for trial in self._trials:
            known = candidates.ledger.evaluation_of(trial.recipe_key, "search")
            if known is not None and trial.recipe_key not in first:
                first[trial.recipe_key] = known.trial
            head = first.setdefault(trial.recipe_key, trial.number)
            self._heads[trial.number] = head
            self._same.setdefault(head, []).append(trial)
            if not _is_done(candidates, trial):
                candidates.take_over(trial, "search")

    def _answer(self, heads: Sequence[int], blocks: int) -> None:
        """Have each of these trials answer its next block, if it hasn't; record those that are done with it."""
        candidates, ledger = self._candidates, self._candidates.ledger
        open_ = {head: self._same[head] for head in heads if ledger.evaluation(head, "search") is None}
        short = [head for head in open_ if candidates.parts.count(head, "search") < blocks]
        jobs = Jobs(follow=bool(candidates.session.references))
        for head in short:
            jobs.last(candidates.job(ledger.trial(head), "search"))
        for job, outcome in candidates.session.executor_for("search").run(jobs) if short else ():
            jobs.done()
            if isinstance(outcome, Failure):
                candidates.finish(open_.pop(job.number), "search", candidates.covariates.blamed(job, outcome))
                continue
            candidates.keep(job, outcome)
            if candidates.parts.count(job.number, "search") < blocks:
                jobs.first(candidates.job(ledger.trial(job.number), "search"))
        for head, same in open_.items():
            whole = candidates.whole(ledger.trial(head), "search")
            if whole is not None:
                candidates.finish(same, "search", whole)


def _is_done(candidates: Candidates, trial: Trial) -> bool:
    return candidates.ledger.evaluation(trial.number, "search") is not None or candidates.is_pruned(trial)
