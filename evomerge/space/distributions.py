"""Dimensions as Optuna's distributions, for samplers and for the study that records trials."""

from __future__ import annotations

from functools import lru_cache

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from evomerge.space.base import Dimension


@lru_cache(maxsize=4096)
def distribution_of(dimension: Dimension) -> BaseDistribution:
    """Optuna's distribution over the values that the ledger records for a dimension."""
    if dimension.kind == "categorical":
        return CategoricalDistribution(dimension.choices)
    if dimension.kind == "integer":
        return IntDistribution(int(dimension.low), int(dimension.high))
    return FloatDistribution(dimension.low, dimension.high)
