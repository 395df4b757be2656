"""The seam of alignment methods: models of one architecture in, maps that bring them together out.

Knows a spec and tensors by name. Doesn't know checkpoints: a model is a mapping from names to tensors, and may read
each one from a file when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol

import numpy as np
from torch import Tensor

from evomerge.alignment.kinds.base import Map
from evomerge.alignment.spec import Maps, Spec, composed, inverse
from evomerge.errors import AlignmentError, unknown

Weights = Mapping[str, Tensor]
"""A model's floating-point tensors by name; each may be read, or worked out, when it is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One update: which model's map of which label changed in which round, and what the objective gained by it."""

    round: int
    model: int
    label: str
    gain: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """What brings models together: for each one, in order, its maps; and how they were found."""

    maps: tuple[Maps, ...]
    history: tuple[Step, ...] = ()

    def onto(self, reference: int) -> tuple[dict[str, Map], ...]:
        """Maps of each model onto model `reference`, which itself stays as it is: there and back by its own maps."""
        back = inverse(self.maps[reference])
        return tuple(
            {label: map_.inverse().after(map_) for label, map_ in maps.items()}
            if place == reference
            else composed(back, maps)
            for place, maps in enumerate(self.maps)
        )


Progress = Callable[[int, int], None]
"""Called with what is done and what there is to do, in any unit; what there is to do may turn out less or more."""


class Method(Protocol):
    """A way to find maps. A frozen dataclass whose fields, with defaults, are its options."""

    name: ClassVar[str]
    summary: ClassVar[str]

    def align(
        self,
        spec: Spec,
        models: Sequence[Weights],
        *,
        reference: int,
        generator: np.random.Generator,
        progress: Progress | None = None,
    ) -> Alignment:
        """Maps for each model, at least two.

        Args:
            spec: of all of them; it has been checked.
            models: each with every tensor of the spec, float32 or float64 numbers.
            reference: the model that the others are brought to, by its place; methods that bring all of them to a
                common place don't need one.
            generator: where all that is random is drawn from.
            progress: called as it goes on.

        Raises: AlignmentError if the models can't be compared.
        """


def made(method: type[Any], options: Mapping[str, Any]) -> Method:
    """A method with its options. Raises: AlignmentError for one that it doesn't have, or of another type or range."""
    declared = {field.name: field for field in fields(method)}
    for name, value in options.items():
        if name not in declared:
            raise AlignmentError(unknown(f"option of {method.name}", name, declared))
        default = declared[name].default
        number = isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool)
        if type(value) is not type(default) and not number:
            raise AlignmentError(
                f"{method.name}: {name} has to be a {type(default).__name__}, such as {default!r} (found {value!r})"
            )
    found: Method = method(**options)
    return found
