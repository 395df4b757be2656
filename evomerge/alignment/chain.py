"""Networks whose layers follow one another: each reads the units of the one before, through norms and activations.

Knows names and shapes alone, and takes each activation for one that acts on every unit alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from evomerge.alignment.family import Shapes
from evomerge.alignment.kinds import Kind, Permutation
from evomerge.alignment.spec import Axis, Spec
from evomerge.alignment.symmetries import Symmetries
from evomerge.errors import AlignmentError, listed

FIRST = ("input", "in", "stem", "embed", "embedding", "features", "conv")
LAST = ("classifier", "head", "output", "out", "final", "logits")
"""Names of modules that come before and after all others."""
_NUMBERED = re.compile(r"(?:.*\.)?([a-zA-Z]+)_?(\d+)")
"""A module that is called by a kind and a number, such as bn1, and not by its place in a sequence."""
STATISTICS = ("running_mean", "running_var")


def chain_spec(shapes: Shapes, symmetries: Symmetries) -> Spec:
    """The spec of a chain of dense and convolutional layers.

    The units of every layer but the last may change places, with the norms behind it and the columns that read them;
    a convolution that is flattened for a dense layer lies there channel by channel.

    Raises: AlignmentError where a layer's inputs aren't the units of the one before.
    """
    refuse_signs(symmetries)
    layers = [name for name in in_order(shapes) if len(shapes[name]) > 1]
    units: Axis | None = None
    tensors: dict[str, tuple[Axis | None, ...]] = {}
    kinds: dict[str, Kind] = {}
    for place, name in enumerate(layers):
        shape, before = shapes[name], units
        if before is not None:
            size = shapes[layers[place - 1]][0]
            if shape[1] % size:
                raise AlignmentError(
                    f"{name} has {shape[1]} inputs, and {layers[place - 1]} before it {size} units: this isn't a chain "
                    "of layers, or its names don't tell their order; write a spec of your own"
                )
            before = Axis(before.label, width=shape[1] // size)
        last = place == len(layers) - 1
        units = None if last or not symmetries.hidden else Axis(name.rpartition(".")[0] or name)
        if units is not None:
            kinds[units.label] = Permutation(shape[0])
        tensors[name] = (units, before, *(None for _ in shape[2:]))
    tensors |= dict(_vectors(shapes, layers, tensors))
    return Spec(labels=kinds, tensors=tensors, unmatched=statistics(tensors))


def _vectors(
    shapes: Shapes, layers: list[str], axes: Mapping[str, tuple[Axis | None, ...]]
) -> Iterator[tuple[str, tuple[Axis | None, ...]]]:
    """Biases and norms, each with the units of the layer in front of it."""
    for name, shape in shapes.items():
        if name not in axes:
            layer = _layer_of(name, layers, shapes) if shape else None
            yield name, (axes[layer][0],) if layer is not None else ()


def _layer_of(name: str, layers: list[str], shapes: Shapes) -> str:
    """The layer whose units a vector belongs to: of the same module, of the same number, or the last before it."""
    module = name.rpartition(".")[0]
    before = [layer for layer in layers if key(layer) < key(name)]
    if f"{module}.weight" in layers:
        found = [f"{module}.weight"]
    elif number := _NUMBERED.fullmatch(module):
        same = [
            layer for layer in layers if (own := _NUMBERED.fullmatch(layer.rpartition(".")[0])) and own[2] == number[2]
        ]
        found = [layer for layer in same if shapes[layer][0] == shapes[name][0]]
    else:
        found = before[-1:]
    if len(found) != 1 or shapes[found[0]][0] != shapes[name][0]:
        raise AlignmentError(
            f"{name}: its name and its shape {list(shapes[name])} don't tell which layer's units it belongs to"
            f"{f' ({listed(found)})' if found else ''}; write a spec of your own"
        )
    return found[0]


def in_order(names: Shapes) -> list[str]:
    """Names in the order of the layers, as far as names tell: by number, heads last."""
    return sorted(names, key=key)


def key(name: str) -> tuple[int, list[tuple[int, str]]]:
    """What names of layers are sorted by."""
    first = re.sub(r"[\d_]+$", "", name.split(".")[0].lower())
    rank = 0 if first in FIRST else 2 if first in LAST else 1
    return rank, [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)|\.", name) if part]


def statistics(names: Shapes | Mapping[str, object]) -> frozenset[str]:
    """The running statistics of norms, which follow their units and say nothing about which go together."""
    return frozenset(name for name in names if name.rpartition(".")[2] in STATISTICS)


def refuse_signs(symmetries: Symmetries) -> None:
    """Raises: AlignmentError for what no activation such as ReLU passes."""
    if symmetries.residual in ("signed", "orthogonal"):
        raise AlignmentError(
            f"the symmetry {symmetries.residual!r} isn't one of this network: behind each layer stands an activation, "
            "or a norm with gains, which only permutations pass"
        )
