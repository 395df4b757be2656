"""The search: ask a population, decode genomes to recipes, evaluate them, tell their fitness, repeat.

Resuming is the same loop: the proposer is rebuilt by asking and telling again, and candidates that
the ledger already holds are not evaluated a second time.
"""

from __future__ import annotations

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
from evomerge.run.ledger import Trial
from evomerge.run.lock import lock
from evomerge.run.observer import Observer, SilentObserver
from evomerge.space.base import Genome
from evomerge.study.select import best_uniform
from evomerge.study.session import Driver


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
    with lock(directory), Driver(config, directory, observer, where) as driver:
        if driver.finished is not None:
            return Result(directory=directory, winner=driver.finished["winner"]["trial"], data=driver.finished)
        uniform = _baselines(driver)
        proposer = _proposer(driver, uniform)
        _evolve(driver, proposer)
        mean = proposer.mean()
        if mean is not None:
            driver.evaluate([driver.trial("mean", "distribution mean", mean)], "search")
        data = driver.conclude()
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


def _baselines(driver: Driver) -> Genome | None:
    """Score the base, each expert and the uniform merges; return the best uniform genome."""
    trials = [driver.trial("base", "base")]
    trials += [driver.trial("expert", name) for name in driver.config.models.experts]
    trials += [
        driver.trial("uniform", f"uniform {index}", genome)
        for index, genome in enumerate(driver.space.starting_points(driver.config.search.scan), start=1)
    ]
    driver.observer.phase("baselines", len(trials))
    driver.clock.phase("baselines")
    driver.evaluate(trials, "search")
    best = best_uniform(driver.ledger.trials(), driver.search_evaluations())
    return driver.space.genome(best[0].parameters) if best else None


def _proposer(driver: Driver, uniform: Genome | None) -> Proposer:
    """The configured algorithm, starting from the best uniform merge unless told otherwise."""
    settings = driver.config.search
    start = uniform if uniform is not None and settings.initial == "uniform" else driver.space.default()
    dimensions = [
        replace(item, initial=float(value)) for item, value in zip(driver.space.dimensions, start, strict=True)
    ]
    proposer: Proposer = PROPOSERS.get(settings.algorithm)(
        dimensions,
        seed=settings.seed,
        population=driver.population,
        step_size=settings.step_size,
        options=settings.options,
    )
    return proposer


def _evolve(driver: Driver, proposer: Proposer) -> None:
    """Spend the budget, generation by generation."""
    budget, hours = driver.config.search.evaluations, driver.config.search.hours
    driver.observer.phase("search", budget)
    driver.clock.phase("search")
    proposed, generation = 0, 0
    recorded = driver.generations()
    while proposed < budget:
        known = recorded.get(generation, [])
        if not known and hours is not None and driver.clock.hours >= hours:
            driver.observer.message(f"stopped after {driver.clock.hours:.2f} hours of driving")
            return
        asked = proposer.ask()
        genomes = _replayed(driver, asked, known)[: budget - proposed]
        trials = [
            known[index]
            if index < len(known)
            else driver.trial("candidate", f"candidate {proposed + index}", genome, generation=generation)
            for index, genome in enumerate(genomes)
        ]
        driver.evaluate(trials, "search")
        fitness = _fitness(driver, trials)
        failed = sum(driver.fitness(trial) is None for trial in trials)
        driver.observer.generation(generation, float(fitness.max()), float(median(fitness)), failed)
        proposed += len(trials)
        if len(genomes) == len(asked):
            # The budget may cut the last generation short; a proposer can't learn from part of one.
            proposer.tell(genomes, fitness[:, np.newaxis])
        generation += 1


def _replayed(driver: Driver, asked: list[Genome], known: Sequence[Trial]) -> list[Genome]:
    """The genomes of a generation, as recorded where they were. Raises: ResumeError if the replay diverges."""
    genomes = list(asked)
    for index, trial in enumerate(known):
        recorded = driver.space.genome(trial.parameters)
        # Another processor may differ in the last bits, which is harmless; anything more is another search.
        if not np.allclose(recorded, asked[index], rtol=1e-6, atol=1e-9):
            raise ResumeError(
                f"{driver.directory}: trial {trial.number} isn't what this seed proposes, so the search can't be "
                "continued exactly. Was it run with other versions of cma, optuna or numpy? They are in run.json"
            )
        genomes[index] = recorded
    return genomes


def _fitness(driver: Driver, trials: Sequence[Trial]) -> NDArray[np.float64]:
    """Fitness in ask order; a failed candidate counts as much as the worst known so far."""
    so_far = [trial for trial in driver.ledger.trials() if trial.number <= trials[-1].number and trial.kind != "mean"]
    known = [value for trial in so_far if (value := driver.fitness(trial)) is not None]
    floor = min(known, default=0.0)
    values = [driver.fitness(trial) for trial in trials]
    return np.array([floor if value is None else value for value in values], dtype=np.float64)
