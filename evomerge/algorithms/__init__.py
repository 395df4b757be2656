"""Proposers: search algorithms that ask for genomes and are told their fitness. One file each."""

from __future__ import annotations

from evomerge.registry import Registry

PROPOSERS: Registry[type] = Registry(
    "search algorithm",
    {
        "cma": "evomerge.algorithms.cma_es:CMAES",
        "tpe": "evomerge.algorithms.optuna_samplers:TPE",
        "random": "evomerge.algorithms.optuna_samplers:Random",
    },
    group="evomerge.proposers",
)

__all__ = ["PROPOSERS"]
