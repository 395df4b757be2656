"""Whether torch.compile or oneDNN would pay on a CPU: float32 passes and products beside PyTorch's plain ones.

    python benchmarks/compiled.py --sides 128 576 2048 --models 4x128 6x576

One thread, time of the processor, medians for passes and the least for products. A compiled model takes any batch and
length (`dynamic=True`), and what it takes to compile is printed by the clock. oneDNN's operands stay in its own layout,
so that no conversion counts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

SHAPES = ((1, 16), (8, 16), (8, 64), (1, 512), (32, 1))
"""Rows and tokens of each, of the passes that are timed."""
ROWS = (1, 16, 64, 256, 1024)


def main() -> None:
    """Measure, and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="*", default=[128, 576, 2048])
    parser.add_argument("--models", nargs="*", default=["4x128", "6x576"], help="layers x hidden size")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.inference_mode():
        print("| matrix | rows | plain, ms | plain ÷ oneDNN |\n|---|---|---|---|")
        for side in given.sides:
            for rows in ROWS:
                plain, one_dnn = products(side, rows)
                print(f"| {side} × {side} | {rows} | {1e3 * plain:.2f} | {plain / one_dnn:.2f} |", flush=True)
        print("| layers × hidden | compiling, s | " + " | ".join("{} × {}".format(*shape) for shape in SHAPES) + " |")
        print("|---" * (2 + len(SHAPES)) + "|")
        for name in given.models:
            compiling_s, ratios = passes(*map(int, name.split("x")))
            cells = [name, f"{compiling_s:.0f}", *(f"{ratio:.2f}" for ratio in ratios)]
            print(f"| {' | '.join(cells)} |", flush=True)


def products(side: int, rows: int) -> tuple[float, float]:
    """Seconds of a product of activations and a square matrix: PyTorch's plain one, oneDNN's."""
    weight, states, bias = torch.randn(side, side), torch.randn(rows, side), torch.zeros(side)
    plain = seconds(partial(torch.nn.functional.linear, states, weight), 15)
    own = [one.to_mkldnn() for one in (states, weight, bias)]
    return min(plain), min(seconds(partial(torch.nn.functional.linear, *own), 15))


def passes(layers: int, hidden: int) -> tuple[float, list[float]]:
    """Seconds until a model has compiled for all shapes, and for each how many times as long it takes without."""
    config = LlamaConfig(
        vocab_size=4096, num_hidden_layers=layers, hidden_size=hidden, intermediate_size=hidden * 8 // 3,
        num_attention_heads=hidden // 64, num_key_value_heads=hidden // 64,
    )  # fmt: skip
    plain: Any = LlamaForCausalLM(config).eval().model
    compiled: Any = torch.compile(plain, dynamic=True)
    batches = [torch.full(shape, 5) for shape in SHAPES]
    start = time.perf_counter()
    for batch in batches:
        compiled(input_ids=batch, use_cache=False)
    compiling_s = time.perf_counter() - start
    ratios = []
    for batch in batches:
        took: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(7):
            for is_compiled, model in ((True, compiled), (False, plain)):
                took[is_compiled] += seconds(partial(model, input_ids=batch, use_cache=False), 1)
        ratios.append(statistics.median(took[False]) / statistics.median(took[True]))
    return compiling_s, ratios


def seconds(work: Callable[[], Any], repeats: int) -> list[float]:
    """Of the processor, of each time but the first, which warms up."""
    found = []
    for _ in range(repeats + 1):
        start = time.thread_time()
        work()
        found.append(time.thread_time() - start)
    return found[1:]


if __name__ == "__main__":
    main()
