"""Tensors cut into blocks that fit the caches, and their addresses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from evomerge.kernels.dtypes import code_of
from evomerge.late import Tensor, torch

TREE = 1024
"""Elements whose products are added as one balanced tree; a power of two."""

_CPU_BLOCK, _DEVICE_BLOCK = 1 << 15, 1 << 24


def blocks_of(
    sources: Sequence[Tensor], ranks: Sequence[Tensor], device: torch.device
) -> Iterator[tuple[slice, list[Tensor], list[Tensor], Tensor]]:
    """What a formula takes, block by block of a multiple of TREE elements: where it is, values, ranks and indices."""
    flat = [flattened(source) for source in sources]
    size, block = flat[0].numel(), block_size(device)
    for first in range(0, size, block):
        part = slice(first, min(size, first + block))
        values = [source[part].to(device=device, dtype=torch.float64) for source in flat]
        beside = [rank[part].to(device=device, dtype=torch.int32) for rank in ranks]
        yield part, values, beside, torch.arange(part.start, part.stop, device=device)


def block_size(device: torch.device) -> int:
    """Entries of a tensor that are computed at once on a device."""
    return _CPU_BLOCK if device.type == "cpu" else _DEVICE_BLOCK


def flattened(tensor: Tensor) -> Tensor:
    """One dimension, contiguous, aligned: as compiled loops need it. A view where that is possible."""
    flat = tensor.detach().contiguous().view(-1)
    # A file's tensors may start at any byte.
    return flat if flat.data_ptr() % flat.element_size() == 0 else flat.clone()


def addresses_of(tensors: Sequence[Tensor]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Addresses and dtype codes, as compiled loops take them. The tensors must outlive the loop."""
    addresses = np.array([tensor.data_ptr() for tensor in tensors], dtype=np.int64)
    return addresses, np.array([code_of(tensor.dtype) for tensor in tensors], dtype=np.int64)
