"""Parameter groups of a granularity, and the dimensions that spread over them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evomerge.config.space import SpaceConfig
from evomerge.errors import ConfigError
from evomerge.recipe.group import KINDS, Group, Kind

# Tensors of these kinds exist once, before or after the layers, so depth doesn't divide them.
_OUTSIDE_LAYERS: frozenset[Kind] = frozenset({"embedding", "head"})


@dataclass(frozen=True, slots=True)
class _Cell:
    """One parameter group: a run of consecutive layers crossed with a set of kinds."""

    layers: tuple[int, int] | None
    kinds: tuple[Kind, ...] | None

    @property
    def layers_label(self) -> str | None:
        if self.layers is None:
            return None
        first, last = self.layers
        return f"layer_{first}" if first == last else f"layers_{first}-{last}"

    @property
    def kinds_label(self) -> str | None:
        return None if self.kinds is None else "+".join(self.kinds)

    @property
    def name(self) -> str:
        return ".".join(label for label in (self.layers_label, self.kinds_label) if label) or "all"


def cells_of(config: SpaceConfig, places: Sequence[tuple[int, Kind]], where: str) -> list[_Cell]:
    """The parameter groups that hold at least one tensor, by depth and then by kind."""
    depth = 1 + max(layer for layer, _ in places)
    present = [kind for kind in KINDS if any(kind == found for _, found in places)]
    kind_sets: list[tuple[Kind, ...] | None]
    if config.kinds is False:
        kind_sets = [None]
    elif config.kinds is True:
        kind_sets = [(kind,) for kind in present]
    else:
        for kind in config.kinds:
            if kind not in present:
                raise ConfigError(
                    f"{where}: space.kinds: the models have no {kind} tensors; they have {', '.join(present)}"
                )
        rest = tuple(kind for kind in present if kind not in config.kinds)
        kind_sets = [(kind,) for kind in KINDS if kind in config.kinds]
        if rest:
            kind_sets.append(rest)
    if config.granularity == "blocks" and config.blocks > depth:
        raise ConfigError(f"{where}: space.blocks: {config.blocks} blocks of {depth} layers; use at most {depth}")
    count = {"all": 1, "layer": depth, "blocks": config.blocks}[config.granularity]
    edges = [round(index * depth / count) for index in range(count + 1)]
    spans = [(first, end - 1) for first, end in itertools.pairwise(edges)]
    cells: list[_Cell] = []
    for kinds in kind_sets:
        whole = count == 1 or (kinds is not None and set(kinds) <= _OUTSIDE_LAYERS)
        for span in [None] if whole else spans:
            if any(Group(name="", layers=span, kinds=kinds).contains(layer, kind) for layer, kind in places):
                cells.append(_Cell(span, kinds))
    return cells


def mixing_of(cells: Sequence[_Cell], smooth: int | None, where: str) -> tuple[list[str], NDArray[np.float64]]:
    """Labels of one coefficient's dimensions, and the matrix (num_groups, num_dimensions) that spreads them.

    Without smoothing each group has its own dimension. With it, the groups of one set of kinds take
    values on the piecewise linear curve through `smooth` control points over depth.
    """
    labels: list[str] = []
    columns: list[NDArray[np.float64]] = []
    for kinds in dict.fromkeys(cell.kinds for cell in cells):
        rows = [index for index, cell in enumerate(cells) if cell.kinds == kinds]
        if smooth is not None and len(rows) > 1:
            if smooth >= len(rows):
                raise ConfigError(
                    f"{where}: space.smooth: {smooth} control points for {len(rows)} groups over depth; "
                    "use fewer, or leave it out"
                )
            knots = np.linspace(0.0, 1.0, smooth)
            positions = np.linspace(0.0, 1.0, len(rows))
            for knot in range(smooth):
                column = np.zeros(len(cells))
                column[rows] = np.interp(positions, knots, np.eye(smooth)[knot])
                columns.append(column)
                kind_label = cells[rows[0]].kinds_label
                labels.append(".".join(part for part in (f"depth_{knots[knot]:.2f}", kind_label) if part))
        else:
            for row in rows:
                column = np.zeros(len(cells))
                column[row] = 1.0
                columns.append(column)
                labels.append("" if cells[row].name == "all" else cells[row].name)
    return labels, np.stack(columns, axis=1)
