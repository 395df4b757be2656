"""Seconds and memory of one candidate: materialise, respond, bookkeeping, on models made on the spot.

    python benchmarks/candidate.py --sizes 1M 50M 500M --repeats 7 --json candidate.json

Base and experts are random Llama models in a temporary folder, the task is a local multiple-choice one
through lm-eval. Each candidate has other coefficients. Every time is the median over candidates after
two that warm up, with the lowest and highest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("evomerge", "torch", "transformers", "lm-eval", "numpy")
WARM_UP = 2


@dataclass(frozen=True)
class Size:
    """A Llama shape."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    vocabulary: int
    groups: int = 2
    """Heads that share keys and values."""


SIZES = {
    "1M": Size(layers=4, hidden=128, intermediate=384, heads=4, vocabulary=1024),
    "50M": Size(layers=12, hidden=512, intermediate=1536, heads=8, vocabulary=16384),
    "100M": Size(layers=30, hidden=576, intermediate=1536, heads=9, vocabulary=4096, groups=3),
    "500M": Size(layers=24, hidden=1152, intermediate=3328, heads=18, vocabulary=49152),
    "1B": Size(layers=16, hidden=2048, intermediate=8192, heads=32, vocabulary=128256, groups=4),
    "8B": Size(layers=32, hidden=4096, intermediate=14336, heads=32, vocabulary=128256, groups=4),
}
USUAL_SIZES = ("1M", "50M", "100M", "500M")


def main() -> None:
    """Measure every size, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=USUAL_SIZES)
    parser.add_argument("--method", default="task_arithmetic")
    parser.add_argument("--experts", type=int, default=2)
    parser.add_argument("--items", type=int, default=20, help="questions with four choices each")
    parser.add_argument("--words", type=int, default=20, help="words of a question")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(describe(options), flush=True)
    print(HEADER, flush=True)
    results = []
    for name in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(name, options, Path(folder)))
        print(row(results[-1]), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": machine(), "results": results}, indent=2) + "\n")


def measure(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One size: build models and task, evaluate candidates one after the other."""
    import numpy as np

    from evomerge.config.config import Config
    from evomerge.execute.base import Answers, Job
    from evomerge.execute.settings import worker_settings
    from evomerge.execute.worker import Worker
    from evomerge.run.evaluation import Evaluation
    from evomerge.run.ledger import Ledger
    from evomerge.study.experiment import open_experiment

    experts = {f"expert{number}": str(folder / f"expert{number}") for number in range(options.experts)}
    parameters = write_models(folder, ["base", *experts], SIZES[name], options.dtype)
    write_task(folder, options.items, options.words)
    config = Config.from_data(
        {
            "models": {"base": str(folder / "base"), "experts": experts},
            "merge": {"method": options.method},
            "benchmark": {
                "tasks": ["made_up"],
                "include_path": str(folder),
                "splits": {"search": {"split": "train"}, "validation": {"split": "validation"}, "test": "test"},
            },
            "execution": {"cpus_per_worker": options.threads, "device": options.device},
        }
    )
    experiment = open_experiment(config)
    benchmark = experiment.benchmark
    objective = benchmark.objective
    start = time.perf_counter()
    worker = Worker(worker_settings(config, dtype=experiment.dtype))
    requests = benchmark.requests("search")
    worker.add_requests("search", requests)
    started_s = time.perf_counter() - start
    ledger = Ledger.create(folder, "journal", "benchmark")
    phases: dict[str, list[float]] = {"materialise": [], "respond": [], "bookkeeping": []}
    peak_bytes = 0
    prepare_s = 0.0
    generator = random.Random(0)
    for number in range(WARM_UP + options.repeats):
        dimensions = experiment.space.dimensions
        genome = np.array([generator.uniform(dimension.low, dimension.high) for dimension in dimensions])
        recipe = experiment.space.decode(genome)
        start = time.perf_counter()
        trial = ledger.add(
            kind="candidate",
            name="",
            recipe_key=recipe.key(),
            parameters=experiment.space.parameters(genome),
            dimensions=dimensions,
        )
        bookkeeping_s = time.perf_counter() - start
        outcome = worker.evaluate(Job(number=trial.number, recipe=recipe, split="search"))
        if not isinstance(outcome, Answers):
            sys.exit(f"{name}: {outcome.message}")
        start = time.perf_counter()
        table = benchmark.score("search", outcome.responses)
        aggregates = benchmark.aggregate(table)
        ledger.record(
            Evaluation(
                trial=trial.number,
                split="search",
                score=objective.score(aggregates, table.sizes),
                tie_break=objective.tie_break(table),
                table=table,
                aggregates=aggregates,
                seconds=outcome.seconds,
                peak_bytes=outcome.peak_bytes,
                worker=outcome.worker,
            )
        )
        bookkeeping_s += time.perf_counter() - start
        if number == 0:
            prepare_s = outcome.seconds["prepare"]
        if number >= WARM_UP:
            phases["materialise"].append(outcome.seconds["materialise"])
            phases["respond"].append(outcome.seconds["respond"])
            phases["bookkeeping"].append(bookkeeping_s)
            peak_bytes = max(peak_bytes, outcome.peak_bytes)
    return {
        "size": name,
        "parameters": parameters,
        "method": options.method,
        "experts": options.experts,
        "dtype": options.dtype,
        "device": options.device,
        "threads": options.threads,
        "items": options.items,
        "requests": len(requests),
        "tokens": sum(len(request.context) + len(request.continuation) for request in requests),
        "start_s": started_s,
        "prepare_s": prepare_s,
        "seconds": phases,
        "peak_bytes": peak_bytes,
    }


