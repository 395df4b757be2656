"""What a family of architectures says about itself: its spec, and how its norms are folded.

Knows configs and shapes. Doesn't know checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.alignment.folding import Folding
from evomerge.alignment.kinds import Heads, Kind, Orthogonal, Permutation, SignedPermutation
from evomerge.alignment.spec import Shape, Spec
from evomerge.alignment.symmetries import Residual, Symmetries
from evomerge.errors import AlignmentError, listed

Shapes = Mapping[str, Shape]
Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Family:
    """One entry of the registry of specs; called as one, it makes the spec of a model.

    Attributes:
        make: the spec, from shapes, config and symmetries. Of tensors whose norms are folded, where the residual
            stream's symmetry is "orthogonal".
        fold: how the norms are folded; None if nothing of this family can be.
    """

    make: Callable[[Shapes, Config, Symmetries], Spec]
    fold: Callable[[Shapes, Config], Folding] | None = None

    def __call__(self, shapes: Shapes, config: Config, symmetries: Symmetries) -> Spec:
        """The spec of a model. Raises: AlignmentError where it can't be as asked."""
        return self.make(shapes, config, symmetries)


def stream_kind(
    asked: Residual | None, width: int, *, usual: Residual, refused: Mapping[str, str], keeps_mean: bool = False
) -> Kind | None:
    """The kind of a residual stream; None if nothing may act on it.

    Args:
        asked: as in `Symmetries`.
        width: of the stream.
        usual: what None stands for.
        refused: what this architecture can't have, and why.
        keeps_mean: whether rotations have to keep the mean, as LayerNorm asks.

    Raises: AlignmentError for what is refused.
    """
    residual = usual if asked is None else asked
    if residual in refused:
        legal = [name for name in ("orthogonal", "signed", "permutation", "none") if name not in refused]
        raise AlignmentError(
            f"the residual stream of this model can't have the symmetry {residual!r}: {refused[residual]}; "
            f"it can have {' or '.join(legal)}"
        )
    kinds: Mapping[str, Kind | None] = {
        "none": None,
        "permutation": Permutation(width),
        "signed": SignedPermutation(width),
        "orthogonal": Orthogonal(width, keeps_mean=keeps_mean),
    }
    return kinds[residual]


def decoder_stream(asked: Residual | None, width: int) -> Kind | None:
    """The kind of the stream of a decoder with LayerNorms. Raises: AlignmentError as `stream_kind`."""
    return stream_kind(asked, width, usual="permutation", refused=LAYER_NORM_AND_SIGNS, keeps_mean=True)


def setting(config: Config, *keys: str) -> int:
    """A whole number of a config, under any of its names. Raises: AlignmentError if it has none of them."""
    for key in keys:
        value = config.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    raise AlignmentError(f"config.json: {' or '.join(keys)} has to be a whole number, which the spec is made from")


def layers_by(shapes: Shapes, tensor: str) -> list[str]:
    """What the names of each layer start with, by a tensor that every layer has, such as "ln_1.weight"."""
    return [name.removesuffix(tensor) for name in shapes if name.endswith(tensor)]


def refuse_unless(legal: Collection[str], found: str | None, what: str) -> None:
    """Raises: AlignmentError if a setting of the config is none of those that the spec holds for."""
    if found not in legal:
        raise AlignmentError(f"{what} is {found!r}; this spec holds for {listed(sorted(legal), 10)}")


LAYER_NORM_AND_SIGNS = {"signed": "LayerNorm takes off the mean over its units, which single signs would change"}
"""What a stream that LayerNorms read can't have, and why."""
NO_READER = "no head reads it, so that it is what comes out"
"""Why no map may act on a stream."""


def plain_heads(width: int, heads: int, symmetries: Symmetries) -> Heads | None:
    """Heads with keys and values of their own and no rotary positions; None if they stay as they are."""
    if not symmetries.heads and not symmetries.rotations:
        return None
    return Heads(
        groups=heads,
        queries=1,
        head_dim=width // heads,
        inside="rotations" if symmetries.rotations else "none",
        value_rotations=symmetries.rotations,
        ordered=not symmetries.heads,
    )
