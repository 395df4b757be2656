"""How much memory a device has left, and whether an error means that it ran out."""

from __future__ import annotations

import os
from pathlib import Path

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
    """Memory that can still be had: of the GPU or this process's part of it, else of this machine or the control group
    that limits us.

    Where the system doesn't say, 4 GiB.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        used = torch.cuda.memory_allocated(device)
        found: int = free + torch.cuda.memory_reserved(device) - used
        part = _parts.get(_index_of(device))
        return found if part is None else max(0, min(found, part - used))
    limits = [available_bytes()]
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        # Cached files, such as mapped checkpoints, count as used although they make way.
        files = (group / "memory.stat").read_text().partition("inactive_file ")[2].split(maxsplit=1)[0]
        limits.append(limit - used + int(files))
    except (OSError, ValueError, IndexError):  # no control group, or one without a limit
        pass
    return max(0, min(limits))


def _index_of(device: torch.device) -> int:
    index: int = torch.cuda.current_device() if device.index is None else device.index
    return index


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on whatever device."""
    # torch's CPU allocator raises a plain RuntimeError.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


def available_bytes() -> int:
    """What new work can take without swapping, counting the caches that the system can give back."""
    try:
        text = Path("/proc/meminfo").read_text()
        return 1024 * int(text.partition("MemAvailable:")[2].split(maxsplit=1)[0])
    except (OSError, IndexError, ValueError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 4 << 30
