"""How much memory a device has left, and whether an error means that it ran out."""

from __future__ import annotations

import os
from pathlib import Path

from evomerge.late import torch


def free_bytes(device: torch.device) -> int:
    """Memory that can still be had: of the GPU, else of this machine or the control group that limits us.

    Where the system doesn't say, 4 GiB.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
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
