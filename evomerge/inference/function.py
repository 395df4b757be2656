"""Answering with a function of the user's, which is given the live model and the items of a block."""

from __future__ import annotations

import inspect
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from evomerge.benchmark.user_code import load_function, on_path
from evomerge.errors import BenchmarkError, ExecutionError
from evomerge.inference.plan import places_of
from evomerge.score.requests import FunctionRequest, FunctionResponse, Request


@dataclass(frozen=True, slots=True)
class FunctionBlock:
    """Positions of a block's requests, ascending."""

    requests: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FunctionPlan:
    """All requests of a split, and those of each block."""

    requests: tuple[FunctionRequest, ...]
    blocks: tuple[FunctionBlock, ...]


class FunctionCaller:
    """Calls the function that requests name. Its code is run as it is, with this process's rights.

    Args:
        model: the live model; its parameters are rewritten between calls.
        tokenizer: gives the base's tokenizer to a function that has a parameter `tokenizer`.
    """

    def __init__(self, model: Any, tokenizer: Callable[[], Any]) -> None:
        self._model = model
        self._tokenizer = tokenizer

    def plan(self, requests: Sequence[Request], *, blocks: Sequence[Sequence[int]] | None = None) -> FunctionPlan:
        """Note the items of each block. The function is found when it is first called.

        Args:
            requests: all of a split, of one function.
            blocks: positions of the requests of each block; None: one block of all.

        Raises: ExecutionError for requests of another kind.
        """
        if not all(isinstance(request, FunctionRequest) for request in requests):
            raise ExecutionError("a split asks a function and something else; ask the function only")
        known: tuple[FunctionRequest, ...] = tuple(requests)  # type: ignore[arg-type]
        chosen = [range(len(known))] if blocks is None else blocks
        return FunctionPlan(known, tuple(FunctionBlock(tuple(sorted(places))) for places in chosen))

    def respond(
        self,
        plan: FunctionPlan,
        *,
        blocks: Sequence[int] | None = None,
        prefixes: object = None,
        deadline: float | None = None,
    ) -> list[FunctionResponse]:
        """The function's scores of the items of some blocks, in one call, or of all, in request order.

        Args:
            plan: from `plan`.
            blocks: numbers of the blocks; None: all of them.
            prefixes: not used.
            deadline: `time.monotonic()` value after which an answer comes too late.

        Raises:
            BenchmarkError: it can't be found, or returns something else than a number for each item.
            CheckpointError: it asks for a tokenizer, and the base has none.
            TimeoutError: the deadline has passed.
            Exception: whatever the function raises.
        """
        requests = [plan.requests[place] for place in places_of(plan.blocks, blocks)]
        if not requests:
            return []
        call, folder = requests[0].call, requests[0].folder
        function = load_function(call, folder)
        named = inspect.signature(function).parameters
        settings = {"tokenizer": self._tokenizer()} if "tokenizer" in named else {}
        with on_path(folder), torch.no_grad(), _same_random_numbers():
            try:
                scores = function(self._model, [request.item for request in requests], **settings)
            except SystemExit as error:
                raise BenchmarkError(
                    f"{call} asked to end the process ({error.code}); it must return scores"
                ) from error
        if deadline is not None and time.monotonic() > deadline:
            raise TimeoutError
        return [FunctionResponse(score) for score in _numbers(scores, call, len(requests))]


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Start each call with the same random numbers, so that a score doesn't depend on what was scored before."""
    states = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def _numbers(scores: Any, call: str, count: int) -> list[float]:
    """What a function returned as numbers. Raises: BenchmarkError if it isn't one for each item."""
    try:
        found = [float(score) for score in scores]
    except (TypeError, ValueError) as error:
        raise BenchmarkError(f"{call} returned {scores!r:.80}; return a list with a number for each item") from error
    if len(found) != count:
        raise BenchmarkError(f"{call} returned {len(found)} scores for {count} items; return one for each item")
    return found
