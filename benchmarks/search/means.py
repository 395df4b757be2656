"""How benchmarks print the mean of several searches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def mean_and_error(values: Sequence[float], *, signed: bool = False) -> str:
    """The mean with its standard error, which one value hasn't; nothing for no value.

    Args:
        values: of searches that don't depend on each other.
        signed: whether a difference is printed, with its sign.
    """
    if not len(values):
        return ""
    mean = f"{np.mean(values):+.3f}" if signed else f"{np.mean(values):.3f}"
    return mean if len(values) < 2 else f"{mean} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.3f}"
