"""What an analysis lets a search begin with: starting weights, bounds, and a first step for each dimension.

Knows the file of an analysis and parameter groups. Does not know configs' texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evomerge.analysis.document import FORMAT, VERSION
from evomerge.config.space import SpaceConfig
from evomerge.errors import ConfigError
from evomerge.files.outside import read_json
from evomerge.recipe.group import KINDS, Group, Kind
from evomerge.space.groups import cells_of

DEFAULT_WEIGHT, HIGHEST_WEIGHT = 0.5, 1.5
"""The default and the highest searched weight of `task_arithmetic`, whose weights are seeded."""

_SCALES = (0.25, 4.0)
_STEPS = (0.5, 2.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """How a search over weights can begin.

    Attributes:
        base: the base, as the analysis was given it.
        experts: those worth merging, by name.
        left_out: the others, each with the reason.
        starts: weight by expert with which all change the base equally far.
        high: the upper bound of weights.
        steps: first step by dimension, over the mean: larger where a weight moves the model less.
        space: granularity and kinds of the search.
        shares: by parameter group, its share of the squared length of all task vectors, largest first.
    """

    base: str
    experts: Mapping[str, str]
    left_out: Mapping[str, str]
    starts: Mapping[str, float]
    high: float
    steps: Mapping[str, float]
    space: SpaceConfig
    shares: Mapping[str, float]


def prior_of(path: Path, space: SpaceConfig | None = None) -> Prior:
    """Read an analysis and work out how a search over this space would begin.

    Args:
        path: a file that `evomerge analyse --json` wrote.
        space: granularity and kinds of the search; None: the defaults, with no more blocks than layers.

    Raises: ConfigError for a file that is no analysis, or leaves no expert.
    """
    data = read_json(path, ConfigError)
    if data.get("format") != FORMAT or data.get("version") != VERSION:
        raise ConfigError(f"{path}: is no analysis of this release; make one with: evomerge analyse MODELS --json FILE")
    try:
        blocks = min(SpaceConfig().blocks, int(data["settings"]["depth"]))
        return _prior(path, data, SpaceConfig(blocks=blocks) if space is None else space)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: isn't as `evomerge analyse --json` writes it ({error!r}); make it again") from error


def _prior(path: Path, data: Mapping[str, Any], space: SpaceConfig) -> Prior:
    given: dict[str, str] = {str(name): str(folder) for name, folder in data["models"]["experts"].items()}
    left_out: dict[str, str] = {}
    for one, two in data["equal"]:
        if two not in left_out and two in given:
            left_out[two] = "has the base's numbers" if one == "base" else f"has the same numbers as {one}"
    for models in data["not_finite"].values():
        left_out |= {name: "has NaN or infinite numbers" for name in models if name in given}
    experts = {name: folder for name, folder in given.items() if name not in left_out}
    if not experts:
        raise ConfigError(f"{path}: leaves no expert to merge: each has the base's numbers, or NaN")
    norms = {name: float(data["whole"]["norm"][name]) for name in experts}
    mean = float(np.exp(np.mean(np.log(list(norms.values())))))
    starts = {name: round(DEFAULT_WEIGHT * float(np.clip(mean / norm, *_SCALES)), 3) for name, norm in norms.items()}
    squares = _squares(data, space, tuple(experts), str(path))
    total = sum(sum(by_expert.values()) for by_expert in squares.values())
    shares = {cell: sum(by_expert.values()) / total for cell, by_expert in squares.items()}
    return Prior(
        base=str(data["models"]["base"]),
        experts=experts,
        left_out=left_out,
        starts=starts,
        high=max(HIGHEST_WEIGHT, round(2 * max(starts.values()), 1)),
        steps=_steps(squares),
        space=space,
        shares=dict(sorted(shares.items(), key=lambda item: -item[1])),
    )


def _squares(
    data: Mapping[str, Any], space: SpaceConfig, experts: tuple[str, ...], where: str
) -> dict[str, dict[str, float]]:
    """Squared length of each expert's task vector in each parameter group of the space."""
    groups: list[tuple[int, Kind, Mapping[str, float]]] = [
        (int(group["layer"]), KINDS[KINDS.index(group["kind"])], group["norm"]) for group in data["groups"]
    ]
    found = {}
    for cell in cells_of(space, sorted({(layer, kind) for layer, kind, _ in groups}), where):
        held = Group(name=cell.name, layers=cell.layers, kinds=cell.kinds)
        inside = [norm for layer, kind, norm in groups if held.contains(layer, kind)]
        found[cell.name] = {name: sum(float(norm[name]) ** 2 for norm in inside) for name in experts}
    return found


def _steps(squares: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """First steps such that one of each moves the model about equally far, within limits."""
    lengths = {
        (".".join(("weight", expert, *([cell] if cell != "all" else [])))): square**0.5
        for cell, by_expert in squares.items()
        for expert, square in by_expert.items()
    }
    positive = [length for length in lengths.values() if length > 0]
    mean = float(np.exp(np.mean(np.log(positive)))) if positive else 1.0
    return {name: round(float(np.clip(mean / length, *_STEPS)), 2) for name, length in lengths.items() if length > 0}
