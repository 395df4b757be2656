"""Merging folders to disk, whole processes: ours beside mergekit's.

`merge.py stream` makes the models and starts this file once for each merge, as

    OMP_NUM_THREADS=THREADS python benchmarks/merge_stream.py evomerge|mergekit FILE OUT

which prints the seconds after the tool's imports and the peak memory beyond mapped files, as JSON. Torch is imported
by a tool that needs it, and by what makes the models.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from report import Report


@dataclass(frozen=True)
class Size:
    """A Llama shape."""

    layers: int
    hidden: int
    intermediate: int
    vocabulary: int


SIZES = {
    "50M": Size(layers=12, hidden=512, intermediate=1536, vocabulary=16384),
    "500M": Size(layers=24, hidden=1152, intermediate=3328, vocabulary=49152),
    "3B": Size(layers=26, hidden=3072, intermediate=8192, vocabulary=49152),
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a mergekit file of one method says."""

    each: dict[str, float] = field(default_factory=dict)
    """Parameters of each expert."""
    shared: dict[str, Any] = field(default_factory=dict)
    """Parameters of the merge."""
    experts: int | None = None
    """How many it takes; None: as many as there are."""
    has_base: bool = True


WEIGHT = {"weight": 0.47}
SPARSE = {"weight": 0.47, "density": 0.43}
BAND = {"weight": 0.47, "density": 0.83}

METHODS = {
    "linear": Setting(each=WEIGHT, has_base=False),
    "task_arithmetic": Setting(each=WEIGHT),
    "slerp": Setting(shared={"t": 0.37}, experts=1),
    "nuslerp": Setting(each=WEIGHT, experts=2),
    "multislerp": Setting(each=WEIGHT),
    "karcher": Setting(has_base=False),
    "model_stock": Setting(),
    "ties": Setting(each=SPARSE),
    "dare_linear": Setting(each=SPARSE),
    "dare_ties": Setting(each=SPARSE),
    "della_linear": Setting(each=SPARSE),
    "della": Setting(each=SPARSE),
    "breadcrumbs": Setting(each=BAND),
    "breadcrumbs_ties": Setting(each=BAND),
    "sce": Setting(shared={"select_topk": 0.43}),
    "ram": Setting(),
    "ramplus_tl": Setting(),
    "arcee_fusion": Setting(experts=1),
    "nearswap": Setting(shared={"t": 0.001}, experts=1),
}
"""By mergekit's names."""


def measure_stream(options: argparse.Namespace) -> None:
    """Merge by every method to disk with each tool in turn, and print a line for each."""
    import yaml

    report = Report(options.json)
    for size in options.sizes:
        with _folder_for(size, options) as folder:
            _write_models(folder, SIZES[size], options)
            parameters = _num_parameters(SIZES[size])
            print(
                f"\n{size}: {parameters / 1e6:.0f}M parameters, {options.dtype}, base and {options.experts} experts, "
                f"{options.threads} threads, load {os.getloadavg()[0]:.1f}\n\n"
                + f"{'method':18}{'ratio':>7}{'of cpu':>8}"
                + "".join(f"{tool + ' s (low, high)':>26}{'merge s':>9}{'cpu s':>7}{'GB':>6}" for tool in options.tools)
            )
            settings = {
                "kind": "stream",
                "size": size,
                "dtype": options.dtype,
                "experts": options.experts,
                "threads": options.threads,
                "tools": options.tools,
            }
            for method in options.methods or METHODS:
                row = report.find(**settings, method=method)
                if row is None:
                    recipe = folder / "merge.yaml"
                    recipe.write_text(yaml.safe_dump(_merge_file(METHODS[method], method, folder, options)))
                    row = {**settings, "method": method, **_merge_in_turn(recipe, folder / "out", options)}
                    report.add(row)
                print(_line(row), flush=True)


def _line(row: dict[str, Any]) -> str:
    """Ratios of the last tool's seconds, and seconds of processors, to the first one's, then each tool's figures."""
    medians = [statistics.median(row[tool]["process_s"]) for tool in row["tools"]]
    cpu = [statistics.median(row[tool]["cpu_s"]) for tool in row["tools"]]
    cells = [f"{row['method']:18}{medians[-1] / medians[0]:7.2f}{cpu[-1] / cpu[0]:8.2f}"]
    for tool, median, busy in zip(row["tools"], medians, cpu, strict=True):
        seconds, merging = row[tool]["process_s"], statistics.median(row[tool]["merge_s"])
        times = f"{median:.2f} ({min(seconds):.2f}, {max(seconds):.2f})"
        cells.append(f"{times:>26}{merging:>9.2f}{busy:>7.2f}{max(row[tool]['peak_bytes']) / 1e9:6.2f}")
    return "".join(cells)


@contextmanager
def _folder_for(size: str, options: argparse.Namespace) -> Iterator[Path]:
    """A temporary folder with room for the base, the experts and a merge."""
    shape = SIZES[size]
    needed = (options.experts + 2) * _num_parameters(shape) * (4 if options.dtype == "float32" else 2)
    parent = options.folder or Path(tempfile.gettempdir())
    free = shutil.disk_usage(parent).free
    if free < 1.1 * needed:
        sys.exit(
            f"{parent}: {size} needs {needed / 1e9:.0f} GB, and {free / 1e9:.0f} GB are free; give another --folder"
        )
    with tempfile.TemporaryDirectory(dir=parent, prefix="evomerge-benchmark-") as folder:
        yield Path(folder)


