"""Blocks of answers that a damaged disk lost: asked again of those that have ended, since others are judged by them.

Their evaluations, and the decisions to stop them, stand as they are.
"""

from __future__ import annotations

from evomerge.errors import ResumeError, counted, listed
from evomerge.execute.base import Failure
from evomerge.run.answers import PARTS
from evomerge.run.trial import Trial, TrialState
from evomerge.study.candidates import Candidates
from evomerge.study.jobs import Jobs


def ask_again(candidates: Candidates) -> None:
    """Have candidates that have ended answer the blocks that they had, and that aren't there any more.

    Raises: ResumeError if one that was stopped can't: what the search algorithm was told of it goes by its answers.
    """
    if not candidates.session.config.search.answers_parts:
        return
    short = {trial.number: trial for trial in candidates.ledger.trials() if _lacks(candidates, trial)}
    if not short:
        return
    observer = candidates.session.observer
    observer.message(
        f"{PARTS}: answers of {counted(len(short), 'trial')} are lost and asked again: {listed(map(str, short))}"
    )
    jobs = Jobs(follow=True)
    for trial in short.values():
        jobs.last(candidates.job(trial, "search"))
    for job, outcome in candidates.session.executor_for("search").run(jobs):
        jobs.done()
        trial = short[job.number]
        if isinstance(outcome, Failure):
            if trial.state is TrialState.PRUNED:
                raise ResumeError(
                    f"{candidates.session.directory}: {PARTS}: trial {job.number} was stopped, its answers are lost, "
                    f"and it can't be asked again ({outcome.message}); without them the search can't be continued "
                    "exactly. Resume it where the trial can be evaluated"
                )
            observer.message(
                f"trial {job.number} can't be asked again ({outcome.message}); others are judged without it"
            )
            continue
        candidates.keep(job, outcome)
        if _lacks(candidates, trial):
            jobs.first(candidates.job(trial, "search"))
        else:
            _compare(candidates, trial)


def _lacks(candidates: Candidates, trial: Trial) -> bool:
    had = _had(candidates, trial)
    if trial.state is TrialState.PRUNED and had and candidates.covariates.are_missing(trial):
        return True
    return candidates.parts.count(trial.number, "search") < had


def _had(candidates: Candidates, trial: Trial) -> int:
    """How many blocks a trial that has ended had answered itself."""
    if trial.state is TrialState.PRUNED:
        return trial.blocks
    found = candidates.ledger.evaluation(trial.number, "search")
    if found is None or found.failure is not None or found.same_as is not None:
        return 0
    return 0 if candidates.session.is_by_itself(trial) else len(candidates.session.blocks("search"))


def _compare(candidates: Candidates, trial: Trial) -> None:
    """Say so if a trial answers otherwise than it did, as it may on another machine."""
    whole, recorded = candidates.whole(trial, "search"), candidates.ledger.evaluation(trial.number, "search")
    if whole is None or recorded is None:
        return
    score = candidates.assess(trial, "search", whole).score
    if score != recorded.score:
        candidates.session.observer.message(
            f"trial {trial.number} answers otherwise than it did: score {score}, where {recorded.score} is recorded. "
            "The record stands; others are judged by the new answers"
        )
