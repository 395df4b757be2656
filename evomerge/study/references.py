"""Reference answers of search items, as requests whose probabilities say something of items that weren't answered.

Knows which benchmarks have them, and what asking costs. Does not know which models are asked.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evomerge.errors import BenchmarkError, ConfigError, listed
from evomerge.inference.plan import count_work
from evomerge.score.requests import GenerationRequest, LogLikelihoodRequest, LogLikelihoodResponse, Response
from evomerge.study.experiment import Experiment

REFERENCE = "reference"
"""The name of the requests, and of answers to them among those on disk."""


def reference_requests(experiment: Experiment) -> tuple[LogLikelihoodRequest, ...]:
    """The reference answer of each search item, in item order, if a search asks for them; else nothing.

    Raises: ConfigError if the benchmark has other answers than generated ones, or a document doesn't say what is right.
    """
    search, where = experiment.config.search, experiment.where
    if search.covariate == "none":
        return ()
    benchmark = experiment.benchmark
    items = benchmark.splits["search"]
    if experiment.config.benchmark.kind != "lm_eval":
        raise ConfigError(
            f"{where}: search.covariate: reference answers are of lm-eval's tasks that generate, and the benchmark is "
            f"{experiment.config.benchmark.kind}; use covariate: none"
        )
    requests = benchmark.requests("search")
    others = {
        item.task
        for position, item in enumerate(items)
        if not all(isinstance(requests[place], GenerationRequest) for place in benchmark.places("search", [position]))
    }
    if others:
        raise ConfigError(
            f"{where}: search.covariate: the answers of {listed(sorted(others))} aren't generated, so the pass that "
            "scores them is as cheap as one over reference answers; use covariate: none"
        )
    try:
        found = {task: iter(own) for task, own in benchmark.references("search").items()}
    except BenchmarkError as error:
        raise ConfigError(
            f"{where}: search.covariate: reference answers can't be asked for: {error}. Use covariate: none"
        ) from error
    # One of each item: what isn't a text in windows is one continuation.
    return tuple(next(found[item.task]) for item in items)  # type: ignore[misc]


def probabilities(responses: Sequence[Response]) -> list[float]:
    """The probability of each whole reference answer, as precise as the item table keeps it.

    Of the whole answer, not of a token: it goes with exact match closer.
    """
    found = []
    for response in responses:
        assert isinstance(response, LogLikelihoodResponse)
        found.append(float(np.float32(np.exp(response.log_probability))))
    return found


def what_they_add(experiment: Experiment, requests: Sequence[LogLikelihoodRequest]) -> str:
    """What asking for the reference answers adds to each candidate, in a sentence."""
    config = experiment.base.config
    items = experiment.benchmark.requests("search")
    read, usual = (min(work.tokens for work in count_work(each, config).values()) for each in (requests, items))
    written = sum(request.max_tokens for request in items if isinstance(request, GenerationRequest))
    return (
        f"beside the item evaluations, every merge is asked for the probability of each search item's reference answer "
        f"once: {len(requests):,} requests of {read:,} tokens together, where answering all items reads {usual:,} and "
        f"generates up to {written:,}"
    )
