"""What the methods of a space compute once, for all that its candidates can be merged by."""

from __future__ import annotations

from dataclasses import dataclass

from evomerge.materialise.bind import Bound
from evomerge.materialise.merger import Merger
from evomerge.materialise.prepare import KEPT_PREPARATIONS
from evomerge.space.base import Space


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparations:
    """Sizes in bytes."""

    bounds: tuple[Bound, ...]
    """A merge of each method and set of options."""
    state_bytes: int
    """States of all of them, in files that workers share."""
    kept_state_bytes: int
    """Of those that a worker has at hand at one time."""
    kept_bytes: int
    """All that a worker has at hand at one time, states included."""
    notes: tuple[str, ...]
    """A sentence for each, if there are several."""


def preparations_of(space: Space, merger: Merger) -> Preparations:
    """Everything that is computed once for a space's candidates. Raises: RecipeError for one that can't be merged."""
    bounds: dict[object, Bound] = {}
    for genome in space.variants():
        bound = merger.bind(space.decode(genome))
        bounds.setdefault(bound.preparation, bound)
    states = [merger.preparer.state_bytes(bound) for bound in bounds.values()]
    prepared = [merger.preparer.prepared_bytes(bound) for bound in bounds.values()]
    notes = [
        f"{bound.method.name} ({', '.join(f'{name} {value}' for name, value in bound.method.option.items())}): "
        f"{size / 1e9:.2g} GB are computed once"
        for bound, size in zip(bounds.values(), states, strict=True)
        if size
    ]
    return Preparations(
        bounds=tuple(bounds.values()),
        state_bytes=sum(states),
        kept_state_bytes=sum(sorted(states)[-KEPT_PREPARATIONS:]),
        kept_bytes=sum(sorted(prepared)[-KEPT_PREPARATIONS:]),
        notes=tuple(notes) if len(bounds) > 1 else (),
    )
