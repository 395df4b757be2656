"""Time and memory speed of merging in place, every method, on tensors made on the spot.

    python benchmarks/merge.py --parameters 5e7 --dtype bfloat16 --threads 4 --json merge.json

A model is as many square matrices as it takes; base and experts are random, experts near the base. A
merge reads every input once and writes the output once, so its speed is stated as these bytes per second
over those of copying the same tensors in the same run. Times are medians with the lowest and highest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evomerge.merge import METHODS
from evomerge.merge.base import MergeMethod, TensorInputs

SIDE = 2048
PACKAGES = ("evomerge", "torch", "numba", "numpy")


def main() -> None:
    """Measure every method, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=float, default=5e7)
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--experts", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--methods", nargs="+", default=list(METHODS.names()))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    models = make_models(options)
    outputs = [torch.empty_like(tensor) for tensor in models[0]]
    copying = times(lambda: copy(models[0], outputs), options)
    size_bytes = sum(tensor.numel() * tensor.element_size() for tensor in outputs)
    bandwidth = 2 * size_bytes / statistics.median(copying)
    print(
        f"{size_bytes // outputs[0].element_size() / 1e6:.0f}M parameters, {options.dtype}, base and "
        f"{options.experts} experts, {options.threads} threads, {platform.processor() or platform.machine()}; "
        f"copying: {bandwidth / 1e9:.1f} GB/s\n"
    )
    print(f"{'method':18}{'merge ms':>10}{'low':>9}{'high':>9}{'of copying':>12}{'prepare s':>11}{'state MB':>10}")
    rows = []
    for name in options.methods:
        row = measure(METHODS.get(name), models, outputs, bandwidth, options)
        rows.append(row)
        print(
            f"{name:18}{row['merge_ms']:10.1f}{row['lowest_ms']:9.1f}{row['highest_ms']:9.1f}"
            f"{row['fraction_of_copying']:12.2f}{row['prepare_s']:11.2f}{row['state_bytes_stated'] / 1e6:10.1f}",
            flush=True,
        )
    if options.json:
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
        versions = {package: version(package) for package in PACKAGES}
        report = {"settings": settings, "versions": versions, "copy_gb_s": bandwidth / 1e9, "methods": rows}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def make_models(options: argparse.Namespace) -> list[list[torch.Tensor]]:
    """The base's matrices, then each expert's."""
    generator = torch.Generator().manual_seed(0)
    count = max(1, round(options.parameters / SIDE**2))
    base = [torch.randn(SIDE, SIDE, generator=generator) * 0.02 for _ in range(count)]
    models = [base] + [
        [tensor + torch.randn(SIDE, SIDE, generator=generator) * 0.002 for tensor in base]
        for _ in range(options.experts)
    ]
    dtype = getattr(torch, options.dtype)
    return [[tensor.to(device=options.device, dtype=dtype) for tensor in model] for model in models]


def measure(
    method: type[MergeMethod],
    models: list[list[torch.Tensor]],
    outputs: list[torch.Tensor],
    bandwidth: float,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Prepare once, then merge with the default coefficients, scaled a little so that none is a special case."""
    count = min(max(options.experts, method.min_experts), method.max_experts or options.experts)
    instance = method(
        {option.name: option.default for option in method.options},
        experts=tuple(f"expert_{index}" for index in range(count)),
        seed=0,
    )
    coefficients = {
        parameter.name: np.full(
            (count,) if parameter.per_expert else (),
            min(0.93 * parameter.default, np.inf if parameter.maximum is None else parameter.maximum),
        )
        for parameter in method.parameters
    }
    inputs = [
        TensorInputs(
            name=f"matrix_{index}",
            base=tensors[0] if method.base == "required" else None,
            experts=tuple(tensors[1 : 1 + count]),
        )
        for index, tensors in enumerate(zip(*models, strict=True))
    ]
    began = time.perf_counter()
    states = [instance.prepare(item) for item in inputs]
    synchronise(options.device)
    prepared = time.perf_counter() - began

    def merge() -> None:
        for item, state, out in zip(inputs, states, outputs, strict=True):
            instance.merge(item, coefficients, state, out)

    seconds = times(merge, options)
    read = 1 if method.name in ("passthrough", "scaled") else count + (method.base == "required")
    moved = (read + 1) * sum(tensor.numel() * tensor.element_size() for tensor in outputs)
    return {
        "method": method.name,
        "experts": count,
        "merge_ms": 1e3 * statistics.median(seconds),
        "lowest_ms": 1e3 * min(seconds),
        "highest_ms": 1e3 * max(seconds),
        "fraction_of_copying": moved / statistics.median(seconds) / bandwidth,
        "prepare_s": prepared,
        "state_bytes_stated": len(outputs) * instance.prepared_bytes(tuple(outputs[0].shape), count),
    }


def times(work: Callable[[], None], options: argparse.Namespace) -> list[float]:
    """Seconds of each repetition, after one that warms up."""
    work()
    seconds = []
    for _ in range(options.repeats):
        synchronise(options.device)
        began = time.perf_counter()
        work()
        synchronise(options.device)
        seconds.append(time.perf_counter() - began)
    return seconds


def copy(sources: list[torch.Tensor], targets: list[torch.Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
