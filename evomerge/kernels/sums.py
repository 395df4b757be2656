"""Sums over whole tensors whose bytes depend on neither threads nor device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evomerge.kernels.engines import compiled_for
from evomerge.kernels.memory import TREE, addresses_of, block_size, flattened
from evomerge.kernels.threads import MIN_PART, in_parts
from evomerge.late import Tensor, torch


def gram(sources: Sequence[Tensor], *, origin: Tensor | None = None, rows: int = 1) -> NDArray[np.float64]:
    """Inner products of all pairs of sources.

    Args:
        sources: tensors of the same shape and any floating dtypes.
        origin: taken from each source first; None: nothing is.
        rows: number of equal parts into which the flattened tensors are cut, each with its own products.

    Returns: float64, shape (rows, len(sources), len(sources)), symmetric. Added as one balanced tree, whatever
    the threads and the device, with an error of a few units in the last place of Σ |products|.
    """
    flat = [flattened(tensor) for tensor in ((*sources, origin) if origin is not None else sources)]
    count, length = len(sources), flat[0].numel() // rows
    pairs = [(i, j) for i in range(count) for j in range(i, count)]
    blocks = max(1, -(-length // TREE))
    partial = np.zeros((rows, blocks, len(pairs)), dtype=np.float64)
    if compiled := compiled_for(*flat):
        addresses, codes = addresses_of(flat)
        start_at = (int(addresses[count]), int(codes[count])) if origin is not None else (0, 0)

        def part(start: int, stop: int) -> None:
            compiled.gram(start, stop, addresses[:count], codes[:count], *start_at, length, partial)

        in_parts(part, rows * blocks, grain=1, least=MIN_PART // TREE)
    else:
        units = block_size(flat[0].device) // TREE
        for row in range(0, rows, max(1, units // blocks)):
            row_part = slice(row, row + max(1, units // blocks))
            for block in range(0, blocks, units):
                here = slice(block * TREE, (block + units) * TREE)
                values = [tensor.view(rows, -1)[row_part, here].to(torch.float64) for tensor in flat]
                if origin is not None:
                    values = [value - values[count] for value in values[:count]]
                for index, (i, j) in enumerate(pairs):
                    partial[row_part, block : block + units, index] = leaf_sums(values[i] * values[j]).cpu().numpy()
    sums = tree_sums(partial, axis=1)
    result = np.empty((rows, count, count), dtype=np.float64)
    for index, (i, j) in enumerate(pairs):
        result[:, i, j] = result[:, j, i] = sums[:, index]
    return result


def tree_sums(values: NDArray[np.float64], *, axis: int) -> NDArray[np.float64]:
    """Sums along an axis as a balanced tree of additions: halves are added until one is left."""
    values = np.moveaxis(values, axis, 0)
    width = 1 << max(0, values.shape[0] - 1).bit_length()
    padded = np.zeros((width, *values.shape[1:]), dtype=np.float64)
    padded[: values.shape[0]] = values
    with np.errstate(invalid="ignore"):  # what isn't finite is the caller's to notice
        while width > 1:
            width //= 2
            padded = padded[:width] + padded[width : 2 * width]
    return np.asarray(padded[0])


def leaf_sums(values: Tensor) -> Tensor:
    """Sums of TREE float64 elements each along the last axis, as balanced trees; the last is filled up with zeros."""
    blocks = max(1, -(-values.shape[-1] // TREE))
    padded = torch.nn.functional.pad(values, (0, blocks * TREE - values.shape[-1]))
    return _folded(padded.view(*values.shape[:-1], blocks, TREE))


def _folded(values: Tensor) -> Tensor:
    """Sums over the last axis, of length TREE, by adding halves until one is left."""
    while values.shape[-1] > 1:
        half = values.shape[-1] // 2
        values = values[..., :half] + values[..., half:]
    return values[..., 0]
