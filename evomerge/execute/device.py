"""The devices that a worker was given, and the memory in use there."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from evomerge.errors import ExecutionError


def reset_peak_bytes(devices: Sequence[torch.device]) -> None:
    """Start measuring the peak afresh, where the system can."""
    if devices[0].type == "cuda":
        for device in devices:
            torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM only, see proc(5)


def peak_bytes(devices: Sequence[torch.device]) -> int:
    """Peak memory since the last reset: allocated on GPUs, the most on any of them, else this process's resident set.

    The resident set includes the pages of memory-mapped checkpoints, which the system can take back.
    Where it can't be reset (outside Linux), it is the peak since the process began.
    """
    if devices[0].type == "cuda":
        return max(map(torch.cuda.max_memory_allocated, devices))
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split(maxsplit=1)[0])
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


def process_bytes() -> int | None:
    """What this process holds now: Python, its libraries and their data; None where the system doesn't say."""
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmRSS:")[2].split(maxsplit=1)[0])
    except (OSError, IndexError):
        return None


def open_device(name: str) -> torch.device:
    """The device of this name. Raises: ExecutionError if it isn't there."""
    device = torch.device(name)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ExecutionError(
                f"device {name!r} is asked for, but this machine shows no usable GPU; "
                "set execution.device to cpu or auto, or check the driver and CUDA_VISIBLE_DEVICES"
            )
        if device.index is not None and device.index >= torch.cuda.device_count():
            raise ExecutionError(f"device {name!r} is asked for, but there are {torch.cuda.device_count()} GPUs here")
    return device


def open_devices(name: str, count: int) -> tuple[torch.device, ...]:
    """The devices over which a worker's live model is spread: `count` of this kind.

    Raises: ExecutionError if there are fewer.
    """
    device = open_device(name)
    if count == 1:
        return (device,)
    there = torch.get_device_module(device).device_count()
    if there < count:
        raise ExecutionError(
            f"execution.gpus_per_worker: {count} GPUs are asked for each worker, and there are {there} here"
        )
    return tuple(torch.device(device.type, index) for index in range(count))
