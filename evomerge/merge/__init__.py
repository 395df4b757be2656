"""Merge methods: tensors in, one tensor out. One file per family."""

from __future__ import annotations

from evomerge.registry import Registry

METHODS: Registry[type] = Registry(
    "merge method",
    {
        "linear": "evomerge.merge.linear:Linear",
        "task_arithmetic": "evomerge.merge.linear:TaskArithmetic",
        "slerp": "evomerge.merge.spherical:Slerp",
        "ties": "evomerge.merge.ties:Ties",
        "passthrough": "evomerge.merge.passthrough:Passthrough",
    },
    group="evomerge.merge_methods",
)

__all__ = ["METHODS"]
