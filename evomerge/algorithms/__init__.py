"""Proposers: search algorithms that ask for genomes and are told their fitness. One file each."""

from __future__ import annotations

import importlib

from evomerge.registry import Registry

BY_PATH = "optuna:"
"""What the name of a sampler by its import path begins with."""


class Algorithms(Registry[type]):
    """Search algorithms by name; `optuna:package.module:Class` is any sampler of Optuna's by its import path."""

    def get(self, name: str) -> type:
        """Import and return the algorithm called `name`.

        Raises: UnknownNameError if there is none; ConfigError if there is no such sampler, or none that can be used.
        """
        if name.startswith(BY_PATH):
            # By its name, as a registry imports all its entries: that module imports this one.
            found: type = importlib.import_module("evomerge.algorithms.sampler_path").sampler_proposer(name)
            return found
        return super().get(name)

    def __contains__(self, name: object) -> bool:
        """Whether there is one of this name; of a path, whether it is written as one."""
        return (isinstance(name, str) and name.startswith(BY_PATH)) or super().__contains__(name)


PROPOSERS = Algorithms(
    "search algorithm",
    {
        "cma": "evomerge.algorithms.cma_es:CMAES",
        "cma_lra": "evomerge.algorithms.cma_lra:LearningRateAdaptation",
        "cma_margin": "evomerge.algorithms.cma_margin:Margin",
        "como": "evomerge.algorithms.como:COMO",
        "m2n2": "evomerge.algorithms.m2n2:M2N2",
        "tpe": "evomerge.algorithms.optuna_samplers:TPE",
        "gp": "evomerge.algorithms.optuna_samplers:GP",
        "nsga2": "evomerge.algorithms.optuna_samplers:NSGA2",
        "nsga3": "evomerge.algorithms.optuna_samplers:NSGA3",
        "qmc": "evomerge.algorithms.optuna_samplers:QMC",
        "random": "evomerge.algorithms.optuna_samplers:Random",
    },
    group="evomerge.proposers",
)

__all__ = ["BY_PATH", "PROPOSERS", "Algorithms"]
