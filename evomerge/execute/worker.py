"""One worker: models kept resident, one candidate at a time merged in place and asked the benchmark's requests.

Knows nothing of tasks and scores (requests in, responses out) nor of how jobs reach it. Whatever goes
wrong with a candidate is returned as a value, and the next candidate is not affected: every merge
overwrites the whole live model.
"""

from __future__ import annotations

import logging
import math
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from evomerge.errors import EvomergeError, MergeError, first_line, listed
from evomerge.execute.base import Answers, Failure, Job, Outcome, WorkerSettings
from evomerge.execute.device import open_devices, peak_bytes, reset_peak_bytes
from evomerge.execute.loaded import LoadedModels
from evomerge.execute.stacked import StackedModels
from evomerge.inference.forward import SharedPrefixes
from evomerge.inference.plan import places_of
from evomerge.kernels.device_memory import is_out_of_memory, take_share
from evomerge.materialise.states import folder_of
from evomerge.score.requests import (
    ClassificationResponse,
    FunctionResponse,
    LogLikelihoodResponse,
    Request,
    Response,
)

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Worker:
    """Holds the checkpoints, the live model and the planned requests of one process.

    Args:
        settings: models, dtype, device and limits.
        name: says which worker it was, in outcomes.

    Raises:
        ExecutionError: a device isn't there, or they haven't the room for the live model.
        CheckpointError: a model can't be opened, or the models don't fit each other.
    """

    def __init__(self, settings: WorkerSettings, *, name: str = "inline") -> None:
        self.settings = settings
        self.name = name
        torch.set_num_threads(settings.threads)
        self._devices = open_devices(settings.device, settings.gpus)
        if settings.gpu_share < 1:
            take_share(self._devices[0], settings.gpu_share)
        states = None if settings.states is None else folder_of(settings.states)
        self._merged = LoadedModels(settings.sources, settings, devices=self._devices, states=states)
        self._stacked: StackedModels | None = None
        self._requests: dict[str, tuple[Sequence[Request], Sequence[Sequence[int]] | None]] = {}
        self._single: LoadedModels | None = None
        """A model that is asked as it is by itself, for as long as it is; the recipe's key is that of its weights."""
        self._single_key = ""

    def add_requests(
        self, split: str, requests: Sequence[Request], blocks: Sequence[Sequence[int]] | None = None
    ) -> None:
        """Plan a set of requests once (order, batches), to be answered by every candidate of `split`.

        Args:
            split: its name.
            requests: all of them.
            blocks: positions of the requests of each block, if jobs ask for blocks.
        """
        self._requests[split] = requests, blocks
        self._merged.add_requests(split, requests, blocks)
        if self._stacked is not None:
            self._stacked.add_requests(split, requests, blocks)

    def prepare(self, job: Job) -> str | None:
        """Compute what the job's method needs whatever the coefficients, unless that is at hand.

        Returns: why it can't be shared with other workers, a sentence for people; None if nothing is wrong.
        Raises: RecipeError, MergeError. `evaluate` does this by itself and returns errors as values.
        """
        models = self._models_of(job)
        return models.prepare(models.bind(job.recipe))

    def _models_of(self, job: Job) -> LoadedModels:
        """What a job is about: the worker's models, or one that is asked as it is by itself, loaded for it."""
        if job.requests is None:
            # Room for the candidates, now that others are asked no more.
            self._single, self._single_key = None, ""
            return self._merged if job.recipe.slices == self.settings.sources.slices else self._stacks()
        key = job.recipe.key()
        if self._single is None or self._single_key != key:
            self._single, self._single_key = None, ""
            self._single = LoadedModels(
                job.recipe, self.settings, devices=self._devices, tokenizer=self._merged.tokenizer
            )
            self._single_key = key
        return self._single

    def _stacks(self) -> StackedModels:
        """What candidates with layers of their own are made of, loaded for the first of them."""
        if self._stacked is None:
            self._stacked = StackedModels(self.settings, devices=self._devices)
            for split, (requests, blocks) in self._requests.items():
                self._stacked.add_requests(split, requests, blocks)
        return self._stacked

    def evaluate(self, job: Job) -> Outcome:
        """Merge the job's recipe into the live model and answer its split's requests, or those of some blocks.

        A candidate whose earlier block was the last thing done here isn't merged again.

        Returns: the responses in the order of the requests, or the reason why there are none.
        """
        # Anything else in this process may have changed the count, and sums depend on it in the last bits.
        torch.set_num_threads(self.settings.threads)
        reset_peak_bytes(self._devices)
        phase = "loading the model"
        try:
            models, loading_s = self._timed(lambda: self._models_of(job))
            phase = "finding the requests"
            if job.requests is not None:
                models.add_requests(job.split, job.requests)
            responder, plan = models.plans[job.split]
            phase = "preparing the method"
            bound = models.bind(job.recipe)
            _, prepare_s = self._timed(lambda: models.prepare(bound))
            # What is computed once isn't this candidate's fault, so its time starts here.
            limit = self.settings.timeout_s
            deadline = None if limit is None else time.monotonic() + limit - job.spent_s
            phase = "merging"
            materialise_s = 0.0
            key = job.recipe.key()
            if job.blocks is None or models.live_key != key:
                models.live_key, models.prefixes = None, SharedPrefixes()
                _, materialise_s = self._timed(lambda: models.write(bound))
                if job.requests is None:
                    _, measure_s = self._timed(models.measure_distances)
                    materialise_s += measure_s
            phase = f"answering the {job.split} items"
            models.live_key = None
            prefixes = None if job.blocks is None else models.prefixes_for(job.split)
            responses, respond_s = self._timed(
                lambda: responder.respond(plan, blocks=job.blocks, prefixes=prefixes, deadline=deadline)
            )
            models.live_key = key
        except Exception as error:
            return self._failure(job, phase, error)
        if (broken := _first_not_finite(responses)) is not None:
            place = places_of(plan.blocks, job.blocks)[broken]
            return Failure(
                reason="not_finite",
                message=f"trial {job.number}: request {place} of {job.split} has {_words(responses[broken])}",
                request=place,
            )
        return Answers(
            responses=tuple(responses),
            seconds={"prepare": loading_s + prepare_s, "materialise": materialise_s, "respond": respond_s},
            peak_bytes=peak_bytes(self._devices),
            worker=self.name,
            distances=dict(models.distances),
        )

    def _timed(self, work: Callable[[], T]) -> tuple[T, float]:
        """The work's result and its seconds, kernels still running on a GPU included."""
        started = time.perf_counter()
        result = work()
        for device in self._devices:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        return result, time.perf_counter() - started

    def _failure(self, job: Job, phase: str, error: Exception) -> Failure:
        """Sort an exception into the reasons that a search knows."""
        where = f"trial {job.number}: while {phase}"
        if isinstance(error, KeyError) and job.requests is None and job.split not in self._merged.plans:
            known = ", ".join(self._merged.plans) or "none"
            return Failure(reason="error", message=f"{where}: no requests named {job.split!r}; known: {known}")
        if isinstance(error, MergeError):
            return Failure(reason="not_finite", message=f"{where}: {error}", request=error.request)
        if isinstance(error, TimeoutError):
            limit = self.settings.timeout_s
            return Failure(reason="timeout", message=f"{where}: not done after execution.timeout_s = {limit:g} s")
        if is_out_of_memory(error):
            if self._devices[0].type == "cuda":
                torch.cuda.empty_cache()
            return Failure(
                reason="out_of_memory",
                message=f"{where}: out of memory on {listed(map(str, self._devices))}: {first_line(error)}; "
                "lower execution.batch_tokens, or use fewer workers per device",
            )
        _log.debug("%s", where, exc_info=error)
        if isinstance(error, EvomergeError):
            return Failure(reason="error", message=f"{where}: {error}")
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}:{frame.lineno}"
        return Failure(reason="error", message=f"{where}: {type(error).__name__}: {error} ({place})")


def _first_not_finite(responses: Sequence[Response]) -> int | None:
    for index, response in enumerate(responses):
        match response:
            case LogLikelihoodResponse():
                broken = math.isnan(response.log_probability)
            case ClassificationResponse():
                broken = any(map(math.isnan, response.log_probabilities))
            case FunctionResponse():
                broken = not math.isfinite(response.score)
            case _:
                broken = False
        if broken:
            return index
    return None


def _words(response: Response) -> str:
    """What a response has that isn't finite, and what that means."""
    if isinstance(response, FunctionResponse):
        return f"score {response.score}; the function must return finite numbers"
    shown = response.log_probability if isinstance(response, LogLikelihoodResponse) else math.nan
    return f"log-probability {shown}; the merged weights are finite, their activations are not"
