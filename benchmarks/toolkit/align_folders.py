"""How long aligning whole model folders takes, and in how much memory: by width and by the number of models.

Makes decoders of Llama's architecture in bfloat16 that share half of their weights' variance, each with all its units
in other places and its heads turned, aligns them by weight matching as `evomerge align` does, and removes them. The
widest default is a Llama 3.2 1B: width 2,048, 16 layers, 128,256 tokens. Prints seconds of the processor, over all
threads and by the clock, to find the maps and to compare and write the models; looks at labels; the largest memory of
the process's own, weights that are mapped from files apart; and cosines with the reference.

    python benchmarks/toolkit/align_folders.py --widths 512 1024 2048
    python benchmarks/toolkit/align_folders.py --widths 512 --models 2 3 5
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from align_speed import shapes_of
from safetensors.torch import save_file

import evomerge
from evomerge.alignment import SPECS
from evomerge.alignment.symmetries import Symmetries
from evomerge.kernels.assignment import best_assignment


def write_models(folder: Path, width: int, layers: int, tokens: int, count: int) -> int:
    """Folders "0", "1" and so on; the number of parameters of each."""
    shapes, config = shapes_of(width, layers, tokens)
    config |= {
        "architectures": ["LlamaForCausalLM"],
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "vocab_size": tokens,
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-5,
        "torch_dtype": "bfloat16",
    }
    spec = SPECS.get("llama")(shapes, config, Symmetries())
    for model in range(count):
        maps = spec.random(np.random.default_rng(model)) if model else {}
        shared, own = (torch.Generator().manual_seed(seed) for seed in (1, 2 + model))
        weights = {}
        for name, shape in shapes.items():
            tensor = torch.randn(shape, generator=shared).add_(torch.randn(shape, generator=own)).mul_(0.02)
            weights[name] = spec.apply(maps, name, tensor).bfloat16()
        place = folder / str(model)
        place.mkdir(parents=True)
        (place / "config.json").write_text(json.dumps(config))
        save_file(weights, place / "model.safetensors", {"format": "pt"})
    return sum(int(np.prod(shape)) for shape in shapes.values())


@contextmanager
def own_memory() -> Iterator[list[int]]:
    """The largest memory of this process that isn't mapped from files, in bytes, looked at ten times a second."""
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            lines = Path("/proc/self/status").read_text().splitlines()
            peak[0] = max(peak[0], *(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def measure(folder: Path, width: int, layers: int, tokens: int, count: int) -> dict[str, float]:
    """Align the others with the first."""
    parameters = write_models(folder, width, layers, tokens, count)
    looks, found = [0], [0.0, 0.0]

    def progress(done: int, every: int) -> None:
        looks[0], found[:] = done, [time.process_time(), time.perf_counter()]

    processor, clock = time.process_time(), time.perf_counter()
    with own_memory() as peak:
        models = evomerge.align(
            folder / "0", [folder / str(model) for model in range(1, count)], folder / "aligned", progress=progress
        )
    return {
        "width": width,
        "models": count,
        "parameters_m": parameters / 1e6,
        "looks": looks[0],
        "find_s": found[0] - processor,
        "write_s": time.process_time() - found[0],
        "find_clock_s": found[1] - clock,
        "write_clock_s": time.perf_counter() - found[1],
        "own_gib": peak[0] / 2**30,
        "cosine_before": models[0].before,
        "cosine_after": models[0].after,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--models", type=int, nargs="+", default=[2])
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128_256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where models are made, and removed from: 7.5 GB at width 2,048")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    # Compiles the assignment, or reads it compiled, before anything is timed.
    best_assignment(np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32))
    rows = []
    for width in options.widths:
        for count in options.models:
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                rows.append(measure(Path(folder), width, options.layers, options.tokens, count))
            print("  ".join(f"{key} {value:.4g}" for key, value in rows[-1].items()), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
