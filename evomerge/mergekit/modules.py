"""The form that mergekit itself writes, in which a merge lists the modules of its models, as the plain form.

Language models have one module, whose name is mergekit's own affair. Knows plain data alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from evomerge.errors import RecipeError
from evomerge.mergekit.documents import mapping
from evomerge.mergekit.settings import joined, parameters_of

_MODULE = {"name", "slices", "models", "parameters"}


def without_modules(top: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """A merge file's data with `models` or `slices` in place of its one module.

    Several modules, such as a language model and a vision tower, count as one if all say the same of whole models.

    Raises: RecipeError for modules that are merged in different ways.
    """
    if top.get("modules") is None:
        return top
    if top.get("models") is not None or top.get("slices") is not None:
        raise RecipeError(f"{where}: expected one of models, slices and modules")
    modules = mapping(top["modules"], f"{where}: modules", None)
    if not modules:
        raise RecipeError(f"{where}: modules: expected at least one module")
    places = {name: f"{where}: modules.{name}" for name in modules}
    read = [{**mapping(module, places[name], _MODULE), "name": None} for name, module in modules.items()]
    if len(read) > 1 and (read[0].get("models") is None or any(module != read[0] for module in read)):
        raise RecipeError(
            f"{where}: modules: {', '.join(map(str, modules))}: merging modules in different ways isn't supported; "
            "give models, which merges all modules alike"
        )
    (place, *_), (module, *_) = places.values(), read
    if (module.get("models") is None) == (module.get("slices") is None):
        raise RecipeError(f"{place}: expected either models or slices")
    parameters = joined(
        parameters_of(module.get("parameters"), f"{place}.parameters"),
        parameters_of(top.get("parameters"), f"{where}: parameters"),
    )
    return {
        **top,
        "modules": None,
        "models": module.get("models"),
        "slices": module.get("slices"),
        "parameters": parameters,
    }


def unread_ranges(top: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each range of layers that is given where mergekit reads none."""
    models = top.get("models")
    for index, entry in enumerate(models if isinstance(models, list) else ()):
        if isinstance(entry, Mapping) and entry.get("layer_range") is not None:
            yield (
                f"models[{index}].layer_range: mergekit passes over it outside of slices, so all layers are merged; "
                "give slices to merge some of them"
            )
