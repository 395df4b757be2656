"""How long aligning takes: weight matching of two decoders with random weights, by width.

Weights in bfloat16, as most checkpoints have them. Random models share nothing, so that every label moves: what is
measured is work, not agreement. Prints seconds of a pass over all labels, by kind of label, and the exponent with which
each grows from one width to the next; by the clock, and of the processor, which other work beside it changes less.

    python benchmarks/toolkit/align_speed.py --widths 512 1024 2048 --layers 2

With --units instead, the linear assignment alone, beside SciPy's: on products of random weights, and on those of units
whose lengths differ e-fold and whose inputs are correlated, as after training.

    python benchmarks/toolkit/align_speed.py --units 2048 4096 8192
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from evomerge.alignment import SPECS
from evomerge.alignment.coordinate_ascent import Ascent
from evomerge.alignment.spec import Shape, Spec
from evomerge.alignment.symmetries import Symmetries
from evomerge.kernels.assignment import best_assignment, by_auction

HEAD_DIM, QUERIES = 64, 4


def shapes_of(width: int, layers: int, tokens: int) -> tuple[dict[str, Shape], dict[str, object]]:
    """Shapes and config of a decoder like Llama's, four times as wide in its MLPs."""
    heads = width // HEAD_DIM
    groups = heads // QUERIES
    hidden = 4 * width
    config = {
        "model_type": "llama",
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "head_dim": HEAD_DIM,
    }
    shapes: dict[str, Shape] = {"model.embed_tokens.weight": (tokens, width), "model.norm.weight": (width,)}
    for layer in range(layers):
        start = f"model.layers.{layer}."
        shapes |= {
            f"{start}input_layernorm.weight": (width,),
            f"{start}post_attention_layernorm.weight": (width,),
            f"{start}self_attn.q_proj.weight": (heads * HEAD_DIM, width),
            f"{start}self_attn.k_proj.weight": (groups * HEAD_DIM, width),
            f"{start}self_attn.v_proj.weight": (groups * HEAD_DIM, width),
            f"{start}self_attn.o_proj.weight": (width, heads * HEAD_DIM),
            f"{start}mlp.gate_proj.weight": (hidden, width),
            f"{start}mlp.up_proj.weight": (hidden, width),
            f"{start}mlp.down_proj.weight": (width, hidden),
        }
    return shapes, config


def random_model(shapes: Mapping[str, Shape], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes.items()}


def products(units: int, generator: np.random.Generator, *, uneven: bool) -> NDArray[np.float32]:
    """Products of the hidden units of two gated MLPs, a quarter as wide as they have units."""
    width = units // 4
    shape = (units, width)
    one, two = (generator.standard_normal((3, *shape), dtype=np.float32) for _ in range(2))
    if uneven:
        mixed = generator.standard_normal((3, width, width), dtype=np.float32) / np.sqrt(np.arange(1, width + 1))
        one, two = (
            model @ mixed.astype(np.float32) * np.exp(generator.standard_normal((units, 1)) / 2).astype(np.float32)
            for model in (one, two)
        )
    return one[0] @ two[0].T + np.abs(one[1] @ two[1].T + one[2] @ two[2].T)


def compare(units: int) -> list[dict[str, object]]:
    """Both solvers on the same scores: seconds of the processor, and how far the sums may be from the best."""
    best_assignment(np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32))
    rows: list[dict[str, object]] = []
    for name, uneven in (("random", False), ("uneven", True)):
        scores = products(units, np.random.default_rng(1), uneven=uneven)
        started = time.process_time()
        found = by_auction(scores)
        ours = time.process_time() - started
        started = time.process_time()
        order = linear_sum_assignment(scores, maximize=True)[1]
        scipys = time.process_time() - started
        best = float(scores[np.arange(units), order].sum(dtype=np.float64))
        row = {"units": units, "scores": name, "auction_s": ours, "scipy_s": scipys}
        if found is not None:
            total = float(scores[np.arange(units), found.order].sum(dtype=np.float64))
            row |= {"less_than_scipy": (best - total) / best, "gap": found.gap(scores) / best}
        rows.append(row)
        print(
            "  ".join(
                f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
            ),
            flush=True,
        )
    return rows


def kind_of(label: str) -> str:
    return label.rpartition(".")[2]


def seconds_of(spec: Spec, shapes: Mapping[str, Shape], *, orthogonal: bool) -> dict[str, float]:
    """Seconds of one update of a label, by kind: the mean over labels."""
    one, two = random_model(shapes, 1), random_model(shapes, 2)
    if orthogonal:
        for model in (one, two):
            model |= {name: torch.ones(shape).bfloat16() for name, shape in shapes.items() if len(shape) == 1}
    started = time.perf_counter()
    ascent = Ascent(spec, one, two, spec.random(np.random.default_rng(0)), tolerance=1e-6)
    found: dict[str, list[float]] = {"lengths": [time.perf_counter() - started]}
    for label in spec.labels:
        started, processor = time.perf_counter(), time.process_time()
        ascent.improve(label)
        found.setdefault(kind_of(label), []).append(time.perf_counter() - started)
        found.setdefault(f"{kind_of(label)}_processor", []).append(time.process_time() - processor)
    return {kind: sum(seconds) / len(seconds) for kind, seconds in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--units", type=int, nargs="+", help="the linear assignment alone, by the number of units")
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--residual", choices=("signed", "orthogonal"), default="signed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []
    if options.units:
        rows += [row for units in options.units for row in compare(units)]
        options.widths = []
    best_assignment(np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32))
    for width in options.widths:
        shapes, config = shapes_of(width, options.layers, options.tokens)
        spec = SPECS.get("llama")(shapes, config, Symmetries(residual=options.residual))
        seconds = seconds_of(spec, shapes, orthogonal=options.residual == "orthogonal")
        whole = seconds["residual"] + options.layers * (seconds["heads"] + seconds["hidden"])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        rows.append({"width": width, **seconds, "pass_s": whole, "peak_gib": peak})
        print("  ".join(f"{key} {value:.3g}" for key, value in rows[-1].items()), flush=True)
    for before, after in pairwise(rows if options.widths else []):
        ratio = math.log(after["width"] / before["width"])
        grows = {kind: math.log(after[kind] / before[kind]) / ratio for kind in ("residual", "heads", "hidden")}
        print(f"{before['width']} to {after['width']}: seconds grow as width to the power of", end=" ")
        print(", ".join(f"{power:.1f} ({kind})" for kind, power in grows.items()))
    if options.json is not None:
        options.json.write_text(json.dumps({"settings": vars(options) | {"json": None}, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
