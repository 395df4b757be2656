"""The model that is tuned: loaded for training, with a new head or an adapter where they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from evomerge.errors import CheckpointError, TuningError
from evomerge.inference.architecture import class_of, refuse_unless_it_continues_text
from evomerge.models.checkpoint import Checkpoint
from evomerge.tuning.settings import TuneData, TuneSettings

_DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}
"""Of the weights while they are trained, by the format of the computation."""


def dtype_of(settings: TuneSettings, base: Checkpoint) -> torch.dtype:
    """Of the weights while they are trained."""
    if settings.dtype == "auto":
        return torch.float64 if base.dtype == torch.float64 else torch.float32
    return _DTYPES[settings.dtype]


def load(base: Checkpoint, data: TuneData, settings: TuneSettings, labels: Sequence[str]) -> Any:
    """The model with all of its weights, those of a new head drawn from torch's generator.

    Raises: CheckpointError if transformers can't load it, or no stored tensor fills a parameter that isn't new.
    """
    from transformers import AutoConfig, GenerationConfig

    config = AutoConfig.from_pretrained(base.folder, local_files_only=True, trust_remote_code=False)
    if data.label is None:
        refuse_unless_it_continues_text(base)
    if data.new_head:
        config.num_labels = len(labels)
        config.id2label = dict(enumerate(labels))
        config.label2id = {name: number for number, name in enumerate(labels)}
    try:
        found = _with_head(data) if data.new_head else class_of(base, config)
        model, report = found.from_pretrained(
            base.folder,
            config=config,
            dtype=dtype_of(settings, base),
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=data.new_head,
            output_loading_info=True,
        )
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{base.folder}: can't be loaded ({type(error).__name__}: {error})") from error
    heads = heads_of(model) if data.new_head else ()
    missing = sorted(
        name for name in report["missing_keys"] if not name.startswith(tuple(f"{head}." for head in heads))
    )
    if missing:
        raise CheckpointError(f"{base.folder}: no stored tensor fills {', '.join(missing[:3])}")
    if hasattr(model, "generation_config"):
        # The folder's own goes along as it is; one that transformers won't save would end a training at its end.
        model.generation_config = GenerationConfig()
    return model


def heads_of(model: Any) -> tuple[str, ...]:
    """The modules of a classifier that aren't its encoder."""
    return tuple(
        name
        for name, module in model.named_children()
        if name != model.base_model_prefix and any(True for _ in module.parameters())
    )


def adapted(model: Any, data: TuneData, settings: TuneSettings) -> Any:
    """The model with a LoRA adapter on every linear layer; a classifier's head is trained whole.

    Raises: TuningError if PEFT isn't installed, or finds no layer that it can adapt.
    """
    try:
        from peft import LoraConfig, TaskType, get_peft_model
    except ImportError as error:
        raise TuningError(f"--lora-rank needs PEFT: pip install 'evomerge[tune]' ({error})") from error
    assert settings.lora_rank is not None
    heads = list(heads_of(model)) if data.label is not None else []
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha if settings.lora_alpha is not None else 2 * settings.lora_rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type=TaskType.CAUSAL_LM if data.label is None else None,
        modules_to_save=heads or None,
        exclude_modules=heads or None,
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise TuningError(f"no layer of a {type(model).__name__} can be adapted: {error}") from error


def _is_new(name: str, heads: Sequence[str]) -> bool:
    """Whether a parameter may be drawn anew: of a new head, and of what hands the encoder's output to it."""
    return bool(heads) and (name.startswith(tuple(heads)) or ".pooler." in name)


def _with_head(data: TuneData) -> Any:
    from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

    return AutoModelForImageClassification if data.image is not None else AutoModelForSequenceClassification
