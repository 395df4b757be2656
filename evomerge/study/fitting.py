"""Whether an algorithm can search a space for what a config asks, as it asks for it.

Knows what algorithms declare. Does not know models, nor how candidates are evaluated.
"""

from __future__ import annotations

from evomerge.algorithms import PROPOSERS
from evomerge.algorithms.surrogate import check_surrogate
from evomerge.config.search import SearchConfig
from evomerge.errors import ConfigError
from evomerge.space.base import Space


def check_algorithm(search: SearchConfig, space: Space, *, where: str) -> None:
    """Find whether the algorithm fits, and build it once, so that its own checks speak before anything starts.

    Args:
        search: the section of the config.
        space: what is searched.
        where: the config's file, for messages.

    Raises: ConfigError naming the algorithms that would do.
    """
    _check_objectives(search, space, where)
    _check_mode(search, where)
    _check_guided(search, where)
    if getattr(PROPOSERS.get(search.algorithm), "learns_items", False):
        _check_items(search, where)
    try:
        if search.has_surrogate:
            check_surrogate(space.dimensions)
        PROPOSERS.get(search.algorithm)(
            space.dimensions,
            seed=search.seed,
            population=search.population or 8,
            step_size=search.step_size,
            options=search.options,
            objectives=search.goals.count,
        )
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _check_mode(search: SearchConfig, where: str) -> None:
    """Find whether the algorithm takes one result at a time, if it must."""
    if not search.is_asynchronous or getattr(PROPOSERS.get(search.algorithm), "asynchronous", False):
        return
    raise ConfigError(
        f"{where}: search.mode: {search.algorithm} proposes whole generations, so it can't be asynchronous; use "
        f"mode: generations, or an algorithm that takes one result at a time ({_that_declare('asynchronous')})"
    )


def _check_guided(search: SearchConfig, where: str) -> None:
    """Find whether the algorithm learns from a surrogate's candidates, if it must."""
    if not search.surrogate_every or getattr(PROPOSERS.get(search.algorithm), "takes_others", False):
        return
    raise ConfigError(
        f"{where}: search.surrogate_every: {search.algorithm} learns from its own candidates alone; use surrogate, "
        f"which proposes at the end, or an algorithm that takes others' ({_that_declare('takes_others')})"
    )


def _that_declare(what: str) -> str:
    """The algorithms that declare something, by name."""
    return ", ".join(name for name in PROPOSERS if getattr(PROPOSERS.get(name), what, False))


def _check_items(search: SearchConfig, where: str) -> None:
    """Find whether candidates have scores of the same items, from which the algorithm learns."""
    remedy = "use another algorithm, such as cma"
    if not search.goals.is_empty:
        given = "objectives" if search.objectives else "constraints"
        raise ConfigError(
            f"{where}: search.algorithm: {search.algorithm} goes by the benchmark's items alone, and search.{given} "
            f"are given; leave them out, or {remedy}"
        )
    if search.items == "fresh":
        raise ConfigError(
            f"{where}: search.items: {search.algorithm} compares candidates of all generations item by item; use "
            f"items: fixed, or {remedy}"
        )


def _check_objectives(search: SearchConfig, space: Space, where: str) -> None:
    """Find whether the algorithm takes so many objectives, and these can be measured."""
    count = search.goals.count
    if search.distances and space.shares_layers:
        raise ConfigError(
            f"{where}: search: a distance is measured tensor by tensor, and in this space (space.kind) each candidate "
            "has layers of its own; leave distances out"
        )
    most = getattr(PROPOSERS.get(search.algorithm), "max_objectives", None)
    if most is None or count <= most:
        return
    limits = {name: getattr(PROPOSERS.get(name), "max_objectives", 1) for name in PROPOSERS}
    able = [name for name, limit in limits.items() if limit is None or limit >= count]
    raise ConfigError(
        f"{where}: search.algorithm: {search.algorithm} takes {_objectives(most)}, and search.objectives has {count}: "
        f"{', '.join(search.objectives)}; use an algorithm for several ({', '.join(able) or 'none is registered'}), or "
        "give each objective a weight, so that their weighted sum is searched"
    )


def _objectives(count: int) -> str:
    return "one objective" if count == 1 else f"at most {count} objectives"
