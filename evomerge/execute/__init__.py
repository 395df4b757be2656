"""Executors: where candidates are materialised and answered. One file per backend."""

from __future__ import annotations

from evomerge.registry import Registry

EXECUTORS: Registry[type] = Registry(
    "executor",
    {
        "inline": "evomerge.execute.inline:InlineExecutor",
        "ray": "evomerge.execute.ray.executor:RayExecutor",
    },
    group="evomerge.executors",
)