def write_models(folder: Path, names: list[str], size: Size, dtype: str) -> int:
    """Random models that differ by small perturbations; their number of parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils.logging import disable_progress_bar

    from evomerge.testing.models import tiny_tokenizer

    config = LlamaConfig(
        num_hidden_layers=size.layers,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads // size.groups,
        vocab_size=size.vocabulary,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    disable_progress_bar()
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(getattr(torch, dtype))
    for number, name in enumerate(names):
        if number:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.01)
        model.save_pretrained(folder / name)
        tiny_tokenizer().save_pretrained(folder / name)
    return sum(parameter.numel() for parameter in model.parameters())


def write_task(folder: Path, items: int, words: int) -> None:
    """A local lm-eval task of questions with four choices, different in every split."""
    generator = random.Random(0)
    vocabulary = ["goat", "river", "book", "rain", "market", "three", "four", "school", "morning", "sea", "hill"]
    splits = {"train": items, "validation": 4, "test": 4}
    for split, count in splits.items():
        with (folder / f"{split}.jsonl").open("w") as file:
            for number in range(count):
                question = " ".join(generator.choices(vocabulary, k=words))
                choices = [" ".join(generator.choices(vocabulary, k=2)) for _ in range(4)]
                document = {"question": f"{split} {number} {question}", "choices": choices, "answer": number % 4}
                file.write(json.dumps(document) + "\n")
    task = {
        "task": "made_up",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {split: str(folder / f"{split}.jsonl") for split in splits}},
        "training_split": "train",
        "validation_split": "validation",
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}} Answer:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
    (folder / "made_up.yaml").write_text(json.dumps(task))


HEADER = (
    f"{'size':<5} {'parameters':>12} {'tokens':>7} {'materialise s':>22} {'respond s':>22} {'bookkeeping s':>22} "
    f"{'peak GB':>8}"
)


def row(result: dict[str, Any]) -> str:
    """One line of the table: median (lowest to highest)."""
    cells = []
    for values in result["seconds"].values():
        cells.append(f"{statistics.median(values):.4f} ({min(values):.4f} to {max(values):.4f})")
    return (
        f"{result['size']:<5} {result['parameters']:>12,} {result['tokens']:>7} "
        + " ".join(f"{cell:>22}" for cell in cells)
        + f" {result['peak_bytes'] / 1e9:>8.2f}"
    )


def machine() -> dict[str, Any]:
    """What the figures depend on; no names of hosts or people."""
    model = platform.processor() or platform.machine()
    cpus = Path("/proc/cpuinfo")
    if cpus.exists():
        names = [
            line.partition(":")[2].strip() for line in cpus.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def describe(options: argparse.Namespace) -> str:
    """The heading of the table."""
    about = machine()
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    return (
        f"{about['cpu']}, {about['cores']} cores, {options.threads} threads, {options.device}, {options.dtype}, "
        f"Python {about['python']}, {versions}\n"
        f"{options.method} of {options.experts} experts, {options.items} questions with 4 choices; "
        f"median of {options.repeats} (lowest to highest)"
    )


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    main()
