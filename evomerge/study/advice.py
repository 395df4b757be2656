"""What a config may ask for and hardly should, and what can't be seen from here: sentences before a search starts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from evomerge.algorithms import PROPOSERS
from evomerge.algorithms.base import Proposer
from evomerge.benchmark.base import Item
from evomerge.benchmark.clusters import independent
from evomerge.config.config import Config
from evomerge.config.search import SearchConfig
from evomerge.errors import counted, listed
from evomerge.execute.settings import address_of, choose_backend, is_elsewhere, worker_settings
from evomerge.kernels.machine import bytes_with_swap
from evomerge.score.numbers import size
from evomerge.space.base import Space

_NOTABLE_S = 0.1
"""Seconds to ask for one candidate from which that is mentioned."""

ASYNCHRONOUS = (
    "asynchronous: which candidates are proposed depends on which end first, so the same seed proposes others another "
    "time; a search that is broken off goes on with all that it knew"
)
"""What is said of a search before it starts whose candidates depend on timing."""


def warnings_of(config: Config, population: int, splits: Mapping[str, Sequence[Item]]) -> list[str]:
    """A sentence for whatever is allowed and hardly wise.

    Args:
        config: of the search.
        population: candidates of a generation.
        splits: the items by split; empty if they aren't known.
    """
    warnings = []
    workers = config.execution.workers
    if config.search.is_asynchronous:
        in_flight = config.search.in_flight or workers or 1
        if config.search.algorithm == "cma" and in_flight > population:
            warnings.append(
                f"{in_flight} candidates in flight and a population of {population}: most of what CMA-ES is told was "
                "drawn from a distribution that it has left; raise search.population to as many as are in flight"
            )
    elif choose_backend(config.execution) == "ray" and workers is not None and population % workers:
        warnings.append(
            f"a population of {population} doesn't divide among {workers} workers, so some wait at the end of each "
            f"generation; search.population: {-(-population // workers) * workers} would"
        )
    count = len(splits.get("search", ()))
    worth, most = config.search.candidates_worth(count), config.search.candidates_at_most(count)
    if config.search.algorithm == "cma" and worth / population < 5:
        # How many candidates a pruner stops early isn't known before.
        evaluations = f"{worth}" if most == worth else f"{worth} to {most}"
        generations = (
            "only " * (most == worth)
            + f"{worth / population:.1f}"
            + (f" to {most / population:.1f}" if most > worth else "")
        )
        warnings.append(
            f"{evaluations} evaluations are {generations} generations of {population}; CMA-ES learns little in "
            f"fewer than 10: raise search.{'evaluations' if config.search.is_limited else 'budget.items'} or coarsen "
            "the space"
        )
    # What is told of shares of right answers isn't known of a function's scores.
    shares = config.benchmark.kind in {"lm_eval", "labels"}
    if shares and splits:
        items = len(splits["validation"]), len(splits["test"])
        apart = independent(splits["validation"]), independent(splits["test"])
        if min(apart) < 100:
            clusters, if_alike = "", ""
            if apart != items:
                clusters = f" in {apart[0]} and {apart[1]} clusters"
                if_alike = "where those of a cluster go together, "
            warnings.append(
                f"{items[0]} validation and {items[1]} test items{clusters}: {if_alike}an accuracy near 50% is known "
                f"to ± {196 * (0.25 / min(apart)) ** 0.5:.0f} points, so small differences will not show"
            )
    return warnings


def lack_of_memory(config: Config, dtype: str, bytes_per_worker: int, process_bytes: int) -> list[str]:
    """A sentence if workers of this machine need more memory than it has left, as far as that is known.

    Args:
        config: of the search.
        dtype: of live models.
        bytes_per_worker: of the live model, and what methods keep.
        process_bytes: what Python and the libraries take in each process, and in this one.
    """
    execution = config.execution
    if is_elsewhere(execution) or worker_settings(config, dtype=dtype).device.startswith("cuda"):
        return []
    workers, room = execution.workers or 1, bytes_with_swap()
    needed = workers * (bytes_per_worker + process_bytes)
    if room is None:
        return []
    if choose_backend(execution) == "inline":
        # The search's process is in the place of this one, and not beside it as those of workers are.
        room += process_bytes
    if needed <= room:
        return []
    need = f"{counted(workers, 'worker')} {'needs' if workers == 1 else 'need'} {size(needed)}"
    return [
        f"{need} of memory before any batch, and {size(room)} are left here, by this machine or by a limit of its "
        "container or job: take fewer workers, a smaller execution.dtype, or a machine with more"
    ]


def left_out(space: Space) -> list[str]:
    """A sentence on the dimensions that aren't searched since they would change nothing, if there are any."""
    if not (names := space.left_out):
        return []
    return [
        f"{counted(len(names), 'coefficient')} would change nothing, since experts have no task vector there (their "
        f"tensors are the base's), and {'is' if len(names) == 1 else 'are'} left out of the search: {listed(names)}"
    ]


def unseen_devices(config: Config, dtype: str) -> list[str]:
    """What of the workers' machines can't be seen from here."""
    execution = config.execution
    if is_elsewhere(execution):
        return [f"the Ray cluster at {address_of(execution)} and its machines, reached when the search starts"]
    if worker_settings(config, dtype=dtype).device.startswith("cuda") and not torch.cuda.is_available():
        return ["GPUs: the config asks for them and this machine shows none"]
    return []


def own_cost(search: SearchConfig, dimensions: int, candidates: int) -> list[str]:
    """What an algorithm itself takes whose cost grows with the candidates so far, in a sentence; nothing if little.

    Args:
        search: the section of the config.
        dimensions: of the space.
        candidates: that the budget is worth.
    """
    seconds = getattr(PROPOSERS.get(search.algorithm), "seconds", Proposer.seconds)
    last = seconds(dimensions, candidates)
    if last < _NOTABLE_S:
        return []
    steps = 100
    total = (
        sum(seconds(dimensions, candidates * (2 * step - 1) // (2 * steps)) for step in range(1, steps + 1))
        * candidates
        / steps
    )
    return [
        f"{search.algorithm} looks at all candidates so far for each one: over {dimensions} dimensions the last of "
        f"{candidates:,} takes it about {last:.1g} s of the driver's processor, all of them about {_span(total)}, "
        "while workers wait; fewer dimensions or candidates take less, and cma costs nothing to speak of"
    ]


def _span(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{math.ceil(seconds / 60)} min"
