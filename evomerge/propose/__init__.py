"""Proposers: search algorithms that ask for genomes and are told their fitness. One file each."""

from __future__ import annotations

from evomerge.registry import Registry

PROPOSERS: Registry[type] = Registry(
    "search algorithm",
    {
        "cma": "evomerge.propose.cma_es:CMAES",
        "tpe": "evomerge.propose.optuna_samplers:TPE",
        "random": "evomerge.propose.optuna_samplers:Random",
    },
    group="evomerge.proposers",
)

__all__ = ["PROPOSERS"]
