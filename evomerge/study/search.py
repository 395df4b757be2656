"""The search: ask a population, decode genomes to recipes, evaluate them, tell their fitness, repeat.

Resuming is the same loop: the proposer is rebuilt by asking and telling again, and candidates that
the ledger already holds are not evaluated a second time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.algorithms import PROPOSERS
from evomerge.algorithms.base import Proposer
from evomerge.config.config import Config
from evomerge.errors import ResumeError
from evomerge.run.directory import open_run
from evomerge.run.lock import lock
from evomerge.run.observer import Observer, SilentObserver
from evomerge.run.trial import Trial, TrialKind
from evomerge.space.base import Genome
from evomerge.study.candidates import Candidates
from evomerge.study.conclude import conclude
from evomerge.study.select import best_uniform
from evomerge.study.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a search ended: the run directory, the winning trial and the contents of result.json."""

    directory: Path
    winner: int
    data: dict[str, Any]


def search(config: Config, directory: str | Path, *, observer: Observer | None = None, where: str = "config") -> Result:
    """Run a search in `directory`, or continue the one that is there.

    `where` names the config's file in error messages.
    Raises: EvomergeError subclasses: for a config, model or benchmark that can't be used (before any
        worker starts), a directory of another experiment or under another driver, or a disk that can't
        be written. What was evaluated until then is kept.
    """
    directory, observer = Path(directory), observer or SilentObserver()
    with lock(directory), Session(config, directory, observer, where) as session:
        data = session.finished or _run(Candidates(session))
    return Result(directory=directory, winner=data["winner"]["trial"], data=data)


def resume(
    directory: str | Path,
    *,
    evaluations: int | None = None,
    hours: float | None = None,
    observer: Observer | None = None,
) -> Result:
    """Continue a run from its directory alone, if asked with a larger budget."""
    run = open_run(directory)
    budget = {name: value for name, value in (("evaluations", evaluations), ("hours", hours)) if value is not None}
    if evaluations is not None and evaluations < run.config.search.evaluations:
        raise ResumeError(
            f"{directory}: --evaluations {evaluations} is below the run's {run.config.search.evaluations}; "
            "a budget can only grow"
        )
    config = run.config.model_copy(update={"search": run.config.search.model_copy(update=budget)})
    return search(config, directory, observer=observer, where=str(Path(directory) / "config.yaml"))


def _run(candidates: Candidates) -> dict[str, Any]:
    """Baselines, generations, the distribution's mean, and the conclusion."""
    uniform = _baselines(candidates)
    proposer = _proposer(candidates.session, uniform)
    _evolve(candidates, proposer)
    mean = proposer.mean()
    if mean is not None:
        candidates.evaluate([candidates.trial(TrialKind.MEAN, "distribution mean", mean)], "search")
    return conclude(candidates)


def _baselines(candidates: Candidates) -> Genome | None:
    """Score the base, each expert and the uniform merges; return the best uniform genome."""
    session, space = candidates.session, candidates.space
    trials = [candidates.trial(TrialKind.BASE, "base")]
    trials += [candidates.trial(TrialKind.EXPERT, name) for name in session.config.models.experts]
    trials += _uniform(candidates)
    session.phase("baselines", len(trials))
    candidates.evaluate(trials, "search")
    best = best_uniform(candidates.ledger.trials(), candidates.search_evaluations(), 1)
    return space.genome(best[0].parameters) if best else None


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


def _proposer(session: Session, uniform: Genome | None) -> Proposer:
    """The configured algorithm, starting from the best uniform merge unless told otherwise."""
    settings = session.config.search
    start = uniform if uniform is not None and settings.initial == "uniform" else session.space.default()
    dimensions = [
        replace(item, initial=float(value)) for item, value in zip(session.space.dimensions, start, strict=True)
    ]
    proposer: Proposer = PROPOSERS.get(settings.algorithm)(
        dimensions,
        seed=settings.seed,
        population=session.population,
        step_size=settings.step_size,
        options=settings.options,
    )
    return proposer


def _evolve(candidates: Candidates, proposer: Proposer) -> None:
    """Spend the budget, generation by generation."""
    session = candidates.session
    budget, hours = session.config.search.evaluations, session.config.search.hours
    session.phase("search", budget)
    proposed, generation = 0, 0
    baselines = [candidates.fitness(trial) for trial in candidates.ledger.trials() if trial.kind.is_baseline]
    lowest = min((value for value in baselines if value is not None), default=math.inf)
    while proposed < budget:
        known = candidates.ledger.generation(generation)
        if not known and hours is not None and session.clock.hours >= hours:
            session.observer.message(f"stopped after {session.clock.hours:.2f} hours of driving")
            return
        asked = proposer.ask()
        genomes = _replayed(candidates, asked, known)[: budget - proposed]
        trials = known[: len(genomes)] + [
            candidates.trial(TrialKind.CANDIDATE, f"candidate {number}", genome, generation=generation)
            for number, genome in enumerate(genomes[len(known) :], start=proposed + len(known))
        ]
        candidates.evaluate(trials, "search")
        scored = [value for trial in trials if (value := candidates.fitness(trial)) is not None]
        lowest = min([lowest, *scored])
        fitness = _fitness(candidates, trials, lowest if math.isfinite(lowest) else 0.0)
        failed = sum(candidates.fitness(trial) is None and not candidates.is_pruned(trial) for trial in trials)
        session.observer.generation(generation, float(fitness.max()), float(median(fitness)), failed)
        proposed += len(trials)
        if len(genomes) == len(asked):
            # The budget may cut the last generation short; a proposer can't learn from part of one.
            proposer.tell(genomes, fitness[:, np.newaxis])
        generation += 1


def _replayed(candidates: Candidates, asked: list[Genome], known: Sequence[Trial]) -> list[Genome]:
    """The genomes of a generation, as recorded where they were. Raises: ResumeError if the replay diverges."""
    genomes = list(asked)
    for index, trial in enumerate(known):
        recorded = candidates.space.genome(trial.parameters)
        # Another processor may differ in the last bits, which is harmless; anything more is another search.
        if not np.allclose(recorded, asked[index], rtol=1e-6, atol=1e-9):
            raise ResumeError(
                f"{candidates.session.directory}: trial {trial.number} isn't what this seed proposes, so the search "
                "can't be continued exactly. Was it run with other versions of cma, optuna or numpy? "
                "They are in run.json"
            )
        genomes[index] = recorded
    return genomes


def _fitness(candidates: Candidates, trials: Sequence[Trial], floor: float) -> NDArray[np.float64]:
    """Fitness in ask order; a pruned candidate's is up to the pruner, a failed one counts as the worst known so far.

    Args:
        candidates: of the search.
        trials: a generation.
        floor: the worst fitness known so far.
    """
    found = {trial.number: value for trial in trials if (value := candidates.fitness(trial)) is not None}
    pruned = [trial for trial in trials if candidates.is_pruned(trial)]
    if pruned:
        told = candidates.rivalry.told(pruned, np.array([*found.values()] or [floor], dtype=np.float64))
        floor = min(floor, float(told.min()))
        found |= {trial.number: float(value) for trial, value in zip(pruned, told, strict=True)}
    return np.array([found.get(trial.number, floor) for trial in trials], dtype=np.float64)
