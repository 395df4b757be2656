"""What a search is compared with, scored before the algorithm proposes anything: models and simple merges.

The base, the experts, uniform merges, and merges of other methods where the config asks for them.

Knows which models these are. Does not know how they are evaluated, nor what is concluded from them.
"""

from __future__ import annotations

from evomerge.errors import RunError
from evomerge.run.trial import Trial, TrialKind
from evomerge.space.base import Genome
from evomerge.study.candidates import Candidates
from evomerge.study.select import best_uniform, ranked


def score_baselines(candidates: Candidates) -> Genome | None:
    """Score the base, experts, uniform merges, the start and other methods; return the best that the space has.

    That is the best uniform merge, or a better one of another method, where the space can express it.
    """
    session, space = candidates.session, candidates.space
    trials = [candidates.trial(TrialKind.BASE, "base")]
    trials += [candidates.trial(TrialKind.EXPERT, name) for name in session.config.models.experts]
    trials += _uniform(candidates)
    if session.start is not None:
        genome = space.genome(session.start.parameters)
        trials.append(candidates.trial(TrialKind.START, "start", genome))
    trials += _other_methods(candidates)
    candidates.evaluate_phase("baselines", trials, "search")
    trials, evaluations = candidates.ledger.trials(), candidates.search_evaluations()
    methods = [trial for trial in trials if trial.kind is TrialKind.METHOD]
    for trial in ranked([*best_uniform(trials, evaluations, 1), *methods], evaluations):
        if trial.kind is TrialKind.UNIFORM:
            return space.genome(trial.parameters)
        found = space.encode(candidates.recipe(trial))
        if found is not None:
            return found
    return None


def check_references(candidates: Candidates) -> None:
    """Find whether the models that constraints compare with have scores. Raises: RunError naming one that has none."""
    for bound in candidates.session.goals.bounds:
        if bound.than is not None and not candidates.ledger.measured(bound.than, "search"):
            raise RunError(
                f"search.constraints.{bound.name}: {bound.than!r} couldn't be scored, so nothing can be compared with "
                f"it; see: evomerge trials {candidates.session.directory}. Give the constraint a number (at_least or "
                "at_most) in a new run directory"
            )


def _uniform(candidates: Candidates) -> list[Trial]:
    """The uniform merges: those of the run if it has them all, whichever this release would choose now."""
    trials = [trial for trial in candidates.ledger.trials() if trial.kind is TrialKind.UNIFORM]
    if any(trial.kind is TrialKind.CANDIDATE for trial in candidates.ledger.trials()):
        # All of them are recorded before the first candidate.
        return trials
    count = candidates.session.config.search.scan
    for genome in candidates.space.starting_points(count):
        if len(trials) == count:
            break
        trial = candidates.trial(TrialKind.UNIFORM, f"uniform {len(trials) + 1}", genome)
        if trial not in trials:
            trials.append(trial)
    return trials


def _other_methods(candidates: Candidates) -> list[Trial]:
    """The merges of other methods, one method after the other, so that each is prepared once."""
    return [candidates.trial(TrialKind.METHOD, name) for name in candidates.session.experiment.other_methods]
