"""Whether a worker's GPUs, or its machine, have room for a live model, and how many GPUs would."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from evomerge.errors import ExecutionError
from evomerge.inference.spread import Stretch, divided
from evomerge.kernels.device_memory import free_bytes
from evomerge.kernels.machine import bytes_with_swap
from evomerge.score.numbers import size

SHARE = 0.95
"""Of a GPU's memory, what a live model may take; the rest is for batches, and for the tensor that is being merged."""


def rooms_of(devices: Sequence[torch.device]) -> list[int]:
    """Bytes that each device has for a live model now."""
    return [int(SHARE * free_bytes(device)) for device in devices]


def gpus_needed(stretches: Sequence[Stretch], room: int) -> int | None:
    """On how many devices with so much room a model fits; None if one of its parts alone is too large."""
    if max((stretch.size_bytes for stretch in stretches), default=0) > room:
        return None
    return next(count for count in range(1, len(stretches) + 1) if divided(stretches, [room] * count) is not None)


def refuse_if_too_large(
    stretches: Sequence[Stretch], rooms: Sequence[int], model: str, *, shared: bool = False
) -> None:
    """Refuse a model for which a worker's GPUs have no room.

    Args:
        stretches: of the live model.
        rooms: of the GPUs.
        model: its name for people.
        shared: whether the one GPU is other workers' as well.

    Raises: ExecutionError with how many GPUs would do.
    """
    if divided(stretches, rooms) is not None:
        return
    needed = gpus_needed(stretches, min(rooms))
    largest = max(stretches, key=lambda stretch: stretch.size_bytes)
    if shared:
        remedy = "set execution.gpus_per_worker to more of a GPU, or to whole ones"
    elif needed is None:
        remedy = f"use larger GPUs: {largest.modules[0]} alone takes {size(largest.size_bytes)}"
    else:
        remedy = f"set execution.gpus_per_worker: {needed}, or use larger GPUs"
    whole = size(sum(stretch.size_bytes for stretch in stretches))
    one = f"{'part of a ' if shared else ''}GPU has room for {size(rooms[0])}"
    there = one if len(rooms) == 1 else f"{len(rooms)} GPUs have room for {' + '.join(map(size, rooms))}"
    there += "" if len(rooms) == 1 else ", in whole layers"
    raise ExecutionError(
        f"{model}: the live model takes {whole}, and a worker's {there} ({1 - SHARE:.0%} is left for "
        f"batches and merging); {remedy}"
    )


def refuse_without_memory(size_bytes: int, model: str) -> None:
    """Refuse a model that this machine's memory can't hold, since the system would end the process without a word.

    Args:
        size_bytes: of the live model.
        model: its name for people.

    Raises: ExecutionError with what is left.
    """
    room = bytes_with_swap()
    if room is not None and size_bytes > room:
        raise ExecutionError(
            f"{model}: the live model takes {size(size_bytes)} of memory, and {size(room)} are left to this process by "
            "its machine, or by a limit of its container or job; use a larger one or a smaller dtype"
        )
