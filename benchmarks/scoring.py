"""What a candidate costs to score, against lm-eval, mergekit-evolve and the model's own forward passes.

    python benchmarks/scoring.py --sizes 1M 50M --cases choice0 choice5 generate --repeats 5 --json scoring.json

Random Llama models and local lm-eval tasks are made in a temporary folder. Each repeat is one candidate with
coefficients of its own, which every contender merges and scores in turn, so that they share the machine's mood:

    ours       merge in place, answer, score per item
    stock      lm_eval.simple_evaluate with its HFLM on our live model, at its best batch size (no merge)
    disk       mergekit-evolve's functions: merge to a folder, lm-eval on it, delete it (mergekit.evo.helpers)
    memory     mergekit-evolve's in-memory actor class, called in this process (bfloat16, as it is written)
    limit      every distinct prefix of the requests once, at the bare model's best speed per token

Ratios are medians over repeats of what the contender took over what ours took in the same repeat.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from candidate import SIZES, machine, write_models

from benchmarks.cases import CASES, write_task
from benchmarks.contenders import Bare, Mergekit, Ours, Quiet, Stock

CONTENDERS = ("stock", "disk", "memory", "limit")


def main() -> None:
    """Measure each size and case, print a line each, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["1M", "50M"])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--against", nargs="*", choices=CONTENDERS, default=["stock", "disk", "limit"])
    parser.add_argument("--items", type=int, default=40, help="questions, with four choices each")
    parser.add_argument("--words", type=int, default=20, help="words of a question")
    parser.add_argument("--new-tokens", type=int, default=32, help="most tokens generated for a question")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    about = machine()
    print(
        f"{about['cpu']}, {about['cores']} cores, {options.threads} threads, load {os.getloadavg()[0]:.1f}, "
        f"{options.dtype}, {about['versions']}; {options.items} questions, {options.repeats} repeats",
        flush=True,
    )
    results = []
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            write_models(Path(folder), ["base", "expert0", "expert1"], SIZES[size], options.dtype)
            for case in options.cases:
                results.append(measure(size, case, options, Path(folder)))
                print(line(results[-1]), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": about, "results": results}, indent=2) + "\n")


def measure(size: str, case: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One size and case: every contender on the same candidates."""
    write_task(folder, case, options)
    ours = Ours(folder, case, options)
    contenders: dict[str, Callable[[float], Any]] = {"ours": ours.candidate}
    if "stock" in options.against:
        contenders["stock"] = Stock(ours, folder, case).candidate
    if {"disk", "memory"} & set(options.against):
        mergekit = Mergekit(folder, case, options)
        contenders |= {name: getattr(mergekit, name) for name in ("disk", "memory") if name in options.against}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    scores: dict[str, list[float]] = {name: [] for name in contenders}
    bare = Bare(ours) if "limit" in options.against else None
    limits: list[float] = []
    for repeat in range(-1, options.repeats):
        weight = 0.2 + 0.1 * repeat
        for name, contender in contenders.items():
            gc.collect()
            start = time.perf_counter()
            score = contender(weight)
            took = time.perf_counter() - start
            if repeat >= 0:  # the first candidate warms up
                seconds[name].append(took)
                scores[name].append(score)
        if bare is not None and repeat >= 0:
            limits.append(bare.seconds())
    ours.phases = {name: values[1:] for name, values in ours.phases.items()}
    result = {"size": size, "case": case, "form": ours.form, "tokens": ours.tokens, "seconds": seconds}
    return result | {"phases": ours.phases, "scores": scores, "limit": limits}


def line(result: dict[str, Any]) -> str:
    """Seconds of ours by phase, then each contender's with its ratio to ours."""
    seconds = result["seconds"]
    phases = " + ".join(f"{name} {statistics.median(values):.3f}" for name, values in result["phases"].items())
    parts = [
        f"{result['size']} {result['case']} ({result['form']}, tokens {result['tokens']}): "
        f"ours {spread(seconds['ours'])} = {phases}"
    ]
    for name, values in seconds.items():
        if name == "ours":
            continue
        # lm-eval on the live model has nothing to merge.
        own = (
            [a + b for a, b in zip(result["phases"]["respond"], result["phases"]["score"], strict=True)]
            if name == "stock"
            else seconds["ours"]
        )
        ratio = statistics.median(other / mine for other, mine in zip(values, own, strict=True))
        parts.append(f"{name} {spread(values)}, ratio {ratio:.1f}")
    if result["limit"]:
        shares = [own / least for own, least in zip(result["phases"]["respond"], result["limit"], strict=True)]
        parts.append(f"limit {spread(result['limit'])}, respond is {statistics.median(shares):.2f} of it")
    return "; ".join(parts)


def spread(values: list[float]) -> str:
    """Median with the lowest and highest."""
    return f"{statistics.median(values):.3f} s ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    for variable in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(variable, "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    with Quiet():
        main()
