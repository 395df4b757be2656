"""How live models lie in memory, above all over the GPUs of a worker, found without loading them."""

from __future__ import annotations

import torch

from evomerge.config.config import Config
from evomerge.config.execution import ExecutionConfig
from evomerge.errors import ConfigError, ExecutionError
from evomerge.execute.settings import gpu_share, is_elsewhere, visible_gpus, worker_settings
from evomerge.inference.architecture import class_of
from evomerge.inference.live import config_of, outline_of
from evomerge.inference.room import SHARE, refuse_if_too_large
from evomerge.inference.spread import divided, stretches_of
from evomerge.kernels.device_memory import part_of
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.transformers_settings import without_remarks
from evomerge.score.numbers import size


def live_size(model: Checkpoint, dtype: str) -> int:
    """Bytes of a model in the dtype of live models."""
    return model.num_parameters * int(getattr(torch, dtype).itemsize)


def notes_on_gpus(config: Config, base: Checkpoint, dtype: str, *, where: str) -> list[str]:
    """How the live model is spread over the GPUs of a worker, a sentence each; none where it is on one device.

    Args:
        config: the experiment.
        base: the model that is live.
        dtype: of live models.
        where: the config's file, for messages.

    Raises: ConfigError if this machine's GPUs are what workers get, and haven't the room or aren't as many.
    """
    settings = worker_settings(config, dtype=dtype)
    rooms = _rooms_here(config.execution) if settings.device == "cuda" else None
    if settings.gpus == 1 and not rooms:
        return []
    if rooms and len(rooms) < settings.gpus:
        raise ConfigError(
            f"{where}: execution.gpus_per_worker: {settings.gpus} GPUs are asked for each worker, and this machine has "
            f"{len(rooms)}"
        )
    settings_of_base = config_of(base)
    with without_remarks():
        stretches = stretches_of(outline_of(class_of(base, settings_of_base), settings_of_base, getattr(torch, dtype)))
    if rooms:
        try:
            refuse_if_too_large(
                stretches, rooms[: settings.gpus], str(base.folder), shared=gpu_share(config.execution) < 1
            )
        except ExecutionError as error:
            raise ConfigError(f"{where}: {error}") from error
    if settings.gpus == 1:
        return []
    whole = sum(stretch.size_bytes for stretch in stretches)
    places = divided(stretches, rooms[: settings.gpus] if rooms else [whole] * settings.gpus) or []
    loads = [
        sum(stretch.size_bytes for stretch, place in zip(stretches, places, strict=True) if place == device)
        for device in range(settings.gpus)
    ]
    unseen = "" if rooms else "; whether they have room for that is seen when workers start"
    shares = " + ".join(map(size, loads))
    notes = [
        f"the live model lies over {settings.gpus} GPUs of each worker in whole layers, {shares}, which work one after "
        f"the other{unseen}"
    ]
    if rooms and divided(stretches, rooms[:1]) is not None:
        notes.append(
            f"the live model fits on one GPU ({size(rooms[0])}): with execution.gpus_per_worker: 1 "
            f"{settings.gpus} workers would work at once in the place of each"
        )
    return notes


def _rooms_here(execution: ExecutionConfig) -> list[int]:
    """Bytes that a worker has for a live model on each of this machine's GPUs when it is empty; none if workers get
    others.
    """
    count, share = 0 if is_elsewhere(execution) else visible_gpus(), gpu_share(execution)
    totals = [torch.cuda.get_device_properties(index).total_memory for index in range(count)]
    return [int(SHARE * (total if share == 1 else part_of(total, share))) for total in totals]
