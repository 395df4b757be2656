"""Speed of merging: in place against copying, and streamed to disk against mergekit, on models made on the spot.

    python benchmarks/merge.py live --parameters 5e7 --threads 1 --json merge.json
    python benchmarks/merge.py stream --sizes 50M 500M --json merge.json
    python benchmarks/merge.py stream --sizes 3B --methods linear ties --folder /scratch --json merge.json

*live*: a model is as many square matrices as it takes; base and experts are random, experts near the base. A
merge reads every input once and writes the output once, so its speed is stated as these bytes per second
over those of copying the same tensors in the same run. On a GPU small tensors are merged many by one kernel, as a
search does, and in the same run also with a launch for each (*alone*).
*stream*: Llama folders; the same mergekit file is merged by both, in turn, each in a process of its own, timed
from its start to its end (the ratio) and, apart, from after the tool's imports. Memory is the peak beyond
mapped files.

Times are medians with the lowest and highest. With --json, what that file holds of the same settings is
not measured again, so that a run can be cut short and gone on with, and sizes and methods done one by one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Threads that stay awake after torch has copied would take cores from the merge that is timed next.
# OpenMP reads this when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

from merge_stream import SIZES, measure_stream
from report import Report


def main() -> None:
    """Measure, print tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--experts", type=int, default=3)
    common.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    common.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16", "float16"])
    common.add_argument("--methods", nargs="+", help="all, if none is named")
    common.add_argument("--json", type=Path, help="where figures are written, and those of an earlier run read")
    live = commands.add_parser("live", parents=[common], help="in place, against copying")
    live.add_argument("--parameters", type=float, default=5e7)
    live.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    live.add_argument("--side", type=int, default=2048, help="rows and columns of each matrix")
    live.add_argument("--repeats", type=int, default=7)
    stream = commands.add_parser("stream", parents=[common], help="to disk, against mergekit")
    stream.add_argument("--sizes", nargs="+", choices=SIZES, default=["50M"])
    stream.add_argument("--tools", nargs="+", choices=["evomerge", "mergekit"], default=["evomerge", "mergekit"])
    stream.add_argument("--folder", type=Path, help="where models are made, and deleted again")
    stream.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    {"live": measure_live, "stream": measure_stream}[options.command](options)


def measure_live(options: argparse.Namespace) -> None:
    """Merge by every method in place, and print its speed beside that of copying."""
    from evomerge.methods import METHODS

    torch.set_num_threads(options.threads)
    report = Report(options.json)
    models = make_matrices(options)
    outputs = [torch.empty_like(tensor) for tensor in models[0]]
    print(
        f"{sum(tensor.numel() for tensor in outputs) / 1e6:.0f}M parameters, {options.dtype}, base and "
        f"{options.experts} experts, {options.threads} threads, load {os.getloadavg()[0]:.1f}\n\n"
        f"{'method':18}{'merge ms':>10}{'low':>9}{'high':>9}{'copy GB/s':>11}{'of copying':>12}"
        f"{'of linear':>11}{'prepare s':>11}{'state MB':>10}{'alone ms':>10}{'low':>9}{'high':>9}"
    )
    names = options.methods or list(METHODS.names())
    settings = {
        "kind": "live",
        "parameters": options.parameters,
        "dtype": options.dtype,
        "experts": options.experts,
        "threads": options.threads,
        "device": options.device,
        "side": options.side,
    }
    for name in dict.fromkeys(["task_arithmetic", *names]):
        row = report.find(**settings, method=name)
        if row is None:
            row = {**settings, **_measure_method(METHODS.get(name), models, outputs, options)}
            report.add(row)
        linear = report.find(**settings, method="task_arithmetic")
        assert linear is not None
        print(
            f"{name:18}{row['merge_ms']:10.1f}{row['lowest_ms']:9.1f}{row['highest_ms']:9.1f}{row['copy_gb_s']:11.1f}"
            f"{row['fraction_of_copying']:12.2f}{row['merge_ms'] / linear['merge_ms']:11.2f}"
            f"{row['prepare_s']:11.2f}{row['state_bytes_stated'] / 1e6:10.1f}" + _shown_alone(row),
            flush=True,
        )


def _shown_alone(row: dict[str, Any]) -> str:
    """Times with a launch for each tensor, where they were measured."""
    keys = ("alone_ms", "alone_lowest_ms", "alone_highest_ms")
    return "{:10.1f}{:9.1f}{:9.1f}".format(*(row[key] for key in keys)) if "alone_ms" in row else ""


