"""Which of an architecture's symmetries an alignment may use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from evomerge.errors import AlignmentError, unknown

Residual = Literal["none", "permutation", "signed", "orthogonal"]
RESIDUALS: tuple[Residual, ...] = get_args(Residual)


@dataclass(frozen=True, slots=True, kw_only=True)
class Symmetries:
    """What maps may do. Where an architecture lacks a symmetry, its spec leaves it out.

    Attributes:
        residual: what may act on the residual stream. None: the largest group under which the model stays stored as
            it is, with its gains and ties. "orthogonal" folds the gains of norms into their readers first.
        heads: whether attention heads may change places.
        rotations: whether heads may turn inside: phases of rotary pairs, rotations of values.
        hidden: whether hidden units of MLPs may change places, and signs where their activation allows it.
    """

    residual: Residual | None = None
    heads: bool = True
    rotations: bool = True
    hidden: bool = True

    def __post_init__(self) -> None:
        """Raises: AlignmentError for a residual that there isn't."""
        if self.residual is not None and self.residual not in RESIDUALS:
            raise AlignmentError(unknown("symmetry of the residual stream", self.residual, RESIDUALS))
