"""Stored tensors that aren't part of a model's function, and by which rule that is known.

The one place that knows what transformers computes by itself and what its classes leave unread. Builds a class of
transformers without memory to ask it; reads no weights and runs no code but transformers' own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from evomerge.models.architecture import Layout, configured_depth
from evomerge.models.transformers_settings import settings_of, without_remarks

COMPUTED = "computed by transformers: masks, positions, rotary tables"
"""The rule for buffers that some releases of transformers stored, whatever the architecture."""

_BUFFERS = re.compile(r"(^|\.)(rotary_emb\.\w+|masked_bias)$")
_MASK = re.compile(r"(^|\.)(attn|attention|crossattention)\.bias$")
# Which some architectures store to this day, so that the model's class decides.
_MAYBE_BUFFERS = r"(^|\.)(position_ids|(original_)?inv_freq)$"
# Layers after the last that predict tokens further ahead, by what architectures call their number.
_FURTHER_LAYERS = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_hidden_layers", "num_mtp_modules")


def is_computed(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a stored tensor is a mask or a rotary table that transformers computes and doesn't load."""
    return bool(_BUFFERS.search(name)) or (len(shape) > 1 and bool(_MASK.search(name)))


def left_unread(names: Iterable[str], config: Mapping[str, Any], architecture: str | None) -> dict[str, str]:
    """The tensors that transformers leaves unread on purpose, each with the rule that says so.

    They are those that the config counts as layers beyond the model's own, and those that the model's class names in
    `_keys_to_ignore_on_load_unexpected`, or computes, and has no place for.

    Args:
        names: every stored tensor of the model.
        config: its config.json.
        architecture: the class that it names; one that isn't transformers' own has no rules.
    """
    names = tuple(names)
    found = _further_layers(names, config)
    rest = [name for name in names if name not in found]
    model = _without_memory(config, architecture)
    if model is None:
        return found
    listed = sorted(model._keys_to_ignore_on_load_unexpected or ())
    rules = {pattern: f"{type(model).__name__} leaves {pattern} unread" for pattern in listed}
    rules[_MAYBE_BUFFERS] = COMPUTED
    places = _Places(model.state_dict(), model.base_model_prefix)
    for name in rest:
        rule = next((rule for pattern, rule in rules.items() if re.search(pattern, name)), None)
        if rule is not None and not places.has(name):
            found[name] = rule
    return found


def _further_layers(names: tuple[str, ...], config: Mapping[str, Any]) -> dict[str, str]:
    key, count = next(
        ((key, config[key]) for key in _FURTHER_LAYERS if type(config.get(key)) is int and config[key] > 0), ("", 0)
    )
    depth = configured_depth(config)
    if not count or depth is None:
        return {}
    layout = Layout.of(names, config)
    places = {name: layout.split(name) for name in names}
    return {
        name: f"beyond the {depth} layers of config.json ({key})"
        for name, place in places.items()
        if place is not None and depth <= place[0] < depth + count
    }


class _Places:
    """The places that a model has for stored tensors, by the names under which it would save them."""

    def __init__(self, names: Iterable[str], prefix: str) -> None:
        self._names = frozenset(names)
        self._modules = frozenset(
            ".".join(parts[:length])
            for parts in (name.split(".") for name in self._names)
            for length in range(len(parts))
        )
        self._prefix = f"{prefix}." if prefix else ""

    def has(self, name: str) -> bool:
        """Whether the model may have a place for a stored tensor, also under its base model's prefix."""
        spellings = {name, self._prefix + name, name.removeprefix(self._prefix)}
        return any(spelling in self._names or self._is_stacked(spelling) for spelling in spellings)

    def _is_stacked(self, name: str) -> bool:
        """Whether it is one of the numbered modules that transformers stacks into one parameter, such as experts."""
        parts = name.split(".")
        known = next(length for length in reversed(range(len(parts))) if ".".join(parts[:length]) in self._modules)
        module = ".".join(parts[:known])
        return known > 0 and parts[known].isdigit() and f"{module}.0" not in self._modules


def _without_memory(config: Mapping[str, Any], architecture: str | None) -> Any:
    """A model of transformers' own class with parameters that take no memory; None if there is no such class."""
    import torch
    import transformers

    named = getattr(transformers, architecture or "", None)
    with without_remarks():
        try:
            settings = settings_of(config)
            kind: Any = named if _is_model(named) else transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(settings)]
            with torch.device("meta"):
                return kind(settings)
        except Exception:
            # What transformers can't build has no rules; that it can't be run is said where it is to run.
            return None


def _is_model(found: Any) -> bool:
    import transformers

    return isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
