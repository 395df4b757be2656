"""What several workers give: candidates a minute, seconds to the first, after a death, and memory of a machine.

    python benchmarks/cluster.py [CONFIG] --workers 1 2 4 --candidates 24 --json cluster.json

Candidates of an experiment's space are merged and answer its search items, by one worker in this process and by so many
on Ray, each number of them in a process of its own. Without CONFIG the small demo is trained first. `--hidden 1024
--layers 8` has models with random weights in place of the demo's, large enough for what workers share to be seen.

- `first_s`: from the start of the executor to the first candidate's answers, and `all_s` until every worker has given
  some. Libraries are imported before; Ray's own start is counted.
- `per_minute`: candidates once every worker is warm, the median of three rounds.
- `again_s`: a worker's process is killed while it is at work; until another in its place has answered.
- `memory`: proportional set sizes of the workers together, and of the process that they are forked from, in which a
  page that several of them have counts once, and `mapped`, the part of it that is files.

Rates are those of this machine: with more workers than cores they share these.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROUNDS = 3


def main() -> None:
    """Measure each number of workers, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, nargs="?", help="an experiment; default: the small demo")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--candidates", type=int, default=24, help="of each round")
    parser.add_argument("--hidden", type=int, help="of models with random weights")
    parser.add_argument("--layers", type=int, default=8, help="of these")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.config is not None and given.hidden is not None:
        parser.error("--hidden is for the demo, whose models it replaces")
    with tempfile.TemporaryDirectory() as scratch:
        config = given.config or _demo(Path(scratch) / "demo")
        if given.hidden is not None:
            _replace_models(config, given.hidden, given.layers)
        rows = []
        for workers in [0, *given.workers]:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                rows.append(pool.apply(measure, (config, workers, given.candidates)))
            print(line(rows[-1], rows[0]), flush=True)
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def _demo(folder: Path) -> Path:
    from evomerge.demo.build import SMALL, build_demo

    return build_demo(folder, seed=0, settings=SMALL)


def _replace_models(path: Path, hidden: int, layers: int) -> None:
    """Have others of this size, with random weights, in the folders of an experiment's models."""
    import torch
    from transformers import AutoConfig

    from evomerge.config.config import Config
    from evomerge.demo.train import new_model

    sources = Config.from_file(path).models.sources()
    base = Path(sources.base.path)
    model = new_model(AutoConfig.from_pretrained(base).vocab_size, layers=layers, hidden=hidden, seed=0)
    model.save_pretrained(base)
    torch.manual_seed(0)
    for expert in sources.experts.values():
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.01 * torch.randn_like(parameter)
        model.save_pretrained(expert.path)
    print(
        f"{1 + len(sources.experts)} models of {sum(one.numel() for one in model.parameters()) / 1e6:.0f}M parameters"
    )


def measure(path: Path, workers: int, candidates: int) -> dict[str, Any]:
    """One number of workers; 0 is the worker in this process."""
    import evomerge.execute.worker  # noqa: F401  (what a process imports once)
    from evomerge.config.config import Config
    from evomerge.execute.settings import make_executor, worker_settings
    from evomerge.study.experiment import open_experiment

    config = Config.from_file(path)
    # Ray reserves cores, and has a part of one for each where workers outnumber them.
    share = min(1.0, len(os.sched_getaffinity(0)) / max(1, workers))
    changes = (
        {"backend": "ray", "workers": workers, "cpus_per_worker": share}
        if workers
        else {"backend": "inline", "workers": None}
    )
    execution = config.execution.model_copy(update=changes)
    experiment = open_experiment(config.model_copy(update={"execution": execution}))
    requests = experiment.benchmark.requests("search")
    jobs = _jobs(experiment)
    settings = worker_settings(experiment.config, dtype=experiment.dtype)
    start = time.monotonic()
    executor = make_executor(execution, settings)
    try:
        executor.add_requests("search", requests)
        first, seen = None, set[str]()
        while len(seen) < max(1, workers):
            for _, outcome in executor.run([next(jobs) for _ in range(max(1, workers))]):
                seen.add(_answered(outcome).worker)
                first = first or time.monotonic() - start
        every = time.monotonic() - start
        rates = [_rate(executor, [next(jobs) for _ in range(candidates)]) for _ in range(ROUNDS)]
        memory, mapped = (sum(_proportional(one, kind) for one in _processes(seen)) for kind in ("Pss", "Pss_File"))
        again = _after_a_death(executor, jobs, seen) if workers else None
    finally:
        executor.close()
    return {
        "workers": workers,
        "first_s": first,
        "all_s": every,
        "per_minute": rates,
        "again_s": again,
        "memory": memory,
        "mapped": mapped,
    }


