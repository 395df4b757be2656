"""Multi-layer perceptrons, by the names and shapes of their tensors alone."""

from __future__ import annotations

from evomerge.alignment.chain import chain_spec
from evomerge.alignment.family import Config, Family, Shapes
from evomerge.alignment.spec import Spec
from evomerge.alignment.symmetries import Symmetries


def make(shapes: Shapes, config: Config, symmetries: Symmetries) -> Spec:
    """The spec of one network. Raises: AlignmentError as `chain_spec`."""
    return chain_spec(shapes, symmetries)


FAMILY = Family(make)
