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
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch

from evomerge.errors import EvomergeError, MergeError
from evomerge.execute.base import Answers, Failure, Job, Outcome, WorkerSettings
from evomerge.execute.device import open_device, peak_bytes, reset_peak_bytes
from evomerge.inference.classify import Classifier
from evomerge.inference.forward import SharedPrefixes
from evomerge.inference.function import FunctionCaller
from evomerge.inference.live import LiveModel
from evomerge.inference.memory import is_out_of_memory
from evomerge.inference.resident import ResidentModel
from evomerge.materialise.merger import Merger
from evomerge.materialise.states import folder_of
from evomerge.models.open import open_models
from evomerge.score.requests import (
    ClassificationRequest,
    ClassificationResponse,
    FunctionRequest,
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
        ExecutionError: the device isn't there.
        CheckpointError: a model can't be opened, or the models don't fit each other.
    """

    def __init__(self, settings: WorkerSettings, *, name: str = "inline") -> None:
        self.settings = settings
        self.name = name
        torch.set_num_threads(settings.threads)
        self._device = open_device(settings.device)
        models = open_models(settings.sources)
        base = models.base
        self._live = LiveModel.build(base, dtype=getattr(torch, settings.dtype), device=self._device)
        states = None if settings.states is None else folder_of(settings.states)
        self._merger = Merger(models, device=self._device, states=states)
        self._base = base
        self._plans: dict[str, tuple[Any, Any]] = {}
        """By split, what answers its requests, and its plan of them."""
        self._live_key: str | None = None
        """Of the recipe whose merge the live model holds, if it was written whole and nothing has failed since."""
        self._prefixes = SharedPrefixes()
        self._prefixes_of = ""

    @cached_property
    def _resident(self) -> ResidentModel:
        """The live model as one that continues text; only that needs a tokenizer."""
        return ResidentModel(
            self._live.model,
            self._base.tokenizer(),
            device=self._device,
            batch_tokens=self.settings.batch_tokens,
        )

    def _responder(self, requests: Sequence[Request]) -> Any:
        """What answers requests of this kind."""
        kind = type(requests[0]) if requests else None
        if kind is ClassificationRequest:
            return Classifier(self._live.model, device=self._device, batch_tokens=self.settings.batch_tokens)
        if kind is FunctionRequest:
            return FunctionCaller(self._live.model, cache(self._base.tokenizer))
        return self._resident

    def add_requests(
        self, split: str, requests: Sequence[Request], blocks: Sequence[Sequence[int]] | None = None
    ) -> None:
        """Plan a set of requests once (order, batches), to be answered by every candidate of `split`.

        Args:
            split: its name.
            requests: all of them.
            blocks: positions of the requests of each block, if jobs ask for blocks.
        """
        responder = self._responder(requests)
        self._plans[split] = responder, responder.plan(requests, blocks=blocks)

    def prepare(self, job: Job) -> str | None:
        """Compute what the job's method needs whatever the coefficients, unless that is at hand.

        Returns: why it can't be shared with other workers, a sentence for people; None if nothing is wrong.
        Raises: RecipeError, MergeError. `evaluate` does this by itself and returns errors as values.
        """
        self._merger.prepare(self._merger.bind(job.recipe))
        return self._merger.preparer.problem

    def evaluate(self, job: Job) -> Outcome:
        """Merge the job's recipe into the live model and answer its split's requests, or a block of them.

        A candidate whose earlier block was the last thing done here isn't merged again.

        Returns: the responses in the order of the requests, or the reason why there are none.
        """
        # Anything else in this process may have changed the count, and sums depend on it in the last bits.
        torch.set_num_threads(self.settings.threads)
        reset_peak_bytes(self._device)
        phase = "finding the requests"
        try:
            responder, plan = self._plans[job.split]
            phase = "preparing the method"
            bound = self._merger.bind(job.recipe)
            _, prepare_s = self._timed(lambda: self._merger.prepare(bound))
            # What is computed once isn't this candidate's fault, so its time starts here.
            limit = self.settings.timeout_s
            deadline = None if limit is None else time.monotonic() + limit - job.spent_s
            phase = "merging"
            materialise_s = 0.0
            key = job.recipe.key()
            if job.block is None or self._live_key != key:
                self._live_key, self._prefixes = None, SharedPrefixes()
                _, materialise_s = self._timed(lambda: self._merger.write(bound, self._live.targets))
            phase = f"answering the {job.split} items"
            self._live_key = None
            responses, respond_s = self._timed(
                lambda: responder.respond(plan, block=job.block, prefixes=self._kept(job), deadline=deadline)
            )
            self._live_key = key
        except Exception as error:
            return self._failure(job, phase, error)
        if (broken := _first_not_finite(responses)) is not None:
            place = broken if job.block is None else plan.blocks[job.block].requests[broken]
            return Failure(
                reason="not_finite",
                message=f"trial {job.number}: request {place} of {job.split} has {_words(responses[broken])}",
                request=place,
            )
        return Answers(
            responses=tuple(responses),
            seconds={"prepare": prepare_s, "materialise": materialise_s, "respond": respond_s},
            peak_bytes=peak_bytes(self._device),
            worker=self.name,
        )

    def _kept(self, job: Job) -> SharedPrefixes | None:
        """What earlier blocks of a split have computed with these weights, to be used and added to."""
        if job.block is None:
            return None
        if self._prefixes_of != job.split:
            self._prefixes, self._prefixes_of = SharedPrefixes(), job.split
        return self._prefixes

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
            return Failure(reason="not_finite", message=f"{where}: {error}", request=error.request)
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


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
