"""The generations of a search: ask, evaluate, tell, until the budget is spent.

Knows turns and the budget. Does not know how a candidate is evaluated, nor what is concluded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import numpy as np
from numpy.typing import NDArray

from evomerge.algorithms.base import Proposer
from evomerge.errors import ResumeError
from evomerge.run.trial import Trial, TrialKind
from evomerge.space.base import Genome
from evomerge.study.candidates import Candidates
from evomerge.study.fronts import FrontReport
from evomerge.study.rounds import evaluate_generation
from evomerge.study.spent import Budget
from evomerge.study.surrogate import Surrogate


def evolve(candidates: Candidates, proposer: Proposer) -> dict[int, float]:
    """Spend the budget, generation by generation.

    Returns: what the algorithm was told of each candidate, by number of its trial.
    """
    told: dict[int, float] = {}
    session = candidates.session
    budget = Budget(session)
    session.phase("search", budget.worth)
    proposed, generation = 0, 0
    baselines = [candidates.told(trial) for trial in candidates.ledger.trials() if trial.kind.is_baseline]
    lowest = lowest_of(np.full(session.goals.count, math.inf), baselines)
    front = FrontReport(session) if session.goals.are_several else None
    surrogate = Surrogate(candidates)
    while left := budget.candidates_left:
        known = candidates.ledger.generation(generation)
        if not known and (spent := budget.time_spent):
            session.observer.message(f"stopped after {spent}")
            return told
        asked = proposer.ask()
        if left >= len(asked):
            asked = surrogate.guided(asked, generation, known)
        genomes = _replayed(candidates, asked, known)[:left]
        trials = known[: len(genomes)] + [
            candidates.trial(TrialKind.CANDIDATE, f"candidate {number}", genome, generation=generation)
            for number, genome in enumerate(genomes[len(known) :], start=proposed + len(known))
        ]
        evaluate_generation(candidates, trials)
        lowest = lowest_of(lowest, [candidates.told(trial) for trial in trials])
        fitness = _fitness(candidates, trials, np.where(np.isfinite(lowest), lowest, 0.0))
        told |= {trial.number: float(value) for trial, value in zip(trials, fitness[:, 0], strict=True)}
        failed = sum(candidates.fitness(trial) is None and not candidates.is_pruned(trial) for trial in trials)
        budget.spend(trials)
        if front is not None:
            front.generation(generation, trials, failed)
        else:
            session.observer.generation(generation, float(fitness.max()), float(median(fitness[:, 0])), failed)
        proposed += len(trials)
        if len(genomes) < len(asked):
            # The budget cuts the last generation short; a proposer can't learn from part of one.
            break
        proposer.tell(genomes, fitness, candidates.item_scores(trials) if proposer.learns_items else None)
        _probe(candidates, proposer, generation)
        generation += 1
    if spent := budget.items_spent:
        session.observer.message(f"stopped after {spent}")
    return told


def _probe(candidates: Candidates, proposer: Proposer, generation: int) -> None:
    """With fresh items, have the distribution's mean answer all of them now and then: what is told of candidates is
    of some, and too good for the best of them.
    """
    session = candidates.session
    every = session.config.search.probe
    if not session.schedule.is_fresh or (generation + 1) % every:
        return
    mean = proposer.mean()
    if mean is None:
        return
    trial = candidates.trial(TrialKind.MEAN, f"mean after {generation + 1} generations", mean)
    known = candidates.fitness(trial) is not None
    candidates.evaluate([trial], "search")
    found = candidates.fitness(trial)
    if found is not None and not known:
        session.observer.message(
            f"the distribution's mean after {generation + 1} generations has fitness {found:.4f} on all search items"
        )


def _replayed(candidates: Candidates, asked: list[Genome], known: Sequence[Trial]) -> list[Genome]:
    """The genomes of a generation, as recorded where they were. Raises: ResumeError if the replay diverges."""
    recorded = [recorded_genome(candidates, trial, genome) for trial, genome in zip(known, asked, strict=False)]
    return [*recorded, *asked[len(recorded) :]]


def recorded_genome(candidates: Candidates, trial: Trial, asked: Genome) -> Genome:
    """The genome of a trial as it was recorded, in place of the one that is asked now.

    Raises: ResumeError if the replay diverges.
    """
    recorded = candidates.space.genome(trial.parameters)
    # Another processor may differ in the last bits, which is harmless; anything more is another search.
    if not np.allclose(recorded, asked, rtol=1e-6, atol=1e-9):
        raise ResumeError(
            f"{candidates.session.directory}: trial {trial.number} isn't what this seed proposes, so the search "
            "can't be continued exactly. Was it run with other versions of cma, optuna or numpy? "
            "They are in run.json"
        )
    return recorded


def lowest_of(known: NDArray[np.float64], told: Sequence[tuple[float, ...] | None]) -> NDArray[np.float64]:
    """The worst of each objective, (objectives,), among what is known so far and what has been told."""
    values = [known, *(np.array(one, dtype=np.float64) for one in told if one is not None)]
    lowest: NDArray[np.float64] = np.min(values, axis=0)
    return lowest


def _fitness(candidates: Candidates, trials: Sequence[Trial], floor: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fitness in ask order, (candidates, objectives).

    One that has answered its share of fresh items has what these let expect; a pruned one's is up to the estimator,
    or without one to the pruner; a failed one counts as the worst known so far in each objective.

    Args:
        candidates: of the search.
        trials: a generation.
        floor: the worst of each objective known so far, (objectives,).
    """
    found = {trial.number: value for trial in trials if (value := candidates.told(trial)) is not None}
    pruned = [trial for trial in trials if candidates.is_pruned(trial)]
    rivalry = candidates.rivalry
    found |= {trial.number: (rivalry.estimated(trial),) for trial in pruned if rivalry.has_answered_its_share(trial)}
    pruned = [trial for trial in pruned if trial.number not in found]
    if pruned:
        # There is one objective then.
        complete = np.array([*found.values()] or [tuple(floor)], dtype=np.float64)[:, 0]
        told = (candidates.estimates if candidates.estimates.wanted else rivalry).told(pruned, complete)
        floor = np.minimum(floor, told.min())
        found |= {trial.number: (float(value),) for trial, value in zip(pruned, told, strict=True)}
    return np.array([found.get(trial.number, tuple(floor)) for trial in trials], dtype=np.float64)
