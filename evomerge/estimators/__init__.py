"""Estimators: from some answers of a model to its score on all items, with a standard error. One file each."""

from __future__ import annotations

from evomerge.estimators.base import Estimator
from evomerge.registry import Registry

ESTIMATORS: Registry[type[Estimator]] = Registry(
    "estimator",
    {
        "mean": "evomerge.estimators.mean:Mean",
        "difference": "evomerge.estimators.difference:Difference",
        "p_irt": "evomerge.estimators.item_response:PIrt",
        "gp_irt": "evomerge.estimators.item_response:GpIrt",
        "mp_irt": "evomerge.estimators.item_response:MpIrt",
        "gmp_irt": "evomerge.estimators.item_response:GmpIrt",
    },
    group="evomerge.estimators",
)

__all__ = ["ESTIMATORS"]
