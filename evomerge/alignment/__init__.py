"""Alignment: maps that bring models trained apart together and leave each one's function as it was.

Specs of architectures are in `specs/`, one file each; kinds of maps in `kinds/`; methods beside them, one file each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from evomerge.alignment.base import Method
from evomerge.alignment.spec import Shape, Spec
from evomerge.alignment.symmetries import Symmetries
from evomerge.registry import Registry

SpecOf = Callable[[Mapping[str, Shape], Mapping[str, Any], Symmetries], Spec]
"""Makes the spec of a model from the shapes of its tensors, its config.json and the symmetries to use.

Raises: AlignmentError where its config asks for something that the spec doesn't know.
"""

_LLAMA_LIKE = (
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "granite", "olmo2",
    "mixtral", "qwen2_moe", "qwen3_moe",
)  # fmt: skip
_FILES = {
    **dict.fromkeys(_LLAMA_LIKE, "llama"),
    "gpt2": "gpt2",
    "gpt_neox": "gpt_neox",
    **dict.fromkeys(("bert", "roberta", "xlm-roberta"), "bert"),
    "cohere": "cohere",
    "starcoder2": "starcoder2",
    "vit": "vit",
    **dict.fromkeys(("clip", "clip_vision_model", "clip_text_model"), "clip"),
    "mlp": "mlp",
    "vgg": "vgg",
    "resnet": "resnet",
}

SPECS: Registry[SpecOf] = Registry(
    "model type with a spec",
    {name: f"evomerge.alignment.specs.{file}:FAMILY" for name, file in _FILES.items()},
    group="evomerge.alignment_specs",
)
"""By `model_type` of config.json."""

ALIGNMENTS: Registry[type[Method]] = Registry(
    "alignment method",
    {
        "weight_matching": "evomerge.alignment.weight_matching:WeightMatching",
        "merge_many": "evomerge.alignment.merge_many:MergeMany",
        "c2m3": "evomerge.alignment.cycle_consistent:CycleConsistent",
    },
    group="evomerge.alignments",
)
"""By name."""

__all__ = ["ALIGNMENTS", "SPECS", "SpecOf"]
