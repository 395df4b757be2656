"""Where a model's tensors are, and where experts' tensors are the base's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from evomerge.models.checkpoint import Checkpoint
from evomerge.models.open import Models
from evomerge.models.unchanged import unchanged_tensors
from evomerge.space.base import Unchanged
from evomerge.space.groups import Place


def place_in(base: Checkpoint, texts: Sequence[str] = ()) -> Callable[[str], Place]:
    """What gives a tensor's (layer, kind) by its name; with texts also the first that occurs in the name, or ""."""

    def place(name: str) -> Place:
        layer, kind = base.layout.place(name)
        return (layer, kind, next((text for text in texts if text in name), "")) if texts else (layer, kind)

    return place


def places_of(base: Checkpoint, texts: Sequence[str] = ()) -> list[Place]:
    """The places of a model's tensors, each once, in order."""
    return sorted(set(map(place_in(base, texts), base.names)))


def unchanged_places(models: Models, texts: Sequence[str] = ()) -> Unchanged:
    """By expert, the places all of whose tensors have the base's numbers. Raises: as `unchanged_tensors`."""
    place = place_in(models.base, texts)
    return {
        expert: frozenset(map(place, same)) - {place(name) for name in models.base.names if name not in same}
        for expert, same in unchanged_tensors(models).items()
    }
