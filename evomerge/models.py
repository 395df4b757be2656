"""The models of one merge, opened together: the base, and experts that fit it tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from evomerge.checkpoint import Checkpoint
from evomerge.lora import open_experts
from evomerge.recipe import ModelReference


class Models(NamedTuple):
    """A base and its experts by name, in the order in which they were given."""

    base: Checkpoint
    experts: Mapping[str, Checkpoint]


def open_models(base: ModelReference, experts: Mapping[str, ModelReference]) -> Models:
    """Open the base and every expert, whole model or LoRA adapter, from their headers.

    Everything that merges opens its models here, so that a search, its workers and an export see the same.

    Raises: CheckpointError naming the model and what is wrong with it.
    """
    opened = Checkpoint.open(base)
    return Models(opened, open_experts(experts, opened))
