"""Whether products of whole numbers would pay on a CPU: PyTorch's dynamically quantised layers beside plain ones.

    python benchmarks/int8.py --sides 576 2048 --rows 16 256 --json int8.json

Each candidate has weights of its own, so they are quantised and packed anew for each. What is printed is the time of
the processor, one thread, medians: of one product of a square matrix with so many rows of activations in float32,
bfloat16 and int8, of packing the matrix, how many rows a candidate would have to compute until packing has paid, and
how far the products in bfloat16 and int8 are from the one in float32.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def main() -> None:
    """Measure, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[576, 2048])
    parser.add_argument("--rows", type=int, nargs="+", default=[16, 256])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [measure(side, rows, given.repeats) for side in given.sides for rows in given.rows]
    times = "float32, ms | bfloat16, ms | int8, ms | packing, ms"
    print(f"| matrix | rows | {times} | pays after, rows | error: bfloat16, int8 |")
    print("|---" * 8 + "|")
    for row in found:
        after = "never" if math.isinf(row["pays_after_rows"]) else f"{row['pays_after_rows']:,.0f}"
        times = " | ".join(f"{row[name]:.2f}" for name in ("float32_ms", "bfloat16_ms", "int8_ms", "packing_ms"))
        errors = f"{row['bfloat16_error']:.4f}, {row['int8_error']:.4f}"
        print(f"| {row['side']} × {row['side']} | {row['rows']} | {times} | {after} | {errors} |")
    if given.json is not None:
        data = {"torch": torch.__version__, "engine": torch.backends.quantized.engine, "rows": found}
        given.json.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def measure(side: int, rows: int, repeats: int) -> dict[str, Any]:
    """One matrix with so many rows of activations."""
    generator = torch.Generator().manual_seed(side + rows)
    plain = nn.Linear(side, side, bias=False)
    plain.weight.copy_(torch.randn(side, side, generator=generator) / math.sqrt(side))
    activations = torch.randn(rows, side, generator=generator)
    half = nn.Linear(side, side, bias=False, dtype=torch.bfloat16)
    half.weight.copy_(plain.weight)
    halves = activations.bfloat16()
    packed = quantised(plain)
    exact = plain(activations)
    calls = max(1, round(2e8 / (side * side * rows)))
    times = {
        "float32_ms": timed(lambda: plain(activations), repeats, calls),
        "bfloat16_ms": timed(lambda: half(halves), repeats, calls),
        "int8_ms": timed(lambda: packed(activations), repeats, calls),
        "packing_ms": timed(lambda: quantised(plain), repeats, 1),
    }
    saved = (min(times["float32_ms"], times["bfloat16_ms"]) - times["int8_ms"]) / rows
    return {
        "side": side,
        "rows": rows,
        **times,
        "pays_after_rows": times["packing_ms"] / saved if saved > 0 else math.inf,
        "bfloat16_error": distance(half(halves).float(), exact),
        "int8_error": distance(packed(activations), exact),
    }


def quantised(layer: nn.Linear) -> nn.Module:
    """The layer with weights in int8, whose activations are quantised as they come."""
    made: nn.Module = torch.ao.quantization.quantize_dynamic(nn.Sequential(layer), {nn.Linear}, dtype=torch.qint8)
    return made


def timed(call: Callable[[], Any], repeats: int, calls: int) -> float:
    """Milliseconds of the processor for one call, the median of repeats after one that isn't counted."""
    found = []
    for _ in range(repeats + 1):
        start = time.process_time()
        for _ in range(calls):
            call()
        found.append((time.process_time() - start) / calls * 1000)
    return statistics.median(found[1:])


def distance(found: Tensor, exact: Tensor) -> float:
    """Norm of the difference over the norm of the exact product."""
    return float((found - exact).norm() / exact.norm())


if __name__ == "__main__":
    main()
