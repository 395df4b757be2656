"""From a config to an executor: backend, devices and threads decided."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, cast

from evomerge.errors import MissingPackageError
from evomerge.execute import EXECUTORS
from evomerge.kernels.machine import cores
from evomerge.kernels.threads import usual_threads

if TYPE_CHECKING:
    from pathlib import Path

    from evomerge.config.config import Config
    from evomerge.config.execution import ExecutionConfig
    from evomerge.execute.base import Executor, WorkerSettings
    from evomerge.inference.arithmetic import Arithmetic

THREADS_PER_WORKER = 4
"""CPU threads of a worker on a cluster or when Ray sizes itself; more help little below billions of parameters."""


AUTO = "auto"
"""The backend that leaves the choice among our own executors to `choose_backend`."""


def make_executor(execution: ExecutionConfig, settings: WorkerSettings) -> Executor:
    """Start the executor that the config asks for, with `settings` from `worker_settings`.

    Raises: UnknownNameError if there is no such executor, ExecutionError if the workers, GPUs or cluster asked for
        can't be had, MissingPackageError if they need Ray and it isn't installed.
    """
    try:
        executor: Any = EXECUTORS.get(choose_backend(execution))
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "ray":
            raise
        raise MissingPackageError(
            "execution: its backend, workers, GPUs or ray_address ask for workers on Ray, but the package ray can't "
            f"be imported ({error}); install it: pip install ray. Without it, backend: inline has one worker, on this "
            "machine"
        ) from error
    return cast("Executor", executor.from_config(execution, settings))


def worker_settings(
    config: Config,
    *,
    dtype: str,
    compute_dtype: str | None = None,
    states: Path | None = None,
    maps: bytes | None = None,
) -> WorkerSettings:
    """What each worker needs to build itself, with dtypes, device and threads decided.

    Args:
        config: the experiment.
        dtype: of the base checkpoint, for `execution.dtype: auto`.
        compute_dtype: what the live model computes in; None: as `arithmetic_of` decides on this machine.
        states: where workers share what a method prepares, unless the config names another folder.
        maps: of the models' alignment, if they have been found.
    """
    from evomerge.execute.base import WorkerSettings

    execution = config.execution
    stored = dtype if execution.dtype == "auto" else execution.dtype
    return WorkerSettings(
        sources=config.models.sources(),
        dtype=stored,
        compute_dtype=compute_dtype or arithmetic_of(execution, stored).dtype,
        device=_device(execution),
        gpus=_gpus_each(execution),
        gpu_share=gpu_share(execution),
        threads=_threads(execution),
        states=execution.prepared_directory or (None if states is None else str(states.absolute())),
        batch_tokens=execution.batch_tokens,
        timeout_s=execution.timeout_s,
        distances=config.search.distances,
        maps=maps,
    )


def arithmetic_of(execution: ExecutionConfig, dtype: str) -> Arithmetic:
    """What the live models of all workers compute in, decided here for every one of them.

    On a cluster that may have GPUs, this machine's CPU says nothing.

    Args:
        execution: where they compute, and whether the config asks for something.
        dtype: of the weights.
    """
    from evomerge.inference.arithmetic import arithmetic_for

    decided = execution.device != "auto" or execution.gpus_per_worker is not None
    on_cpu = None if is_elsewhere(execution) and not decided else _device(execution) == "cpu"
    return arithmetic_for(dtype, execution.compute_dtype, on_cpu=on_cpu)


def choose_backend(execution: ExecutionConfig) -> str:
    """Name of the executor: the one asked for, or with `auto` Ray where there is more than one worker to use."""
    if execution.backend != AUTO:
        return execution.backend
    if address_of(execution) or max(execution.workers or 1, execution.max_workers or 1) > 1:
        return "ray"
    several_gpus = (
        execution.workers is None and _device(execution) == "cuda" and visible_gpus() >= 2 * _gpus_each(execution)
    )
    return "ray" if several_gpus else "inline"


def address_of(execution: ExecutionConfig) -> str | None:
    """Address of the Ray cluster whose workers are used, from the config or the environment; None: of none."""
    return execution.ray_address or os.environ.get("RAY_ADDRESS") or None


def is_elsewhere(execution: ExecutionConfig) -> bool:
    """Whether workers are a cluster's, whose machines may be others than this one."""
    return choose_backend(execution) == "ray" and address_of(execution) is not None


def gpus_of(execution: ExecutionConfig, workers: int = 1) -> float:
    """GPUs, or parts of them, that so many workers use."""
    if _device(execution) != "cuda":
        return 0.0
    shared = choose_backend(execution) == "ray" and execution.gpus_per_worker is not None
    return workers * ((execution.gpus_per_worker or 0.0) if shared else float(_gpus_each(execution)))


def gpu_share(execution: ExecutionConfig) -> float:
    """How much of a GPU each worker has, of one that workers share; 1 if they don't."""
    return min(1.0, gpus_of(execution)) or 1.0


def _gpus_each(execution: ExecutionConfig) -> int:
    """Over how many GPUs a worker's live model is spread."""
    return max(1, int(execution.gpus_per_worker or 1)) if _device(execution) == "cuda" else 1


def _device(execution: ExecutionConfig) -> str:
    if execution.device != "auto":
        return execution.device
    if execution.gpus_per_worker is not None:
        return "cuda" if execution.gpus_per_worker > 0 else "cpu"
    return "cuda" if visible_gpus() else "cpu"


def _threads(execution: ExecutionConfig) -> int:
    """Threads of one worker: its CPUs if given, else a fair share of this machine."""
    if execution.cpus_per_worker is not None:
        return max(1, int(execution.cpus_per_worker))
    if choose_backend(execution) == "inline":
        return usual_threads()
    if execution.workers is None or address_of(execution):
        return THREADS_PER_WORKER
    return max(1, cores() // execution.workers)


def visible_gpus() -> int:
    """How many GPUs this process can use."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
