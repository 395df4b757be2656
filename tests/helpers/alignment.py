"""Small models to align: a spec with every kind of label, random weights, and models that are maps of each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from evomerge.alignment.kinds import Heads, Permutation, SignedPermutation
from evomerge.alignment.spec import Axis, Maps, Spec

WIDTH, HIDDEN, TOKENS, LAYERS = 12, 10, 40, 2

MLP = Spec(
    labels={"one": Permutation(4), "two": Permutation(3)},
    tensors={
        "first.weight": (Axis("one"), None),
        "first.bias": (Axis("one"),),
        "second.weight": (Axis("two"), Axis("one")),
        "second.bias": (Axis("two"),),
        "third.weight": (None, Axis("two")),
    },
)
MLP_SHAPES = {
    "first.weight": (4, 5),
    "first.bias": (4,),
    "second.weight": (3, 4),
    "second.bias": (3,),
    "third.weight": (2, 3),
}


def decoder_spec() -> Spec:
    """A decoder with grouped heads, RoPE, SwiGLU and a residual stream of signed permutations."""
    stream = Axis("residual")
    labels: dict[str, object] = {"residual": SignedPermutation(WIDTH)}
    tensors: dict[str, tuple[Axis | None, ...]] = {"embedding": (None, stream), "norm": (Axis("residual", "gain"),)}
    for layer in range(LAYERS):
        heads, hidden = f"layers.{layer}.heads", f"layers.{layer}.hidden"
        labels[heads] = Heads(groups=2, queries=2, head_dim=4, inside="rotations", rotary=4, value_rotations=True)
        labels[hidden] = SignedPermutation(HIDDEN)
        tensors |= {f"{layer}.{role}": (Axis(heads, role), stream) for role in ("query", "key", "value")}
        tensors[f"{layer}.output"] = (stream, Axis(heads, "output"))
        tensors[f"{layer}.gate"] = (Axis(hidden, "gain"), stream)
        tensors[f"{layer}.up"] = (Axis(hidden), stream)
        tensors[f"{layer}.down"] = (stream, Axis(hidden))
    return Spec(labels=labels, tensors=tensors)  # type: ignore[arg-type]


def random_weights(spec: Spec, seed: int, shapes: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, Tensor]:
    """Random numbers in the shapes that a spec asks for; axes that nothing acts on have TOKENS entries."""
    generator = np.random.default_rng(seed)
    if shapes is None:
        shapes = {
            name: tuple(
                TOKENS if axis is None else spec.labels[axis.label].sizes[axis.role]
                for axis in axes  # type: ignore[union-attr]
            )
            for name, axes in spec.tensors.items()
        }
    spec.check(shapes)
    return {name: torch.from_numpy(generator.standard_normal(shape)).float() for name, shape in shapes.items()}


def mapped(spec: Spec, maps: Maps, model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A model under maps."""
    return {name: spec.apply(maps, name, tensor) for name, tensor in model.items()}


def agreement(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> float:
    """Σ ⟨A, B⟩ over all tensors."""
    return sum(float((one[name].double() * two[name].double()).sum()) for name in one)


def distance(models: Sequence[Mapping[str, Tensor]]) -> float:
    """The largest difference of any number of any model from the first one's."""
    return max(float((model[name] - models[0][name]).abs().max()) for model in models for name in model)
