"""The search: ask for genomes, decode them to recipes, evaluate these, tell their fitness, repeat.

Resuming is the same loop: the proposer is rebuilt by asking and telling again, and candidates that
the ledger already holds are not evaluated a second time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evomerge.algorithms import PROPOSERS
from evomerge.algorithms.base import Proposer
from evomerge.config.config import Config
from evomerge.errors import LostClusterError, ResumeError
from evomerge.run.directory import open_run, refuse_foreign
from evomerge.run.lock import lock
from evomerge.run.mirror import mirrored
from evomerge.run.observer import Observer, SilentObserver
from evomerge.run.trial import TrialKind
from evomerge.space.base import Genome
from evomerge.study.baselines import check_references, score_baselines
from evomerge.study.budget import grown
from evomerge.study.candidates import Candidates
from evomerge.study.conclude import conclude
from evomerge.study.elite import complete_elite
from evomerge.study.fronts import conclude_several
from evomerge.study.generations import evolve
from evomerge.study.lost_blocks import ask_again
from evomerge.study.observed import ended_with, observed, observers_of
from evomerge.study.session import Session
from evomerge.study.steady import evolve_steadily
from evomerge.study.surrogate import Surrogate


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a search ended: the run directory, the winning trial and the contents of result.json."""

    directory: Path
    winner: int
    data: dict[str, Any]


def search(
    config: Config,
    directory: str | Path,
    *,
    observer: Observer | None = None,
    where: str = "config",
    wait_s: float = 0.0,
) -> Result:
    """Run a search in `directory`, or continue the one that is there.

    Args:
        config: the experiment.
        directory: the run's.
        observer: told of what happens.
        where: names the config's file in error messages.
        wait_s: seconds to wait for another driver of the directory to end.

    Raises: EvomergeError subclasses: for a config, model or benchmark that can't be used (before any worker starts), a
        mirror that can't be reached when the search begins, a directory of another experiment or under another driver,
        or a disk that can't be written; LostClusterError if the head of its Ray is gone, which this process then
        leaves. What was evaluated until then is kept.
    """
    try:
        return _search(config, Path(directory), observer or SilentObserver(), where=where, wait_s=wait_s)
    except LostClusterError as lost:
        recorded = (Path(directory) / "run.json").exists()
        go_on = f"Nothing recorded is lost; continue with evomerge.resume({str(directory)!r})"
        raise LostClusterError(lost.lost, then=go_on if recorded else "Nothing was recorded yet; start again") from lost


def _search(config: Config, directory: Path, observer: Observer, *, where: str, wait_s: float) -> Result:
    # Before the lock, which would stay there.
    refuse_foreign(directory)
    others = observers_of(config, where=where)
    with (
        lock(directory, wait_s=wait_s, told=observer.message),
        mirrored(directory, config.execution.mirror, observer.message),
        observed(directory, observer, others) as told,
        Session(config, directory, told, where) as session,
    ):
        if session.finished is None:
            told.begin(config, session.run.facts, session.ledger)
            data = _run(Candidates(session))
        else:
            data = session.finished
        told.end(None if session.finished else ended_with(directory, data))
    return Result(directory=directory, winner=data["winner"]["trial"], data=data)


def resume(
    directory: str | Path,
    *,
    evaluations: int | None = None,
    hours: float | None = None,
    items: int | None = None,
    gpu_hours: float | None = None,
    observer: Observer | None = None,
) -> Result:
    """Continue a run from its directory alone, if asked with a larger budget.

    Args:
        directory: the run's.
        evaluations: candidates in all.
        hours: of driving, over all sessions.
        items: search items that candidates answer in all.
        gpu_hours: hours of GPUs, over all sessions.
        observer: told of what happens.

    Raises: ResumeError for a budget that is smaller, or of items where the run limits none; as `search`.
    """
    run = open_run(directory)
    try:
        settings = grown(run.config.search, evaluations=evaluations, hours=hours, items=items, gpu_hours=gpu_hours)
    except ResumeError as error:
        raise ResumeError(f"{directory}: {error}") from None
    config = run.config.model_copy(update={"search": settings})
    return search(config, directory, observer=observer, where=str(Path(directory) / "config.yaml"))


def _run(candidates: Candidates) -> dict[str, Any]:
    """Baselines, generations, the distribution's mean, and the conclusion."""
    ask_again(candidates)
    uniform = score_baselines(candidates)
    check_references(candidates)
    proposer = _proposer(candidates.session, uniform)
    spend = evolve_steadily if candidates.session.config.search.is_asynchronous else evolve
    told = spend(candidates, proposer)
    mean = proposer.mean()
    if mean is not None:
        candidates.evaluate([candidates.trial(TrialKind.MEAN, "distribution mean", mean)], "search")
    complete_elite(candidates, told)
    Surrogate(candidates).score_at_the_end()
    return conclude_several(candidates) if candidates.session.goals.are_several else conclude(candidates)


def _proposer(session: Session, uniform: Genome | None) -> Proposer:
    """The configured algorithm, starting from the best uniform merge unless told otherwise."""
    settings, found = session.config.search, session.start
    start = uniform if uniform is not None and settings.initial == "uniform" else session.space.default()
    if found is not None:
        start = session.space.genome(found.parameters)
    steps = {**(found.steps if found is not None else {}), **session.config.space.steps}
    dimensions = [
        replace(item, initial=float(value), step=steps.get(item.name, item.step))
        for item, value in zip(session.space.dimensions, start, strict=True)
    ]
    proposer: Proposer = PROPOSERS.get(settings.algorithm)(
        dimensions,
        seed=settings.seed,
        population=session.population,
        step_size=settings.step_size,
        options=settings.options,
        objectives=session.goals.count,
    )
    return proposer
