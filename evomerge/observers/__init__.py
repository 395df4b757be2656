"""Observers: what a config has told of its run, by name. One file each."""

from __future__ import annotations

from evomerge.observers.base import RunObserver
from evomerge.registry import Registry

OBSERVERS: Registry[type[RunObserver]] = Registry(
    "observer",
    {
        "tensorboard": "evomerge.observers.tensorboard:TensorBoard",
        "mlflow": "evomerge.observers.mlflow:MLflow",
        "wandb": "evomerge.observers.wandb:WandB",
        "webhook": "evomerge.observers.webhook:Webhook",
        "command": "evomerge.observers.command:Command",
    },
    group="evomerge.observers",
)

__all__ = ["OBSERVERS"]
