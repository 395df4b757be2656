"""What a candidate costs to score, against lm-eval, mergekit-evolve and the model's own forward passes.

    python benchmarks/scoring.py --sizes 1M 50M --cases choice0 choice5 generate --repeats 5 --json scoring.json
    python benchmarks/scoring.py --sizes 1B 8B --device cuda --dtype bfloat16 --items 250 --new-tokens 256

Random Llama models and local lm-eval tasks are made in a temporary folder. Each repeat is one candidate with
coefficients of its own, which every contender merges and scores in turn, so that they share the machine's mood:

    ours       merge in place, answer, score per item
    stock      lm_eval.simple_evaluate with its HFLM on our live model, at its best batch size (no merge)
    disk       mergekit-evolve's functions: merge to a folder, lm-eval on it, delete it (mergekit.evo.helpers)
    memory     mergekit-evolve's in-memory actor class, called in this process (bfloat16, as it is written)
    limit      every distinct prefix of the requests once, at the bare model's best speed per token; a text's steps
               are transformers' own, which on a GPU wait for Python, so that ours can be below it

Ratios are medians over repeats of what the contender took over what ours took in the same repeat. Beside the limit
stands how much of the device's rate of matrix products our answers reach, the arithmetic being that of the limit.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from candidate import SIZES, machine, write_models
from cases import CASES, write_task
from contenders import Bare, Mergekit, Ours, Stock

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
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    about = machine()
    print(
        f"{about['cpu']}, {about['cores']} cores, {options.threads} threads, load {os.getloadavg()[0]:.1f}, "
        f"{options.device}, {options.dtype}, {about['versions']}; {options.items} questions, {options.repeats} repeats",
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
    """One size and case: every contender on the same candidates, in turn.

    Args:
        size: its name, for the record.
        case: one of CASES.
        options: of the command line.
        folder: holds the models "base", "expert0" and "expert1".

    Returns: seconds and scores of each contender, ours by phase as well, without the candidate that warms up.
    """
    write_task(folder, case, items=options.items, words=options.words, new_tokens=options.new_tokens)
    ours = Ours(folder, case, options)
    contenders: dict[str, Callable[[float], Any]] = {"ours": ours.candidate}
    if "stock" in options.against:
        contenders["stock"] = Stock(ours, folder, case).candidate
    if {"disk", "memory"} & set(options.against):
        mergekit = Mergekit(folder, case, options)
        contenders |= {name: getattr(mergekit, name) for name in ("disk", "memory") if name in options.against}
    bare = Bare(ours) if "limit" in options.against else None
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    scores: dict[str, list[float]] = {name: [] for name in contenders}
    limit: list[float] = []
    rates: list[float] = []
    for repeat in range(-1, options.repeats):
        weight = 0.2 + 0.1 * repeat
        for name, contender in contenders.items():
            gc.collect()
            start = time.perf_counter()
            score = contender(weight)
            seconds[name].append(time.perf_counter() - start)
            scores[name].append(score)
        if bare is not None and repeat >= 0:
            limit.append(bare.seconds())
            rates.append(bare.operations() / ours.phases["respond"][-1] / bare.matrix_rate())
    return {
        "size": size,
        "case": case,
        "form": ours.plan.form,
        "tokens": dict(ours.plan.tokens),
        "seconds": _warm(seconds),
        "phases": _warm(ours.phases),
        "scores": _warm(scores),
        "limit": limit,
        "of_matrix_rate": rates,
    }


def _warm(values: dict[str, list[float]]) -> dict[str, list[float]]:
    """All but the first candidate's."""
    return {name: found[1:] for name, found in values.items()}


def line(result: dict[str, Any]) -> str:
    """Seconds of ours by phase, then each contender's with its ratio to ours."""
    seconds, phases = result["seconds"], result["phases"]
    medians = " + ".join(f"{name} {statistics.median(values):.3f}" for name, values in phases.items())
    texts = [
        f"{result['size']} {result['case']} ({result['form']}, tokens {result['tokens']}): "
        f"ours {spread(seconds['ours'])} = {medians}"
    ]
    # lm-eval on the live model has nothing to merge, so it is compared with ours without that.
    without_merge = [sum(pair) for pair in zip(phases["respond"], phases["score"], strict=True)]
    for name, values in seconds.items():
        if name != "ours":
            ratio = _median_ratio(values, without_merge if name == "stock" else seconds["ours"])
            texts.append(f"{name} {spread(values)}, ratio {ratio:.1f}")
    if result["limit"]:
        share = _median_ratio(phases["respond"], result["limit"])
        rate = statistics.median(result["of_matrix_rate"])
        texts.append(f"limit {spread(result['limit'])}, respond is {share:.2f} of it, at {rate:.2f} of matrix products")
    return "; ".join(texts)


def _median_ratio(values: list[float], others: list[float]) -> float:
    """Median over repeats of a value over the other one of the same repeat."""
    return statistics.median(value / other for value, other in zip(values, others, strict=True))


def spread(values: list[float]) -> str:
    """Median with the lowest and highest."""
    return f"{statistics.median(values):.3f} s ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    for variable in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS", "TQDM_DISABLE"):
        os.environ.setdefault(variable, "1")
    for logger in ("lm_eval", "lm-eval", "mergekit"):  # they report every evaluation
        logging.getLogger(logger).setLevel(logging.ERROR)
    main()
