"""How this machine's cores are best shared out: few workers of many threads, or many of few, by measurement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count, islice
from statistics import mean

from evomerge.config.execution import ExecutionConfig
from evomerge.errors import counted
from evomerge.execute.base import Executor
from evomerge.execute.settings import choose_backend, make_executor, worker_settings
from evomerge.kernels.machine import available_bytes, cores
from evomerge.recipe.recipe import Recipe
from evomerge.study.experiment import Experiment
from evomerge.study.pilot import PilotReport, answered

_ANSWER_S = 5.0
"""How long one worker with all cores may answer a candidate here; the rest of the items are reckoned by proportion."""
_LEAST_REQUESTS = 8
_ROUNDS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreSplit:
    """Workers that compute side by side on this machine."""

    workers: int
    threads: int
    """Of each worker."""
    per_minute: float
    """Candidates of all of them together, on all search items."""


def core_splits(execution: ExecutionConfig, device: str, bytes_per_worker: int) -> list[tuple[int, int]]:
    """Workers and threads worth a trial: ever twice as many workers, as far as cores and memory go.

    Nothing where the config has decided, or others compute: a cluster, GPUs.

    Args:
        execution: of the config. With `cpus_per_worker`, the threads of each are decided.
        device: where workers compute.
        bytes_per_worker: what each takes beside mapped files.
    """
    decided = execution.backend != "auto" or execution.workers or execution.max_workers
    if decided or device != "cpu" or choose_backend(execution) != "inline":
        return []
    threads = max(1, int(execution.cpus_per_worker or 0))
    room = min(cores() // threads, available_bytes() // max(1, bytes_per_worker))
    most = (2**power for power in range(1, room.bit_length()))
    return [(workers, threads if execution.cpus_per_worker else cores() // workers) for workers in most]


def time_cores(
    experiment: Experiment, pilot: PilotReport, bytes_per_worker: int, *, report: Callable[[str], None]
) -> list[CoreSplit]:
    """Time candidates with every split of the cores, by as many workers at once; the pilot's own split comes first.

    Args:
        experiment: with its models opened and aligned.
        pilot: of one worker.
        bytes_per_worker: what each takes beside mapped files.
        report: called with what is being done, before it is.

    Returns: nothing where there is nothing to choose.
    Raises: ExecutionError if workers can't be started or a candidate fails, MissingPackageError without Ray.
    """
    config = experiment.config
    settings = worker_settings(config, dtype=experiment.dtype, maps=experiment.maps)
    chosen = core_splits(config.execution, settings.device, bytes_per_worker)
    if not chosen:
        return []
    requests = experiment.benchmark.requests("search")
    answering = pilot.seconds["respond"]
    part = min(len(requests), max(_LEAST_REQUESTS, int(len(requests) * _ANSWER_S / max(answering, 1e-9))))
    # Of all that a candidate is asked, reference answers included.
    share = part / len(requests) * answering / (sum(pilot.seconds.values()) - pilot.seconds["materialise"])
    found = [CoreSplit(workers=1, threads=settings.threads, per_minute=60 / sum(pilot.seconds.values()))]
    recipe = experiment.space.decode(experiment.space.default())
    for workers, threads in chosen:
        report(f"timing {workers} workers of {counted(threads, 'thread')} each")
        execution = config.execution.model_copy(update={"workers": workers, "cpus_per_worker": float(threads)})
        split = config.model_copy(update={"execution": execution})
        executor = make_executor(execution, worker_settings(split, dtype=experiment.dtype, maps=experiment.maps))
        try:
            executor.add_requests("search", requests[:part])
            seconds = _seconds(executor, recipe, workers, share)
        finally:
            executor.close()
        found.append(CoreSplit(workers=workers, threads=threads, per_minute=60 * workers / seconds))
    return found


def _seconds(executor: Executor, recipe: Recipe, workers: int, part: float) -> float:
    """What a candidate takes one of the workers while all of them are at work."""
    numbers = count()
    seen: set[str] = set()
    while len(seen) < workers:  # the first of each pays for its start
        seen |= {answers.worker for answers in answered(executor, recipe, islice(numbers, workers))}
    timed = list(answered(executor, recipe, islice(numbers, (_ROUNDS + 1) * workers)))
    # At the end some have nothing left to do, and leave the others their share of the memory's bandwidth.
    return mean(
        answers.seconds["materialise"] + answers.seconds["respond"] / part for answers in timed[: _ROUNDS * workers]
    )
