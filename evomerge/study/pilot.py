"""What an experiment costs, from one candidate that is timed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

import torch

from evomerge.errors import ExecutionError
from evomerge.execute.base import Answers, Executor, Failure, Job
from evomerge.execute.settings import is_elsewhere, make_executor, worker_settings
from evomerge.materialise.merger import Merger
from evomerge.recipe.recipe import Recipe
from evomerge.study.costs import split_costs
from evomerge.study.experiment import Experiment
from evomerge.study.maps import with_maps
from evomerge.study.preparations import preparations_of
from evomerge.study.references import REFERENCE, reference_requests


@dataclass(frozen=True, slots=True, kw_only=True)
class PilotReport:
    """One candidate, timed on this machine."""

    workers: int
    seconds: dict[str, float]
    """By phase, for one candidate on the search items; `reference` where it is asked for reference answers, too."""
    prepare_s: float
    """What the method computes once, before the first candidate, by one worker; a search's workers share it out."""
    peak_bytes: int
    """Of one worker: on a GPU what is allocated there, else all that the process holds, mapped files included."""
    on_gpu: bool
    costs: dict[str, float]
    """By split, what answering it costs, in that of the search items."""
    hours: float
    """Estimate for the whole search with as many workers, without start-up."""


def time_preparing(experiment: Experiment, *, limit_s: float = 5.0) -> float | None:
    """Estimate the seconds that preparing the method takes, from a few tensors; None where workers run elsewhere.

    Args:
        experiment: with its models opened.
        limit_s: no tensor is begun after as many seconds.

    Raises: EvomergeError subclasses, as `search` would.
    """
    config, execution = experiment.config, experiment.config.execution
    settings = worker_settings(config, dtype=experiment.dtype)
    if is_elsewhere(execution) or (settings.device.startswith("cuda") and not torch.cuda.is_available()):
        return None
    before = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        merger = Merger(experiment.models, device=settings.device)
        bounds = preparations_of(experiment.space, merger).bounds
        return sum(merger.preparer.estimated_seconds(bound, limit_s / len(bounds)) for bound in bounds)
    finally:
        torch.set_num_threads(before)


def pilot(
    experiment: Experiment,
    evaluations: Mapping[str, int],
    *,
    repeats: int = 3,
    report: Callable[[str], None] = lambda doing: None,
) -> PilotReport:
    """Time one candidate as the search would evaluate it, on the search items.

    Args:
        experiment: with its models opened.
        evaluations: of the search by phase, as `Preflight` has them.
        repeats: how often it is timed; the median counts.
        report: called with what is being done, before it is.

    Raises: EvomergeError subclasses, as `search` would; ExecutionError if the candidate fails.
    """
    experiment = with_maps(experiment, report)
    config, benchmark = experiment.config, experiment.benchmark
    recipe = experiment.space.decode(experiment.space.default())
    timed: list[Answers] = []
    probed: list[Answers] = []
    with ExitStack() as stack:
        report("starting workers")
        settings = worker_settings(config, dtype=experiment.dtype, maps=experiment.maps)
        executor = make_executor(config.execution, settings)
        stack.callback(executor.close)
        executor.add_requests("search", benchmark.requests("search"))
        references = reference_requests(experiment)
        if references:
            executor.add_requests(REFERENCE, references)
        workers = executor.workers
        # The first candidate pays for preparation and warm-up, which a search pays once.
        for number in range(repeats + 1):
            what = f"timing a candidate, {number} of {repeats}" if number else "preparing the method and warming up"
            report(f"{what}, on {len(benchmark.splits['search'])} search items")
            timed += answered(executor, recipe, [number])
            probed += answered(executor, recipe, [number], split=REFERENCE) if references else []
    seconds = {
        phase: median(answers.seconds[phase] for answers in timed[1:])
        for phase in timed[0].seconds
        if phase != "prepare"
    }
    if references:
        seconds[REFERENCE] = median(answers.seconds["respond"] for answers in probed[1:])
    costs = split_costs(experiment, references)
    return PilotReport(
        workers=workers,
        seconds=seconds,
        prepare_s=timed[0].seconds["prepare"],
        peak_bytes=max(answers.peak_bytes for answers in timed),
        on_gpu=settings.device.startswith("cuda"),
        costs=costs,
        hours=_total_s(seconds, evaluations, costs) / workers / 3600,
    )


def answered(executor: Executor, recipe: Recipe, numbers: Iterable[int], *, split: str = "search") -> Iterator[Answers]:
    """The answers of a recipe to the search items, once for each number. Raises: ExecutionError if it fails."""
    for _, outcome in executor.run([Job(number=number, recipe=recipe, split=split) for number in numbers]):
        if isinstance(outcome, Failure):
            raise ExecutionError(f"the pilot candidate failed: {outcome.reason}: {outcome.message}")
        yield outcome


def _total_s(seconds: Mapping[str, float], evaluations: Mapping[str, int], costs: Mapping[str, float]) -> float:
    """Seconds of all evaluations by one worker: merging takes as long for each, answering by the split's cost."""
    merging = seconds.get("materialise", 0.0)
    answering = sum(seconds.values()) - merging
    # Baselines and candidates are scored on the search items.
    return sum(count * (merging + answering * costs.get(phase, 1.0)) for phase, count in evaluations.items())