def _jobs(experiment: Any) -> Iterator[Any]:
    """Candidates at random, without end."""
    from evomerge.execute.base import Job

    space, random = experiment.space, np.random.default_rng(0)
    number = 0
    while True:
        genome = [dimension.low + (dimension.high - dimension.low) * random.random() for dimension in space.dimensions]
        yield Job(number=number, recipe=space.decode(genome), split="search")
        number += 1


def _answered(outcome: Any) -> Any:
    """The answers. Raises: SystemExit for a candidate that failed, since its time says nothing."""
    from evomerge.execute.base import Failure

    if isinstance(outcome, Failure):
        raise SystemExit(f"a candidate failed: {outcome.message}")
    return outcome


def _rate(executor: Any, jobs: Sequence[Any]) -> float:
    """Candidates a minute."""
    start = time.monotonic()
    for _, outcome in executor.run(jobs):
        _answered(outcome)
    return 60 * len(jobs) / (time.monotonic() - start)


def _after_a_death(executor: Any, jobs: Iterator[Any], seen: set[str]) -> float:
    """Seconds from a worker's death at work to the first answers of the one in its place."""
    died: float | None = None

    def go_on() -> Iterator[Any]:
        while True:
            yield next(jobs)

    running = executor.run(go_on())
    for _, outcome in running:
        worker = _answered(outcome).worker
        if died is None:
            os.kill(_process(worker), signal.SIGKILL)
            died = time.monotonic()
        elif worker not in seen:
            break
    running.close()
    assert died is not None
    return time.monotonic() - died


def _processes(workers: set[str]) -> set[int]:
    """The workers', and those of the servers that forked them."""
    processes = {_process(worker) for worker in workers}
    parents = {int(Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[1]) for one in processes}
    return processes | {one for one in parents if "--serve" in Path(f"/proc/{one}/cmdline").read_text().split("\0")}


def _process(worker: str) -> int:
    """Of a worker by its name, HOST:PROCESS on Ray."""
    return int(worker.rpartition(":")[2]) if ":" in worker else os.getpid()


def _proportional(process: int, kind: str) -> int:
    """Bytes of a process's memory, all or of a kind; a page that n processes map counts 1/n for each."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:"))


def line(row: dict[str, Any], inline: dict[str, Any]) -> str:
    """A number of workers in words, beside the worker in this process."""
    rate, alone = statistics.median(row["per_minute"]), statistics.median(inline["per_minute"])
    spread = f"{min(row['per_minute']):.1f} to {max(row['per_minute']):.1f}"
    who = f"{row['workers']} on Ray" if row["workers"] else "inline"
    again = "" if row["again_s"] is None else f", {row['again_s']:.1f} s after a death"
    return (
        f"{who}: {rate:.1f} candidates a minute ({spread}; {rate / alone:.2f} of inline), first after "
        f"{row['first_s']:.1f} s, all after {row['all_s']:.1f} s{again}, {row['memory'] / 1e6:.0f} MB, of which "
        f"{row['mapped'] / 1e6:.0f} MB files"
    )


if __name__ == "__main__":
    main()
