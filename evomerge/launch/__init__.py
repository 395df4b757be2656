"""Launchers: from a config and a target to files and commands that run the search there. One file each."""

from __future__ import annotations

from evomerge.launch.base import Launcher
from evomerge.registry import Registry

LAUNCHERS: Registry[type[Launcher]] = Registry(
    "launcher",
    {
        "slurm": "evomerge.launch.slurm:Slurm",
        "ray-job": "evomerge.launch.ray_job:RayJob",
        "kuberay": "evomerge.launch.kuberay:KubeRay",
        "skypilot": "evomerge.launch.skypilot:SkyPilot",
        "ray-cluster": "evomerge.launch.ray_cluster:RayCluster",
    },
    group="evomerge.launchers",
)

__all__ = ["LAUNCHERS"]