def make_matrices(options: argparse.Namespace) -> list[list[torch.Tensor]]:
    """The base's matrices, then each expert's."""
    generator = torch.Generator(options.device).manual_seed(0)
    dtype, shape = getattr(torch, options.dtype), (options.side, options.side)
    count = max(1, round(options.parameters / options.side**2))

    def random(scale: float) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=options.device) * scale

    base = [random(0.02) for _ in range(count)]
    experts = [[(tensor + random(0.002)).to(dtype) for tensor in base] for _ in range(options.experts)]
    return [[tensor.to(dtype) for tensor in base], *experts]


def _measure_method(
    method: Any,
    models: list[list[torch.Tensor]],
    outputs: list[torch.Tensor],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Prepare once, then merge and copy in turn.

    Args:
        method: the class.
        models: from `make_matrices`.
        outputs: a tensor to write into for each of the base's.
        options: of the command line.
    """
    from evomerge.kernels.fuse import gathered
    from evomerge.methods.base import TensorInputs

    count = min(max(options.experts, method.min_experts), method.max_experts or options.experts)
    instance = method(
        {option.name: option.default for option in method.options},
        experts=tuple(f"expert_{index}" for index in range(count)),
        seed=0,
    )
    coefficients = _coefficients(method, count)
    inputs = [
        TensorInputs(
            name=f"matrix_{index}",
            base=tensors[0] if method.base == "required" else None,
            experts=tuple(tensors[1 : 1 + count]),
        )
        for index, tensors in enumerate(zip(*models, strict=True))
    ]
    began = time.perf_counter()
    instance.collect_statistics(lambda: iter(inputs))
    states = [instance.prepare(item) for item in inputs]
    _synchronise(options.device)
    prepare_s = time.perf_counter() - began

    def merge() -> None:
        with gathered(outputs):
            alone()

    def alone() -> None:
        for item, state, out in zip(inputs, states, outputs, strict=True):
            instance.merge(item, coefficients, state, out)

    def copy() -> None:
        for source, target in zip(models[0], outputs, strict=True):
            target.copy_(source)

    merging, copying, *each = _in_turn([merge, copy, *([alone] if options.device == "cuda" else [])], options)
    size_bytes = _size_bytes(outputs)
    bandwidth = 2 * size_bytes / statistics.median(copying)
    num_read = 1 if method.name in ("passthrough", "scaled") else count + (method.base == "required")
    state_bytes = sum(instance.prepared_bytes(tuple(out.shape), count) for out in outputs)
    return {
        "method": method.name,
        "merge_ms": 1e3 * statistics.median(merging),
        "lowest_ms": 1e3 * min(merging),
        "highest_ms": 1e3 * max(merging),
        "copy_gb_s": bandwidth / 1e9,
        "fraction_of_copying": (num_read + 1) * size_bytes / statistics.median(merging) / bandwidth,
        "prepare_s": prepare_s,
        "state_bytes_stated": state_bytes + instance.statistics_bytes(count),
        "load": os.getloadavg()[0],
    } | {
        key: 1e3 * of(times)
        for times in each
        for key, of in (("alone_ms", statistics.median), ("alone_lowest_ms", min), ("alone_highest_ms", max))
    }


def _coefficients(method: Any, num_experts: int) -> dict[str, Any]:
    """A little below the defaults, so that no coefficient is one that a method could take a short cut for."""
    import numpy as np

    generator = np.random.default_rng(0)
    return {
        parameter.name: np.minimum(
            parameter.default * generator.uniform(0.85, 0.95, (num_experts,) if parameter.per_expert else ()),
            np.inf if parameter.maximum is None else parameter.maximum,
        )
        for parameter in method.parameters
    }


def _size_bytes(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _in_turn(works: list[Callable[[], None]], options: argparse.Namespace) -> list[list[float]]:
    """Seconds of each repetition of each, one after the other, after one that warms up."""
    seconds: list[list[float]] = [[] for _ in works]
    for repetition in range(options.repeats + 1):
        for work, times in zip(works, seconds, strict=True):
            _synchronise(options.device)
            began = time.perf_counter()
            work()
            _synchronise(options.device)
            if repetition:
                times.append(time.perf_counter() - began)
    return seconds


def _synchronise(device: str) -> None:
    """Wait for a GPU's kernels."""
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
