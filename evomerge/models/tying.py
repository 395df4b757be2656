"""Whether the output head is the token embedding: the config decides, as in transformers, not the stored names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from evomerge.models.architecture import is_head
from evomerge.models.transformers_settings import settings_of


def ties(config: Mapping[str, Any]) -> bool:
    """Whether head and embedding are one tensor by config.json, or by its model type's default if it doesn't say.

    True for a model type that transformers doesn't know.
    """
    said = config.get("tie_word_embeddings")
    if said is not None:
        return bool(said)
    return bool(getattr(settings_of(config), "tie_word_embeddings", True))


def missing_head(config: Mapping[str, Any], architecture: str | None, names: Iterable[str]) -> str | None:
    """Name of the output head that a model needs and `names` lack; None if it needs none or has one.

    Args:
        config: contents of config.json.
        architecture: the class that config.json names, if it does.
        names: the stored tensors'.
    """
    if config.get("tie_word_embeddings"):
        return None
    import transformers

    tied = getattr(getattr(transformers, architecture or "", None), "_tied_weights_keys", None)
    heads = [name for name in tied if is_head(name)] if isinstance(tied, Mapping) else []
    stored = tuple(names)
    lacking = [head for head in heads if not any(f".{name}".endswith(f".{head}") for name in stored)]
    return lacking[0] if lacking and not ties(config) else None
