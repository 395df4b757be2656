"""Matrices decomposed in batches, and the pairs of matrices that a method works on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from evomerge.errors import MergeError

NOT_LINEAR = (
    r"emb|conv|bias|text_projection|(^|\.)(wte|wpe|lm_head|embed_out|output_layer|output_projection|score|classifier)\."
    r"|^output\."
)
"""Names of matrices that are tables of tokens, positions, classes or biases, or filters, rather than linear layers."""

A = TypeVar("A")
B = TypeVar("B")


class Decomposition(NamedTuple):
    """A = left · diag(values) · right, of shapes (m, r), (r,), (r, n); values fall, and are above the noise."""

    left: Tensor
    values: Tensor
    right: Tensor


def decompose(matrix: Tensor, *, floor: float = 0.0) -> Decomposition:
    """The singular value decomposition, without what can't be told from zero.

    Args:
        matrix: shape (m, n), float32 or float64, finite.
        floor: a length below which, times the rounding unit and the longer side, values count as zero;
            the largest singular value where that is larger.

    Raises: MergeError if the values don't converge.
    """
    if 0 in matrix.shape:
        return Decomposition(matrix[:, :0], matrix.new_zeros(0), matrix[:0])
    if matrix.shape[0] > matrix.shape[1]:
        left, values, right = decompose(matrix.T, floor=floor)
        return Decomposition(right.T, values, left.T)
    basis = None
    if 2 * matrix.shape[1] >= 3 * matrix.shape[0]:
        # The decomposition of the small factor costs a quarter of that of the wide matrix.
        basis, triangle = torch.linalg.qr(matrix.T)
        matrix = triangle.T
    left, values, right = _singular_values(matrix)
    if basis is not None:
        right = right @ basis.T
    noise = max(floor, float(values[0])) * torch.finfo(matrix.dtype).eps * right.shape[1]
    rank = int((values > noise).sum())
    return Decomposition(left[:, :rank], values[:rank], right[:rank])


def _singular_values(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    try:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    except LinAlgError:
        # Divide and conquer now and then fails on a matrix and not on its transpose.
        try:
            right, values, left = torch.linalg.svd(matrix.T, full_matrices=False)
        except LinAlgError as error:
            raise MergeError(f"singular values don't converge: {error}") from error
        left, right = left.T, right.T
    return left, values, right


def polar(matrix: Tensor, tolerance: float = 0.0) -> tuple[Tensor, int]:
    """The nearest matrix whose singular values are all one, or zero where they are zero.

    Args:
        matrix: shape (m, n).
        tolerance: singular values up to this fraction of the largest become zero, not one.

    Returns: the partial isometry U Vᵀ (m, n), and how many of min(m, n) directions were dropped.
    """
    left, values, right = decompose(matrix)
    rank = int((values > tolerance * values[0]).sum()) if len(values) else 0
    return left[:, :rank] @ right[:rank], min(matrix.shape) - rank


class MatrixPool:
    """Threads that each work on a matrix of their own.

    LAPACK's and BLAS' results depend, in the last bits, on the number of threads that share a matrix.
    Here one thread works on each, so that results don't depend on how many a worker was given.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def map(self, function: Callable[[A], B], items: Sequence[A]) -> list[B]:
        """What the function gives for each item, in order."""
        threads = min(self.count, len(items))
        if threads <= 1:
            return [function(item) for item in items]
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(function, items))


@contextmanager
def matrix_pool(device: torch.device) -> Iterator[MatrixPool]:
    """As many threads as torch may use; inside, torch uses one thread for each operation."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield MatrixPool(before if device.type == "cpu" else 1)
    finally:
        torch.set_num_threads(before)
