"""ResNets for images, with two or three convolutions a block, named as in torchvision or in transformers.

A stage's blocks add to one stream of channels; it begins with a stage whose first shortcut is a convolution, and goes
on through stages without one. The convolutions inside a block have channels of their own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from evomerge.alignment.chain import key, refuse_signs, statistics
from evomerge.alignment.family import Config, Family, Shapes
from evomerge.alignment.kinds import Kind, Permutation
from evomerge.alignment.spec import Axis, Spec
from evomerge.alignment.symmetries import Symmetries
from evomerge.errors import AlignmentError, listed

_BLOCK = re.compile(
    r"((?:.*\.)?(?:layers?|blockgroups?|stages)[._]?\d+\.(?:layers\.|blocks?[._]?)?\d+)\.(.+)", re.IGNORECASE
)
_INNER = re.compile(r"(?:layer\.(\d+)\.(?:convolution|normalization)|(?:conv|bn|norm)_?(\d+))\..+")
_SHORTCUT = re.compile(r"(?:downsample|shortcut)\..+")


@dataclass(frozen=True, slots=True)
class _Block:
    """The tensors of a block: those of each convolution and its norm, by number, and those of its shortcut."""

    inner: dict[int, list[str]] = field(default_factory=dict)
    shortcut: list[str] = field(default_factory=list)


def make(shapes: Shapes, config: Config, symmetries: Symmetries) -> Spec:
    """The spec of one network.

    Raises: AlignmentError for names that aren't a ResNet's, and a signed or orthogonal stream.
    """
    refuse_signs(symmetries)
    stem, blocks, head = _parts(shapes)
    found = _Axes(shapes)
    moves, hidden = symmetries.residual != "none", symmetries.hidden
    stream = found.put(stem, "stem" if moves else None, None)
    for name, block in blocks.items():
        reads = before = stream
        if block.shortcut:
            stream = found.put(block.shortcut, f"{name}.stream" if moves else None, before)
        *inner, last = sorted(block.inner)
        for number in inner:
            reads = found.put(block.inner[number], f"{name}.{number}" if hidden else None, reads)
        found.put(block.inner[last], stream, reads)
    found.put(head, None, stream)
    return Spec(labels=found.kinds, tensors=found.tensors, unmatched=statistics(found.tensors))


@dataclass(frozen=True, slots=True)
class _Axes:
    shapes: Shapes
    kinds: dict[str, Kind] = field(default_factory=dict)
    tensors: dict[str, tuple[Axis | None, ...]] = field(default_factory=dict)

    def put(self, names: list[str], out: str | None, reads: str | None) -> str | None:
        """Note the axes of a layer and its norm; `out` again. None is a label that nothing acts on."""
        for name in names:
            shape = self.shapes[name]
            units = None if out is None else Axis(out)
            if out is not None and shape:
                self.kinds.setdefault(out, Permutation(shape[0]))
            inputs = Axis(reads) if reads is not None else None
            self.tensors[name] = (units, inputs, *(None for _ in shape[2:]))[: len(shape)]
        return out


def _parts(shapes: Shapes) -> tuple[list[str], dict[str, _Block], list[str]]:
    """The tensors of the stem, of each block in order, and of the head."""
    blocks: dict[str, _Block] = {}
    outside, unknown = [], []
    for name in sorted(shapes, key=key):
        found = _BLOCK.fullmatch(name)
        if found is None:
            outside.append(name)
            continue
        block = blocks.setdefault(found[1], _Block())
        if inner := _INNER.fullmatch(found[2]):
            block.inner.setdefault(int(inner[1] or inner[2]), []).append(name)
        elif _SHORTCUT.fullmatch(found[2]):
            block.shortcut.append(name)
        else:
            unknown.append(name)
    heads = {name.rpartition(".")[0] for name in outside if len(shapes[name]) == 2}
    head = [name for name in outside if name.rpartition(".")[0] in heads]
    stem = [name for name in outside if name not in head]
    modules = {name.rpartition(".")[0] for name in stem}
    if unknown or not blocks or len(modules) > 2 or sum(len(shapes[name]) > 1 for name in stem) != 1:
        raise AlignmentError(
            "this isn't a ResNet of one convolution with its norm, blocks and a classifier: "
            f"{listed(unknown or stem)}; write a spec of your own"
        )
    return stem, blocks, head


FAMILY = Family(make)
