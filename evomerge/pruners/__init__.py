"""Pruners: after a block of items, is a candidate worth the next? One file each."""

from __future__ import annotations

from evomerge.pruners.base import Pruner
from evomerge.registry import Registry

PRUNERS: Registry[type[Pruner]] = Registry(
    "pruner",
    {
        "none": "evomerge.pruners.never:Never",
        "median": "evomerge.pruners.median:MedianStopping",
    },
    group="evomerge.pruners",
)

__all__ = ["PRUNERS"]
