"""Speed of merging: in place against copying, and streamed to disk against mergekit, on models made on the spot.

    python benchmarks/merge.py live --parameters 5e7 --threads 1 --json merge.json
    python benchmarks/merge.py stream --sizes 50M 500M --json merge.json
    python benchmarks/merge.py stream --sizes 3B --methods linear ties --folder /scratch --json merge.json

*live*: a model is as many square matrices as it takes; base and experts are random, experts near the base. A
merge reads every input once and writes the output once, so its speed is stated as these bytes per second
over those of copying the same tensors in the same run.
*stream*: Llama folders; the same mergekit file is merged by both, in turn, each in a process of its own, timed
from its start to its end (the ratio) and, apart, from after the tool's imports. Memory is the peak beyond
mapped files.

Times are medians with the lowest and highest. With --json, what that file holds of the same settings is
not measured again, so that a run can be cut short and gone on with, and sizes and methods done one by one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# Threads that stay awake after torch has copied would take cores from the merge that is timed next.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

PACKAGES = ("evomerge", "mergekit", "torch", "numba", "numpy", "safetensors")


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

# By mergekit's name: parameters of each model, parameters of the merge, number of experts (None: as many as there are).
FILES: dict[str, tuple[dict[str, float], dict[str, Any], int | None]] = {
    "linear": ({"weight": 0.47}, {}, None),
    "task_arithmetic": ({"weight": 0.47}, {}, None),
    "slerp": ({}, {"t": 0.37}, 1),
    "nuslerp": ({"weight": 0.47}, {}, 2),
    "multislerp": ({"weight": 0.47}, {}, None),
    "karcher": ({}, {}, None),
    "model_stock": ({}, {}, None),
    "ties": ({"weight": 0.47, "density": 0.43}, {}, None),
    "dare_linear": ({"weight": 0.47, "density": 0.43}, {}, None),
    "dare_ties": ({"weight": 0.47, "density": 0.43}, {}, None),
    "della_linear": ({"weight": 0.47, "density": 0.43}, {}, None),
    "della": ({"weight": 0.47, "density": 0.43}, {}, None),
    "breadcrumbs": ({"weight": 0.47, "density": 0.83}, {}, None),
    "breadcrumbs_ties": ({"weight": 0.47, "density": 0.83}, {}, None),
    "sce": ({}, {"select_topk": 0.43}, None),
    "ram": ({}, {}, None),
    "ramplus_tl": ({}, {}, None),
    "arcee_fusion": ({}, {}, 1),
    "nearswap": ({}, {"t": 0.001}, 1),
}
WITHOUT_BASE = ("linear", "karcher")


def main() -> None:
    """Measure, print tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--experts", type=int, default=3)
    common.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    common.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16", "float16"])
    common.add_argument("--methods", nargs="+")
    common.add_argument("--json", type=Path)
    live = commands.add_parser("live", parents=[common])
    live.add_argument("--parameters", type=float, default=5e7)
    live.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    live.add_argument("--side", type=int, default=2048, help="rows and columns of each matrix")
    live.add_argument("--repeats", type=int, default=7)
    stream = commands.add_parser("stream", parents=[common])
    stream.add_argument("--sizes", nargs="+", choices=SIZES, default=["50M"])
    stream.add_argument("--tools", nargs="+", choices=["evomerge", "mergekit"], default=["evomerge", "mergekit"])
    stream.add_argument("--folder", type=Path, help="where models are made, and deleted again")
    stream.add_argument("--repeats", type=int, default=3)
    once = commands.add_parser("once")
    once.add_argument("tool")
    once.add_argument("recipe", type=Path)
    once.add_argument("out", type=Path)
    once.add_argument("threads", type=int)
    options = parser.parse_args()
    {"live": measure_live, "stream": measure_stream, "once": merge_once}[options.command](options)


