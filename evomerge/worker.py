"""One worker: models kept resident, one candidate at a time merged in place and asked the benchmark's requests.

Knows nothing of tasks and scores (requests in, responses out) nor of how jobs reach it. Whatever goes
wrong with a candidate is returned as a value, and the next candidate is not affected: every merge
overwrites the whole live model.
"""

from __future__ import annotations

import logging
import math
import resource
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch

from evomerge.errors import EvomergeError, ExecutionError, MergeError
from evomerge.execute.base import Answers, Failure, Job, Outcome, WorkerSettings
from evomerge.live import LiveModel
from evomerge.materialise import Materialiser
from evomerge.models import open_models
from evomerge.score.memory import is_out_of_memory
from evomerge.score.requests import LogLikelihoodResponse, Request, Response
from evomerge.score.resident import ResidentModel

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Worker:
    """Holds the checkpoints, the live model and the planned requests of one process.

    Args:
        settings: models, dtype, device and limits.
        name: says which worker it was, in outcomes.

    Raises:
        ExecutionError: the device isn't there.
        CheckpointError: a model can't be opened, or the models don't fit each other.
    """

    def __init__(self, settings: WorkerSettings, *, name: str = "inline") -> None:
        self.settings = settings
        self.name = name
        torch.set_num_threads(settings.threads)
        self._device = _device(settings.device)
        base, experts = open_models(
            settings.base, settings.experts, vocabulary=settings.vocabulary, slices=settings.slices
        )
        self._live = LiveModel.build(base, dtype=getattr(torch, settings.dtype), device=self._device)
        self._materialiser = Materialiser(base, experts, device=self._device)
        self._resident = ResidentModel(
            self._live.model,
            base.tokenizer(),
            device=self._device,
            batch_tokens=settings.batch_tokens,
        )
        self._plans: dict[str, Any] = {}

    def add_requests(self, split: str, requests: Sequence[Request]) -> None:
        """Plan a set of requests once (order, batches), to be answered by every candidate of `split`."""
        self._plans[split] = self._resident.plan(requests)

    def prepare(self, job: Job) -> None:
        """Compute what the job's method needs whatever the coefficients, unless that is at hand.

        Raises: as `Materialiser.prepare`. `evaluate` does this by itself and returns errors as values.
        """
        self._materialiser.prepare(job.recipe)

    def evaluate(self, job: Job) -> Outcome:
        """Merge the job's recipe into the live model and answer its split's requests.

        Returns: the responses in the order of the requests, or the reason why there are none.
        """
        # Anything else in this process may have changed the count, and sums depend on it in the last bits.
        torch.set_num_threads(self.settings.threads)
        reset_peak_bytes(self._device)
        phase = "finding the requests"
        try:
            plan = self._plans[job.split]
            phase = "preparing the method"
            _, prepare_s = self._timed(lambda: self._materialiser.prepare(job.recipe))
            # What is computed once isn't this candidate's fault, so its time starts here.
            deadline = None if self.settings.timeout_s is None else time.monotonic() + self.settings.timeout_s
            phase = "merging"
            _, materialise_s = self._timed(lambda: self._materialiser.write(job.recipe, self._live.targets))
            phase = f"answering the {job.split} items"
            responses, respond_s = self._timed(lambda: self._resident.respond(plan, deadline=deadline))
        except Exception as error:
            return self._failure(job, phase, error)
        if (broken := _first_not_finite(responses)) is not None:
            return Failure(
                reason="not_finite",
                message=f"trial {job.number}: request {broken} of {job.split} has log-probability "
                f"{responses[broken].log_probability}; the merged weights are finite, their activations are not",  # type: ignore[union-attr]
                request=broken,
            )
        return Answers(
            responses=tuple(responses),
            seconds={"prepare": prepare_s, "materialise": materialise_s, "respond": respond_s},
            peak_bytes=peak_bytes(self._device),
            worker=self.name,
        )

    def _timed(self, work: Callable[[], T]) -> tuple[T, float]:
        """The work's result and its seconds, kernels still running on a GPU included."""
        started = time.perf_counter()
        result = work()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return result, time.perf_counter() - started

    def _failure(self, job: Job, phase: str, error: Exception) -> Failure:
        """Sort an exception into the reasons that a search knows."""
        where = f"trial {job.number}: while {phase}"
        if isinstance(error, KeyError) and job.split not in self._plans:
            known = ", ".join(self._plans) or "none"
            return Failure(reason="error", message=f"{where}: no requests named {job.split!r}; known: {known}")
        if isinstance(error, MergeError):
            return Failure(reason="not_finite", message=f"{where}: {error}")
        if isinstance(error, TimeoutError):
            limit = self.settings.timeout_s
            return Failure(reason="timeout", message=f"{where}: not done after execution.timeout_s = {limit:g} s")
        if is_out_of_memory(error):
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            return Failure(
                reason="out_of_memory",
                message=f"{where}: out of memory on {self._device}: {_first_line(error)}; "
                "lower execution.batch_tokens, or use fewer workers per device",
            )
        _log.debug("%s", where, exc_info=error)
        if isinstance(error, EvomergeError):
            return Failure(reason="error", message=f"{where}: {error}")
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}:{frame.lineno}"
        return Failure(reason="error", message=f"{where}: {type(error).__name__}: {error} ({place})")


def reset_peak_bytes(device: torch.device) -> None:
    """Start measuring the peak afresh, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM only, see proc(5)


def peak_bytes(device: torch.device) -> int:
    """Peak memory since the last reset: allocated on a GPU, else this process's resident set.

    The resident set includes the pages of memory-mapped checkpoints, which the system can take back.
    Where it can't be reset (outside Linux), it is the peak since the process began.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split(maxsplit=1)[0])
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


def _device(name: str) -> torch.device:
    device = torch.device(name)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ExecutionError(
                f"device {name!r} is asked for, but this machine shows no usable GPU; "
                "set execution.device to cpu or auto, or check the driver and CUDA_VISIBLE_DEVICES"
            )
        if device.index is not None and device.index >= torch.cuda.device_count():
            raise ExecutionError(f"device {name!r} is asked for, but there are {torch.cuda.device_count()} GPUs here")
    return device


def _first_not_finite(responses: Sequence[Response]) -> int | None:
    for index, response in enumerate(responses):
        if isinstance(response, LogLikelihoodResponse) and math.isnan(response.log_probability):
            return index
    return None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
