"""Merges that a search is compared with: other methods at the settings of their papers, and layer swapping.

Knows which settings these are, and the recipes that they make of given experts. Does not know who scores them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from evomerge.errors import ConfigError, RecipeError, unknown
from evomerge.methods.base import MergeMethod
from evomerge.methods.declared import build_method, method_class
from evomerge.recipe.group import Coefficient, Group
from evomerge.recipe.recipe import Recipe

LAYER_SWAP = "layer_swap"
"""The outer layers of one expert around the inner ones of the other."""

STANDARD = ("task_arithmetic", "ties", "tsv_merge", "iso_c", "iso_cts", "model_stock", LAYER_SWAP)
"""What `search.baselines: standard` stands for, as far as it fits the experts."""

_OUTER = 6
"""The first and the last layers that are swapped are each one in so many of a model's, at least one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setting:
    """One merge of a method, the same in all parts of the model."""

    label: str = ""
    """Tells it from the method's other settings."""
    coefficients: Mapping[str, float]
    options: Mapping[str, Any] = field(default_factory=dict)


_SETTINGS: Mapping[str, tuple[_Setting, ...]] = {
    # Ilharco et al. 2023 find 0.3 best for many tasks; Yadav et al. 2023 give it 0.4 where nothing can be tuned.
    "task_arithmetic": tuple(_Setting(label=f"{weight:g}", coefficients={"weight": weight}) for weight in (0.3, 0.4)),
    # Yadav et al. 2023, §4: top 20%, λ = 1, where nothing can be tuned; signs by what was kept, unweighted.
    "ties": (
        _Setting(
            coefficients={"weight": 1.0, "density": 0.2, "scale": 1.0},
            options={"election": "unweighted", "trim": "model"},
        ),
    ),
    # Yu et al. 2024 drop up to nine in ten changes, and try 0.5 and 1 as the factor.
    "dare_linear": tuple(
        _Setting(label=f"{weight:g}", coefficients={"weight": weight, "density": 0.1}) for weight in (0.5, 1.0)
    ),
    # Gargiulo et al. 2025: α = 1 where nothing can be tuned.
    "tsv_merge": (_Setting(coefficients={"weight": 1.0}),),
    # Marczak et al. 2025: their best factors are near 1.5; Iso-CTS keeps 0.8 of the directions as common ones.
    "iso_c": (_Setting(coefficients={"scale": 1.5, "isotropy": 1.0}),),
    "iso_cts": (_Setting(coefficients={"scale": 1.5, "isotropy": 1.0}, options={"common": 0.8}),),
    # Jang et al. 2024: nothing to set.
    "model_stock": (_Setting(coefficients={"scale": 1.0}),),
}

NAMES = (*_SETTINGS, LAYER_SWAP)
"""All that there is, each a method's name or `layer_swap`."""


def published(asked: Sequence[str], template: Recipe, last_layer: int) -> dict[str, Recipe]:
    """The merges of some names, each by a name of its own, such as "task_arithmetic 0.3".

    Args:
        asked: of `NAMES`; `standard` stands for those of `STANDARD` that fit.
        template: a recipe with everything but its method and groups.
        last_layer: number of the models' last layer; the first is 0.

    Raises: ConfigError for a name that there isn't, or that doesn't fit the experts.
    """
    names = expanded(asked, tuple(template.experts))
    if LAYER_SWAP in names and last_layer < 2:
        if LAYER_SWAP in asked:
            raise ConfigError(f"{LAYER_SWAP} needs three layers, and these models have {last_layer + 1}; leave it out")
        names.remove(LAYER_SWAP)
    return dict(_published(names, template, last_layer))


def expanded(asked: Sequence[str], experts: Sequence[str]) -> list[str]:
    """The names with `standard` replaced by those that fit, each once. Raises: ConfigError."""
    found: dict[str, None] = {}
    for name in asked:
        if name == "standard":
            found |= dict.fromkeys(each for each in STANDARD if _misfit(each, experts) is None)
        elif name not in NAMES:
            raise ConfigError(unknown("baseline", name, ("standard", *NAMES)))
        elif (misfit := _misfit(name, experts)) is not None:
            raise ConfigError(misfit)
        else:
            found[name] = None
    return list(found)


def labels(asked: Sequence[str], experts: Sequence[str]) -> list[str]:
    """The names of the merges themselves, of which a method may have several. Raises: ConfigError."""
    found: list[str] = []
    for name in expanded(asked, experts):
        suffixes = experts if name == LAYER_SWAP else [setting.label for setting in _SETTINGS[name]]
        found += [f"{name} {suffix}".rstrip() for suffix in suffixes]
    return found


def kind_of(label: str) -> str:
    """The name that a merge's own name belongs to."""
    return label.partition(" ")[0]


def _published(names: Sequence[str], template: Recipe, last_layer: int) -> Iterator[tuple[str, Recipe]]:
    for name in names:
        if name == LAYER_SWAP:
            yield from _swapped(template, last_layer)
            continue
        for setting in _SETTINGS[name]:
            recipe = _recipe(template, name, setting.options, (Group(name="all", coefficients=setting.coefficients),))
            yield f"{name} {setting.label}".rstrip(), recipe


def _recipe(template: Recipe, method: str, options: Mapping[str, Any], groups: tuple[Group, ...]) -> Recipe:
    made: MergeMethod = build_method(method, options, experts=tuple(template.experts), seed=template.seed)
    return replace(template, method=method, options=made.option, groups=groups)


def _swapped(template: Recipe, last_layer: int) -> Iterator[tuple[str, Recipe]]:
    """Each expert's outer layers around the other's inner ones, with the mean of both between (Bandarkar et al. 2025).

    Embeddings go with the first layer, and the final norm and the head with the last.
    """
    for outer in template.experts:
        (inner,) = (name for name in template.experts if name != outer)
        groups = [
            _weighted({outer: 1.0 - share, inner: share}, [*layers])
            for share, layers in itertools.groupby(range(last_layer + 1), partial(_inner_share, last_layer))
        ]
        yield f"{LAYER_SWAP} {outer}", _recipe(template, "task_arithmetic", {}, tuple(groups))


def _inner_share(last_layer: int, layer: int) -> float:
    """How much of a layer is the inner expert's: nothing outside, half where there is room for it, else all."""
    layers = last_layer + 1
    width, depth = max(1, round(layers / _OUTER)), min(layer, last_layer - layer)
    if depth < width:
        return 0.0
    return 0.5 if depth == width and layers > 2 * width + 2 else 1.0


def _weighted(weights: Mapping[str, float], layers: Sequence[int]) -> Group:
    coefficients: dict[str, Coefficient] = {"weight": dict(weights)}
    first, last = layers[0], layers[-1]
    return Group(name=f"layers {first}-{last}", layers=(first, last), coefficients=coefficients)


def _misfit(name: str, experts: Sequence[str]) -> str | None:
    """Why a name doesn't fit the experts, a sentence; None if it does."""
    if name == LAYER_SWAP:
        return None if len(experts) == 2 else f"{name} is of two experts, and here are {len(experts)}; leave it out"
    try:
        method_class(name, len(experts))
    except RecipeError as error:
        return f"{str(error).removeprefix('recipe: ')}; leave {name} out"
    return None