class Report:
    """Rows by their settings, kept in a JSON file if there is one."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        if path is not None and path.exists():
            self.rows = json.loads(path.read_text())["rows"]

    def find(self, **settings: Any) -> dict[str, Any] | None:
        """The row with these settings."""
        return next((row for row in self.rows if all(row.get(key) == value for key, value in settings.items())), None)

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row."""
        self.rows.append(row)
        if self.path is not None:
            machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
            data = {"machine": machine, "versions": _versions(), "rows": self.rows}
            self.path.write_text(json.dumps(data, indent=2) + "\n")


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def measure_live(options: argparse.Namespace) -> None:
    """Every method in place, against copying."""
    from evomerge.merge import METHODS

    torch.set_num_threads(options.threads)
    report = Report(options.json)
    models = make_matrices(options)
    outputs = [torch.empty_like(tensor) for tensor in models[0]]
    size_bytes = sum(tensor.numel() * tensor.element_size() for tensor in outputs)
    print(
        f"{size_bytes // outputs[0].element_size() / 1e6:.0f}M parameters, {options.dtype}, base and "
        f"{options.experts} experts, {options.threads} threads, load {os.getloadavg()[0]:.1f}\n\n"
        f"{'method':18}{'merge ms':>10}{'low':>9}{'high':>9}{'copy GB/s':>11}{'of copying':>12}"
        f"{'of linear':>11}{'prepare s':>11}{'state MB':>10}"
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
            row = {**settings, **_measure_method(METHODS.get(name), models, outputs, size_bytes, options)}
            report.add(row)
        linear = report.find(**settings, method="task_arithmetic")
        assert linear is not None
        print(
            f"{name:18}{row['merge_ms']:10.1f}{row['lowest_ms']:9.1f}{row['highest_ms']:9.1f}{row['copy_gb_s']:11.1f}"
            f"{row['fraction_of_copying']:12.2f}{row['merge_ms'] / linear['merge_ms']:11.2f}"
            f"{row['prepare_s']:11.2f}{row['state_bytes_stated'] / 1e6:10.1f}",
            flush=True,
        )


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
    size_bytes: int,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Prepare once, then merge and copy in turn, with coefficients that no search would find special."""
    import numpy as np

    from evomerge.merge.base import TensorInputs

    count = min(max(options.experts, method.min_experts), method.max_experts or options.experts)
    instance = method(
        {option.name: option.default for option in method.options},
        experts=tuple(f"expert_{index}" for index in range(count)),
        seed=0,
    )
    generator = np.random.default_rng(0)
    coefficients = {
        parameter.name: np.minimum(
            parameter.default * generator.uniform(0.85, 0.95, (count,) if parameter.per_expert else ()),
            np.inf if parameter.maximum is None else parameter.maximum,
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
    instance.survey(lambda: iter(inputs))
    states = [instance.prepare(item) for item in inputs]
    _synchronise(options.device)
    prepared = time.perf_counter() - began

    def merge() -> None:
        for item, state, out in zip(inputs, states, outputs, strict=True):
            instance.merge(item, coefficients, state, out)

    def copy() -> None:
        for source, target in zip(models[0], outputs, strict=True):
            target.copy_(source)

    merging, copying = _in_turn([merge, copy], options)
    bandwidth = 2 * size_bytes / statistics.median(copying)
    read = 1 if method.name in ("passthrough", "scaled") else count + (method.base == "required")
    stated = sum(instance.prepared_bytes(tuple(out.shape), count) for out in outputs) + instance.surveyed_bytes(count)
    return {
        "method": method.name,
        "merge_ms": 1e3 * statistics.median(merging),
        "lowest_ms": 1e3 * min(merging),
        "highest_ms": 1e3 * max(merging),
        "copy_gb_s": bandwidth / 1e9,
        "fraction_of_copying": (read + 1) * size_bytes / statistics.median(merging) / bandwidth,
        "prepare_s": prepared,
        "state_bytes_stated": stated,
        "load": os.getloadavg()[0],
    }


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
    if device == "cuda":
        torch.cuda.synchronize()


def measure_stream(options: argparse.Namespace) -> None:
    """Every method to disk, against mergekit."""
    import yaml

    report = Report(options.json)
    for size in options.sizes:
        with _folder(options, size) as folder:
            parameters = _make_folders(folder, SIZES[size], options)
            print(
                f"\n{size}: {parameters / 1e6:.0f}M parameters, {options.dtype}, base and {options.experts} experts, "
                f"{options.threads} threads, load {os.getloadavg()[0]:.1f}\n\n"
                + f"{'method':18}{'ratio':>7}"
                + "".join(f"{tool + ' s (low, high)':>26}{'merge s':>9}{'GB':>6}" for tool in options.tools)
            )
            settings = {
                "kind": "stream",
                "size": size,
                "dtype": options.dtype,
                "experts": options.experts,
                "threads": options.threads,
                "tools": options.tools,
            }
            for method in options.methods or FILES:
                row = report.find(**settings, method=method)
                if row is None:
                    recipe = folder / "merge.yaml"
                    recipe.write_text(yaml.safe_dump(_file(method, folder, options)))
                    row = {**settings, "method": method, **_merge_in_turn(recipe, folder / "out", options)}
                    report.add(row)
                _print_streamed(row)


def _print_streamed(row: dict[str, Any]) -> None:
    medians = [statistics.median(row[tool]["process_s"]) for tool in row["tools"]]
    cells = [f"{row['method']:18}{medians[-1] / medians[0]:7.2f}"]
    for tool, median in zip(row["tools"], medians, strict=True):
        seconds, merging = row[tool]["process_s"], statistics.median(row[tool]["merge_s"])
        times = f"{median:.2f} ({min(seconds):.2f}, {max(seconds):.2f})"
        cells.append(f"{times:>26}{merging:>9.2f}{max(row[tool]['peak_bytes']) / 1e9:6.2f}")
    print("".join(cells), flush=True)


@contextmanager
def _folder(options: argparse.Namespace, size: str) -> Iterator[Path]:
    shape = SIZES[size]
    needed = (options.experts + 2) * _num_parameters(shape) * getattr(torch, options.dtype).itemsize
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
    hidden, narrow = size.hidden, size.hidden // 2
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (size.vocabulary, hidden)}
    for layer in range(size.layers):
        at = f"model.layers.{layer}"
        shapes |= {
            f"{at}.input_layernorm.weight": (hidden,),
            f"{at}.self_attn.q_proj.weight": (hidden, hidden),
            f"{at}.self_attn.k_proj.weight": (narrow, hidden),
            f"{at}.self_attn.v_proj.weight": (narrow, hidden),
            f"{at}.self_attn.o_proj.weight": (hidden, hidden),
            f"{at}.post_attention_layernorm.weight": (hidden,),
            f"{at}.mlp.gate_proj.weight": (size.intermediate, hidden),
            f"{at}.mlp.up_proj.weight": (size.intermediate, hidden),
            f"{at}.mlp.down_proj.weight": (hidden, size.intermediate),
        }
    return shapes | {"model.norm.weight": (hidden,), "lm_head.weight": (size.vocabulary, hidden)}


def _num_parameters(size: Size) -> int:
    return sum(torch.Size(shape).numel() for shape in _shapes(size).values())


def _make_folders(folder: Path, size: Size, options: argparse.Namespace) -> int:
    """Write the base and the experts, a few layers to a file; returns the number of parameters."""
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
    for number, part in enumerate(files, start=1):
        file = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        places |= {tensor: file for tensor, _ in part}
        base = {tensor: torch.randn(shape, generator=generator) * 0.02 for tensor, shape in part}
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
    return _num_parameters(size)


def _file(method: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """A mergekit file, with coefficients that differ a little between experts."""
    own, shared, count = FILES[method]
    experts = [
        {
            "model": str(folder / f"expert_{index}"),
            **({"parameters": {key: value + 0.013 * index for key, value in own.items()}} if own else {}),
        }
        for index in range(count or options.experts)
    ]
    base = {} if method in WITHOUT_BASE else {"base_model": str(folder / "base")}
    if method == "slerp":
        experts.insert(0, {"model": str(folder / "base")})
    parameters = {"parameters": shared} if shared else {}
    return {"merge_method": method, "models": experts, **base, **parameters, "dtype": options.dtype}


def _merge_in_turn(recipe: Path, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {tool: {"process_s": [], "merge_s": [], "peak_bytes": []} for tool in options.tools}
    for repetition in range(options.repeats + 1):
        for tool in options.tools:
            command = [sys.executable, "-W", "ignore", __file__, "once", tool, str(recipe), str(out)]
            began = time.perf_counter()
            done = subprocess.run([*command, str(options.threads)], capture_output=True, text=True)
            process = time.perf_counter() - began
            if done.returncode != 0:
                sys.exit(f"{tool} failed on {recipe.read_text()}\n{done.stderr[-3000:]}")
            shutil.rmtree(out)
            once = json.loads(done.stdout.splitlines()[-1])
            if repetition:
                found[tool]["process_s"].append(process)
                found[tool]["merge_s"].append(once["merge_s"])
                found[tool]["peak_bytes"].append(once["peak_bytes"])
    return {**found, "load": os.getloadavg()[0]}


def merge_once(options: argparse.Namespace) -> None:
    """One merge by one tool; prints its seconds and its peak memory beyond mapped files."""
    torch.set_num_threads(options.threads)
    work = {"evomerge": _with_evomerge, "mergekit": _with_mergekit}[options.tool](options.recipe, options.out)
    peak, done = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            status = Path("/proc/self/status").read_text()
            peak = max(peak, int(status.split("RssAnon:")[1].split()[0]) * 1024)

    thread = threading.Thread(target=watch)
    thread.start()
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    done.set()
    thread.join()
    print(json.dumps({"merge_s": seconds, "peak_bytes": peak}))


def _with_evomerge(recipe: Path, out: Path) -> Callable[[], object]:
    from evomerge.folder import write_folder

    return lambda: write_folder(recipe, out)


def _with_mergekit(recipe: Path, out: Path) -> Callable[[], object]:
    import yaml
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    configuration = MergeConfiguration.model_validate(yaml.safe_load(recipe.read_text()))
    settings = MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True, random_seed=0)
    return lambda: run_merge(configuration, str(out), settings)


if __name__ == "__main__":
    main()