def _shapes(size: Size) -> dict[str, tuple[int, ...]]:
    """Tensors of a Llama with grouped queries, by name."""
    hidden, keys = size.hidden, size.hidden // 2
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (size.vocabulary, hidden)}
    for layer in range(size.layers):
        at = f"model.layers.{layer}"
        shapes |= {
            f"{at}.input_layernorm.weight": (hidden,),
            f"{at}.self_attn.q_proj.weight": (hidden, hidden),
            f"{at}.self_attn.k_proj.weight": (keys, hidden),
            f"{at}.self_attn.v_proj.weight": (keys, hidden),
            f"{at}.self_attn.o_proj.weight": (hidden, hidden),
            f"{at}.post_attention_layernorm.weight": (hidden,),
            f"{at}.mlp.gate_proj.weight": (size.intermediate, hidden),
            f"{at}.mlp.up_proj.weight": (size.intermediate, hidden),
            f"{at}.mlp.down_proj.weight": (hidden, size.intermediate),
        }
    return shapes | {"model.norm.weight": (hidden,), "lm_head.weight": (size.vocabulary, hidden)}


def _num_parameters(size: Size) -> int:
    return sum(math.prod(shape) for shape in _shapes(size).values())


def _write_models(folder: Path, size: Size, options: argparse.Namespace) -> None:
    """The base and the experts, a few layers to a file."""
    import torch
    from safetensors.torch import save_file

    heads = size.hidden // 64
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "num_hidden_layers": size.layers,
        "vocab_size": size.vocabulary,
        "head_dim": 64,
        "tie_word_embeddings": False,
        "dtype": options.dtype,
    }
    names = ["base", *(f"expert_{index}" for index in range(options.experts))]
    for name in names:
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, options.dtype)
    shapes = list(_shapes(size).items())
    files = [shapes[start : start + 45] for start in range(0, len(shapes), 45)]
    places: dict[str, str] = {}
    for number, stored in enumerate(files, start=1):
        file = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        places |= {tensor: file for tensor, _ in stored}
        base = {tensor: torch.randn(shape, generator=generator) * 0.02 for tensor, shape in stored}
        for index, name in enumerate(names):
            # A shift of the base along itself is as good a task vector as any, and is quickly made.
            tensors = {
                tensor: (values + 0.1 * values.flatten().roll(index * 1009).view(values.shape) if index else values)
                for tensor, values in base.items()
            }
            save_file({key: value.to(dtype) for key, value in tensors.items()}, folder / name / file, {"format": "pt"})
    for name in names:
        index = {"metadata": {}, "weight_map": places}
        (folder / name / "model.safetensors.index.json").write_text(json.dumps(index))


def _merge_file(setting: Setting, method: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """A mergekit file, with parameters that differ a little between experts."""
    models: list[dict[str, Any]] = []
    for index in range(setting.experts or options.experts):
        model: dict[str, Any] = {"model": str(folder / f"expert_{index}")}
        if setting.each:
            model["parameters"] = {name: value + 0.013 * index for name, value in setting.each.items()}
        models.append(model)
    if method == "slerp":
        models.insert(0, {"model": str(folder / "base")})
    found = {"merge_method": method, "models": models, "dtype": options.dtype}
    if setting.has_base:
        found["base_model"] = str(folder / "base")
    if setting.shared:
        found["parameters"] = setting.shared
    return found


def _merge_in_turn(recipe: Path, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Figures of each tool's repetitions, after one that warms up. A merge that fails ends the benchmark."""
    found: dict[str, Any] = {
        tool: {"process_s": [], "cpu_s": [], "merge_s": [], "peak_bytes": []} for tool in options.tools
    }
    for repetition in range(options.repeats + 1):
        for tool in options.tools:
            command = [sys.executable, "-W", "ignore", __file__, tool, str(recipe), str(out)]
            environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
            began, busy = time.perf_counter(), _children_s()
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            process_s, cpu_s = time.perf_counter() - began, _children_s() - busy
            if done.returncode != 0:
                sys.exit(f"{tool} failed on {recipe.read_text()}\n{done.stderr[-3000:]}")
            shutil.rmtree(out)
            once = json.loads(done.stdout.splitlines()[-1])
            if repetition:
                found[tool]["process_s"].append(process_s)
                found[tool]["cpu_s"].append(cpu_s)
                found[tool]["merge_s"].append(once["merge_s"])
                found[tool]["peak_bytes"].append(once["peak_bytes"])
    return {**found, "load": os.getloadavg()[0]}


def _children_s() -> float:
    """Seconds of processors that processes took that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def merge_once(tool: str, recipe: Path, out: Path) -> dict[str, float]:
    """Merge by one tool in this process: its seconds, and its peak memory beyond mapped files in bytes."""
    work = {"evomerge": _with_evomerge, "mergekit": _with_mergekit}[tool](recipe, out)
    peak, done = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            status = Path("/proc/self/status").read_text()
            peak = max(peak, int(status.split("RssAnon:")[1].split()[0]) * 1024)

    thread = threading.Thread(target=watch)
    thread.start()
    began = time.perf_counter()
    try:
        work()
        seconds = time.perf_counter() - began
    finally:
        done.set()
        thread.join()
    return {"merge_s": seconds, "peak_bytes": peak}


def _with_evomerge(recipe: Path, out: Path) -> Callable[[], object]:
    from evomerge.study.merge import merge

    return lambda: merge(recipe, out)


def _with_mergekit(recipe: Path, out: Path) -> Callable[[], object]:
    import yaml
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    configuration = MergeConfiguration.model_validate(yaml.safe_load(recipe.read_text()))
    settings = MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True, random_seed=0)
    return lambda: run_merge(configuration, str(out), settings)


if __name__ == "__main__":
    _tool, _recipe, _out = sys.argv[1:]
    print(json.dumps(merge_once(_tool, Path(_recipe), Path(_out))))
