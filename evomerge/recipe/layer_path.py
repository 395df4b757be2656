"""A path through layers as slices, and its scales as groups."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from evomerge.errors import RecipeError
from evomerge.recipe.group import Group
from evomerge.recipe.sources import Slice

BRANCH_OUTPUTS = ("o_proj", "down_proj")
"""Parts of the names of the tensors that end a layer's branches, in Llama and its relatives."""


def from_path(path: Iterable[tuple[str, int]]) -> tuple[Slice, ...]:
    """Slices for a path through layers, as a search in data-flow space proposes them (Akiba et al. 2024, §3.2).

    `scaled_groups` gives the paper's scaling of inputs.

    Args:
        path: model, "base" or an expert, and layer of each step; layers may repeat and come in any order.

    Raises: RecipeError if the path is empty.
    """
    slices: list[tuple[str, int, int]] = []
    for model, layer in path:
        if slices and slices[-1][0] == model and slices[-1][2] + 1 == layer:
            slices[-1] = (model, slices[-1][1], layer)
        else:
            slices.append((model, layer, layer))
    if not slices:
        raise RecipeError("models.slices: a path needs at least one layer")
    return tuple({model: (first, last)} for model, first, last in slices)


def scaled_groups(
    input_scales: Sequence[float],
    *,
    outputs: Sequence[str] = BRANCH_OUTPUTS,
) -> tuple[Group, ...]:
    """Groups for the method `scaled` that scale the input of each layer of a path (Akiba et al. 2024, §3.2).

    The paper's layer k computes x ← w·x + f(w·x), which no weight of it does by itself. But where each branch
    normalises its input and the model its last state, lengths of the residual stream don't matter: f(w·x) = f(x), and
    with c the product of the scales so far, y = x / c follows y ← y + f(y) / c. So the tensors that end the layer's
    branches are divided by c, which is exact but for the norms' epsilon. A scale of 0 or below, and models that
    normalise what a branch returns (Gemma 2 and 3, OLMo 2) or nothing before it, would need a factor of its own
    in each layer, which a checkpoint of their architecture can't hold.

    A factor on what a layer adds, x ← x + s·f(x), is one group by those names with the scale s.

    Args:
        input_scales: of each layer of the path, above 0.
        outputs: parts of the names of the tensors that end a layer's branches; their biases are divided too.

    Returns: groups for the layers whose scale isn't 1, and a last one that leaves everything else.

    Raises: RecipeError for a scale that isn't a number above 0, and without outputs.
    """
    if not outputs:
        raise RecipeError("outputs: name the tensors that end a layer's branches, such as o_proj and down_proj")
    groups = []
    length = 1.0
    for layer, scale in enumerate(input_scales):
        if not (0.0 < scale < math.inf):
            raise RecipeError(f"input_scales[{layer}]: {scale}: only scales above 0 can be had by dividing outputs")
        length *= scale
        if length != 1.0:
            groups += [
                Group(
                    name=f"layer {layer}, {part}",
                    layers=(layer, layer),
                    names=(part,),
                    coefficients={"scale": 1.0 / length},
                )
                for part in outputs
            ]
    return (*groups, Group(name="rest", coefficients={"scale": 1.0}))
