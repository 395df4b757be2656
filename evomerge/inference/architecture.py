"""Which of transformers' classes a checkpoint is opened with. Knows config.json, runs no code but transformers' own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import Checkpoint

# Names under which earlier releases of transformers saved language models.
_LANGUAGE_MODELS = ("CausalLM", "LMHeadModel", "ForConditionalGeneration")


def class_of(base: Checkpoint, config: Any) -> Any:
    """The class that config.json names under `architectures`, if one of transformers' auto classes knows it.

    Causal language models, and models that don't say what they are, get the class of `AutoModelForCausalLM`.

    Args:
        base: names the class.
        config: its config, through transformers.

    Raises: CheckpointError if transformers has no such class for this model type.
    """
    import transformers
    from transformers import AutoModelForCausalLM

    name, kind = base.architecture, config.model_type
    causal = _causal(kind)
    if name is None or name in causal or (not _is_known(name, kind) and name.endswith(_LANGUAGE_MODELS)):
        return _causal_class(AutoModelForCausalLM, config)
    found = getattr(transformers, name, None)
    if found is None or not _is_known(name, kind):
        raise CheckpointError(
            f"{base.folder}: config.json names the architecture {name!r}, which none of transformers "
            f"{transformers.__version__}'s auto classes has for model type {kind!r}; models that bring their own code "
            "aren't run"
        )
    if _conditional(name) and kind in _mapping("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"):
        return _causal_class(AutoModelForCausalLM, config)
    return found


def refuse_unless_it_continues_text(base: Checkpoint) -> None:
    """Find early that a model can't answer lm-eval's tasks.

    Raises: CheckpointError if its config.json names an architecture that isn't a language model.
    """
    name = base.architecture
    if name is None or name.endswith(_LANGUAGE_MODELS) or name in _causal(base.model_type or ""):
        return
    raise CheckpointError(
        f"{base.folder}: is a {name}, which doesn't continue text as lm-eval's tasks need it; score it with "
        "benchmark.labels, or with a function of your own (benchmark.function)"
    )


def _causal_class(auto: Any, config: Any) -> Any:
    with torch.device("meta"):
        return type(auto.from_config(config))


def _conditional(name: str) -> bool:
    """Whether it is one of the models of several kinds of input that are opened for their text alone."""
    return name.endswith("ForConditionalGeneration")


def _causal(kind: str) -> tuple[str, ...]:
    return tuple(_names(_mapping("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES").get(kind)))


def _is_known(name: str, kind: str) -> bool:
    """Whether one of the auto classes opens models of this type with the class of this name."""
    from transformers.models.auto import modeling_auto

    tables = [table for table in vars(modeling_auto) if table.startswith("MODEL_") and table.endswith("MAPPING_NAMES")]
    return any(name in _names(_mapping(table).get(kind)) for table in tables)


def _mapping(table: str) -> Mapping[str, Any]:
    from transformers.models.auto import modeling_auto

    found: Mapping[str, Any] = getattr(modeling_auto, table)
    return found


def _names(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    elif entry is not None:
        yield from entry
