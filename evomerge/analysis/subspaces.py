"""How the directions of several task vectors' matrices lie to each other.

Knows matrices. Does not know models, layers or names.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomerge.analysis.spectra import Spectrum


def overlap(one: Tensor, two: Tensor) -> float:
    """‖AᵀB‖²/min(a, b) of two orthonormal bases (m, a) and (m, b): 1 if one span holds the other, 0 if orthogonal.

    The mean squared cosine of the principal angles, for bases of one size (Björck and Golub 1973). Two random spans
    have about max(a, b)/m. NaN where a basis is empty.
    """
    count = min(one.shape[1], two.shape[1])
    return _squares(one.T @ two.to(one.dtype)) / count if count else float("nan")


def alignment_ratio(basis: Tensor, tau: Tensor) -> float:
    """‖U Uᵀ τ‖/‖τ‖: how much of a task vector lies in the leading directions of the merged one.

    Subspace alignment ratio (Marczak et al. 2025, No Task Left Behind, §4). NaN for a zero matrix.

    Args:
        basis: U, shape (m, k), orthonormal columns.
        tau: shape (m, n).
    """
    whole = _squares(tau)
    return float(np.sqrt(_squares(basis.T @ tau.to(basis.dtype)) / whole)) if whole > 0 else float("nan")


def interference(spectra: Sequence[Spectrum]) -> float:
    """‖(UᵀU − I) Σ (VᵀV − I)‖₁ with the directions of all matrices side by side, over Σσ.

    Singular task interference (Gargiulo et al. 2025, Task Singular Vectors, §4): 0 if the directions of each are
    orthogonal to those of all others. The norm is the sum of absolute values; the division by the sum of singular
    values makes matrices of any scale comparable. NaN if there are no directions.

    Args:
        spectra: of matrices of one shape, cut to the directions that are kept of each.
    """
    dtype = torch.promote_types(torch.float32, spectra[0].left.dtype)
    left = torch.cat([found.left.to(dtype) for found in spectra], dim=1)
    right = torch.cat([found.right.to(dtype) for found in spectra])
    values: NDArray[np.float64] = np.concatenate([found.values for found in spectra])
    if not len(values):
        return float("nan")
    identity = torch.eye(len(values), dtype=dtype)
    middle = (left.T @ left - identity) * torch.from_numpy(values).to(dtype)
    product = middle @ (right @ right.T - identity)
    return float(product.abs().sum(dtype=torch.float64)) / float(values.sum())


def _squares(matrix: Tensor) -> float:
    return float(torch.linalg.vector_norm(matrix, dtype=torch.float64)) ** 2
