"""Parameter groups: which tensors have coefficients of their own.

Knows layers, kinds and texts in tensor names. Does not know coefficients.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evomerge.config.space import SpaceConfig
from evomerge.errors import ConfigError
from evomerge.recipe.group import KINDS, Coefficient, Group, Kind

Place = tuple[int, Kind] | tuple[int, Kind, str]
"""Layer and kind of a tensor, and the text of `space.names` that occurs in its stored name, "" if none does."""

# Tensors of these kinds exist once, before or after the layers, so depth doesn't divide them.
_OUTSIDE_LAYERS: frozenset[Kind] = frozenset({"embedding", "head"})


@dataclass(frozen=True, slots=True)
class Cell:
    """One parameter group: a run of consecutive layers crossed with a set of kinds and a text in names."""

    layers: tuple[int, int] | None
    kinds: tuple[Kind, ...] | None
    text: str | None = None
    """The group's tensors have it in their stored names; None: they have none of those that other groups go by."""

    @property
    def layers_label(self) -> str | None:
        """Such as layer_0 or layers_0-3; None: the group goes through all layers, or lies outside them."""
        if self.layers is None:
            return None
        first, last = self.layers
        return f"layer_{first}" if first == last else f"layers_{first}-{last}"

    @property
    def kinds_label(self) -> str | None:
        """Such as attention+mlp; None: all kinds."""
        return None if self.kinds is None else "+".join(self.kinds)

    @property
    def series_label(self) -> str | None:
        """What the groups that follow each other over depth have in common."""
        text = None if self.text is None else self.text.strip(".")
        return ".".join(label for label in (self.kinds_label, text) if label) or None

    @property
    def name(self) -> str:
        """In the ledger and in recipes."""
        return ".".join(label for label in (self.layers_label, self.series_label) if label) or "all"

    def group(self, coefficients: Mapping[str, Coefficient]) -> Group:
        """The group as recipes have it."""
        names = None if self.text is None else (self.text,)
        return Group(name=self.name, layers=self.layers, kinds=self.kinds, names=names, coefficients=coefficients)

    def holds(self, place: Place) -> bool:
        """Whether a tensor there belongs to the group and to none before it."""
        layer, kind, *text = place
        own = self.text or ""
        # Texts first: there may be one for each expert of a mixture, and all but one of them differ.
        return (text or [""])[0] == own and self.group({}).contains(layer, kind, own)


def cells_of(config: SpaceConfig, places: Sequence[Place], where: str) -> list[Cell]:
    """The parameter groups that hold at least one tensor, by kind, by text in names, and then by depth.

    Raises: ConfigError for kinds or texts that no tensor has, and more blocks than layers.
    """
    depth = 1 + max(place[0] for place in places)
    present = [kind for kind in KINDS if any(kind == place[1] for place in places)]
    found = {place[2] for place in places if len(place) == 3}
    for name in config.names:
        if name not in found:
            raise ConfigError(
                f"{where}: space.names: {name!r} occurs in no tensor's stored name, or only beside one listed before it"
            )
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
    cells: list[Cell] = []
    for kinds in kind_sets:
        whole = count == 1 or (kinds is not None and set(kinds) <= _OUTSIDE_LAYERS)
        texts: tuple[str | None, ...] = (*config.names, None)
        for text in texts:
            cells += [
                cell
                for span in ([None] if whole else spans)
                if any((cell := Cell(span, kinds, text)).holds(place) for place in places)
            ]
    return cells
