"""Output heads: models seen with the head of one of them, so that a merge has it as it is.

A head's weights stay out of the merge, and the others' may be of any size and for any labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.stack import BASE, Origin, StackedCheckpoint

LABELS = ("id2label", "label2id", "num_labels", "problem_type")
"""Keys of config.json that say what a classifier's outputs are."""


@dataclass(frozen=True, kw_only=True)
class HeadedCheckpoint(StackedCheckpoint):
    """A model seen with another's head and labels. Made by `with_head`; nothing is copied."""


def head_names(model: Checkpoint) -> tuple[str, ...]:
    """Names of the tensors of a model's output head. Raises: CheckpointError if it has none of its own."""
    found = tuple(name for name in model.names if model.layout.place(name).kind == "head")
    if not found:
        raise CheckpointError(
            f"{model.folder}: has no output head of its own that could be kept: it stores none, or ties it to the "
            "embedding"
        )
    return found


def with_head(
    base: Checkpoint, experts: Mapping[str, Checkpoint], owner: str
) -> tuple[Checkpoint, dict[str, Checkpoint]]:
    """Show base and experts with the head and the labels of one of them.

    Args:
        base: of the merge.
        experts: by name.
        owner: "base" or an expert's name.

    Raises: CheckpointError if the owner has no head of its own.
    """
    models = {BASE: base, **experts}
    source = models[owner]
    names = head_names(source)
    labels = {key: source.config[key] for key in LABELS if key in source.config}

    def shown(name: str) -> Checkpoint:
        model = models[name]
        if model is source:
            return model
        own = {tensor: info for tensor, info in model.tensors.items() if model.layout.place(tensor).kind != "head"}
        tensors = {**own, **{tensor: source.tensors[tensor] for tensor in names}}
        config = {key: value for key, value in model.config.items() if key not in LABELS}
        return HeadedCheckpoint(
            reference=model.reference,
            folder=model.folder,
            config={**config, **labels},
            tensors=tensors,
            ignored={
                **model.ignored,
                **{tensor: f"{owner}'s head is kept" for tensor in model.names if tensor not in own},
            },
            source=model,
            remarks=(f"the head is {_named(owner)}, as it is",) if name == BASE else (),
            _origins={tensor: Origin(source if tensor in names else model, tensor) for tensor in tensors},
        )

    return shown(BASE), {name: shown(name) for name in experts}


def _named(owner: str) -> str:
    return "the base's" if owner == BASE else f"expert {owner!r}'s"
