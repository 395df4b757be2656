"""Benchmarks: what candidates are scored on. One file or folder per kind."""

from __future__ import annotations

from collections.abc import Sequence

from evomerge.benchmark.base import SPLITS, BaseModel, Benchmark, Build
from evomerge.config.benchmark import BenchmarkConfig
from evomerge.errors import BenchmarkError
from evomerge.registry import Registry

BENCHMARKS: Registry[Build] = Registry(
    "kind of benchmark",
    {
        "lm_eval": "evomerge.benchmark.lm_eval.benchmark:build",
        "labels": "evomerge.benchmark.labels:build",
        "function": "evomerge.benchmark.function:build",
    },
    group="evomerge.benchmarks",
)


def build_benchmark(
    config: BenchmarkConfig,
    model: BaseModel,
    *,
    max_length: int | None = None,
    where: str = "config",
    splits: Sequence[str] = SPLITS,
) -> Benchmark:
    """The benchmark that a config asks for: see `Build`. Raises: BenchmarkError."""
    named = model.config.get("architectures") or [""]
    if config.tasks and str(named[0]).endswith("Classification"):
        raise BenchmarkError(
            f"{where}: benchmark.tasks: the base is a {named[0]}, and tasks ask a language model; "
            "score a classifier with benchmark.labels"
        )
    return BENCHMARKS.get(config.kind)(config, model, max_length=max_length, where=where, splits=splits)


__all__ = ["BENCHMARKS", "SPLITS", "Benchmark", "build_benchmark"]
