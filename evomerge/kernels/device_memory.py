"""How much memory a device has left, and whether an error means that it ran out."""

from __future__ import annotations

from evomerge.kernels.machine import available_bytes
from evomerge.late import torch

_CONTEXT_BYTES = 1 << 30
"""About what CUDA takes for each process on a GPU, besides its tensors."""
_parts: dict[int, int] = {}
"""Bytes that are this process's own, of GPUs that it shares with others, by index."""


def part_of(total_bytes: int, share: float) -> int:
    """Bytes for the tensors of a process that has a share of a GPU.

    Args:
        total_bytes: the GPU's memory.
        share: between 0 and 1.
    """
    part = int(share * total_bytes)
    return part - min(_CONTEXT_BYTES, part // 2)


def take_share(device: torch.device, share: float) -> None:
    """Let this process have so much of a GPU that others use as well; asking for more is running out of memory.

    Without it, each of them would take for its own all that is free.

    Args:
        device: the GPU.
        share: of it, between 0 and 1.
    """
    total = torch.cuda.get_device_properties(device).total_memory
    part = part_of(total, share)
    torch.cuda.set_per_process_memory_fraction(part / total, device)
    _parts[_index_of(device)] = part


def is_shared(device: torch.device) -> bool:
    """Whether this process has a part of a GPU alone."""
    return bool(_parts) and device.type == "cuda" and _index_of(device) in _parts


def free_bytes(device: torch.device) -> int:
    """Memory that can still be had: of the GPU or this process's part of it, else `available_bytes`."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        used = torch.cuda.memory_allocated(device)
        found: int = free + torch.cuda.memory_reserved(device) - used
        part = _parts.get(_index_of(device))
        return found if part is None else max(0, min(found, part - used))
    return available_bytes()


def _index_of(device: torch.device) -> int:
    index: int = torch.cuda.current_device() if device.index is None else device.index
    return index


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on whatever device."""
    # torch's CPU allocator raises a plain RuntimeError.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )
