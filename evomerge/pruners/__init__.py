"""Pruners: after a block of items, which candidates are worth the next? One file each."""

from __future__ import annotations

from evomerge.pruners.base import GenerationPruner, Pruner
from evomerge.registry import Registry

PRUNERS: Registry[type[Pruner] | type[GenerationPruner]] = Registry(
    "pruner",
    {
        "none": "evomerge.pruners.never:Never",
        "median": "evomerge.pruners.median:MedianStopping",
        "racing": "evomerge.pruners.racing:Racing",
        "standard_error": "evomerge.pruners.standard_error:StandardError",
        "successive_halving": "evomerge.pruners.successive_halving:SuccessiveHalving",
        "wilcoxon": "evomerge.pruners.wilcoxon:Wilcoxon",
    },
    group="evomerge.pruners",
)

__all__ = ["PRUNERS"]
