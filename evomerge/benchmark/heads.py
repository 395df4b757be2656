"""Heads of classifiers: what a task's own output head is, read from the model that was tuned for the task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.errors import BenchmarkError, CheckpointError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.head import head_names
from evomerge.score.requests import Head


def read_head(place: str, task: str, where: str) -> tuple[Head, Mapping[str, Any]]:
    """A head's weights in float32, and the config.json that names its labels.

    Args:
        place: a model folder or hub id.
        task: whose head it is to be.
        where: in the config, for messages.

    Raises: BenchmarkError if it can't be read, or has no head of its own.
    """
    try:
        model = Checkpoint.open(place)
        tensors = {name: model.tensor(name).float().numpy().copy() for name in head_names(model)}
    except CheckpointError as error:
        raise BenchmarkError(f"{where}: {error}") from error
    return Head(task, tensors), model.config
