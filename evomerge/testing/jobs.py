"""Jobs over a tiny family of models, for workers and executors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isclose
from pathlib import Path
from typing import Any

from evomerge.execute.base import Answers, Failure, Job, Outcome, WorkerSettings
from evomerge.recipe.group import Group
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference, Sources
from evomerge.score.requests import (
    GenerationRequest,
    LogLikelihoodRequest,
    LogLikelihoodResponse,
    Request,
    Response,
)

REQUESTS: tuple[Request, ...] = (
    LogLikelihoodRequest(context=(1, 40, 50, 60), continuation=(70, 80)),
    LogLikelihoodRequest(context=(1, 40, 50, 60), continuation=(90,)),
    LogLikelihoodRequest(context=(1,), continuation=(300, 301, 302)),
    GenerationRequest(context=(1, 45, 46), stop=("zzzz",), max_tokens=5),
    LogLikelihoodRequest(context=tuple(range(1, 60)), continuation=(70, 80)),
)
"""Requests for a model with the tiny tokenizer's vocabulary."""

NOT_FINITE = 1e300
"""A weight at which no merge is finite."""


def make_settings(folders: Mapping[str, Path], **changes: Any) -> WorkerSettings:
    """Settings of a worker on one CPU thread for "base" and the experts beside it."""
    values: dict[str, Any] = {
        "sources": Sources(
            base=ModelReference(path=str(folders["base"])),
            experts={name: ModelReference(path=str(path)) for name, path in folders.items() if name != "base"},
        ),
        "dtype": "float32",
        "device": "cpu",
        "threads": 1,
    }
    return WorkerSettings(**{**values, **changes})


def job(settings: WorkerSettings, number: int, weight: float | dict[str, float], split: str = "search") -> Job:
    """A candidate by task arithmetic with this weight everywhere."""
    recipe = Recipe.of(
        settings.sources,
        method="task_arithmetic",
        groups=(Group(name="all", coefficients={"weight": weight}),),
        dtype=settings.dtype,
    )
    return Job(number=number, recipe=recipe, split=split)


def answers(outcome: Outcome) -> Answers:
    """The outcome, which has to be answers."""
    assert isinstance(outcome, Answers), outcome
    return outcome


def in_request_order(blocks: Sequence[Sequence[int]], responses: Sequence[Sequence[Response]]) -> tuple[Response, ...]:
    """Responses to each of these blocks, in the order of all requests."""
    found = {
        place: response
        for block, given in zip(blocks, responses, strict=True)
        for place, response in zip(sorted(block), given, strict=True)
    }
    return tuple(found[place] for place in sorted(found))


def alike(responses: Sequence[Response], others: Sequence[Response]) -> bool:
    """Whether responses are the same but for the last bits, which depend on what a forward pass holds besides."""
    return len(responses) == len(others) and all(
        one == other
        or (
            isinstance(one, LogLikelihoodResponse)
            and isinstance(other, LogLikelihoodResponse)
            and one.is_greedy == other.is_greedy
            and isclose(one.log_probability, other.log_probability, rel_tol=0.0, abs_tol=1e-5)
        )
        for one, other in zip(responses, others, strict=True)
    )


def failure(outcome: Outcome) -> Failure:
    """The outcome, which has to be a failure."""
    assert isinstance(outcome, Failure), outcome
    return outcome
