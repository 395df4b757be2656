"""Specs of architectures, one file for each family, found by the `model_type` of config.json."""

from __future__ import annotations

from pathlib import Path

from evomerge.alignment import SPECS
from evomerge.alignment.family import Config, Shapes
from evomerge.alignment.folding import Folding
from evomerge.alignment.own import SUFFIXES, read_spec
from evomerge.alignment.spec import Spec
from evomerge.alignment.symmetries import Symmetries
from evomerge.errors import AlignmentError, unknown


def spec_of(family: str, shapes: Shapes, config: Config, symmetries: Symmetries) -> Spec:
    """The spec of a model, held to the shapes of its tensors.

    Args:
        family: a name of the registry, or the path of a spec of one's own.
        shapes: of every tensor of the model, of the folded ones where the residual stream is "orthogonal".
        config: the model's config.json.
        symmetries: which to use.

    Raises: AlignmentError for an unknown family, a symmetry that it hasn't, and tensors that the spec doesn't fit.
    """
    if family.lower().endswith(SUFFIXES):
        if symmetries != Symmetries():
            raise AlignmentError(f"{family}: a spec of one's own says itself which maps may act; ask for none besides")
        return read_spec(Path(family), shapes)
    if family not in SPECS:
        raise AlignmentError(
            f"{unknown('architecture to align', family, SPECS.names())} For another one, write a spec of your own: "
            "a YAML or JSON file whose path stands for the name (see docs/alignment-specs.md)"
        )
    spec = SPECS.get(family)(shapes, config, symmetries)
    spec.check(shapes)
    return spec


def folding_of(family: str, shapes: Shapes, config: Config) -> Folding:
    """How the norms of a model are folded. Raises: AlignmentError if its family has no way to."""
    if family not in SPECS:
        raise AlignmentError(f"{family}: only the norms of a family that is built in can be folded")
    fold = getattr(SPECS.get(family), "fold", None)
    if fold is None:
        raise AlignmentError(f"the norms of a {family} can't be folded, so that no rotation may act on its stream")
    folding: Folding = fold(shapes, config)
    return folding
