"""What the driver of a search costs for each trial, and whether that grows with the run.

    python benchmarks/driver.py --trials 10000 --dimensions 100 --items 200 --json driver.json

A whole search through `evomerge.study.search`: configuration, algorithm, search space, benchmark, ledger and
recording are the real ones. Only the executor is simulated: no model is merged or run. A candidate's answers are drawn
from a two-parameter logistic response model whose ability falls with the distance of its coefficients from a hidden
optimum, and the seconds that it states from a log-normal distribution. Nothing waits for them.

The time for a trial is that between two candidates, without the simulated executor and without lm-eval's scoring of
the items, which has a line of its own. On a machine that does other things as well, the processor time says more than
the clock. `open_s` is what a new process takes to open the ledger for writing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import yaml

from evomerge.benchmark.lm_eval.benchmark import Benchmark
from evomerge.config.config import Config
from evomerge.execute.base import Answers, Failure, Job, Outcome
from evomerge.recipe.recipe import Recipe
from evomerge.run.directory import open_run
from evomerge.run.ledger import JOURNAL, Ledger
from evomerge.run.observer import SilentObserver
from evomerge.run.records import TrialRecord
from evomerge.score.requests import LogLikelihoodResponse, Request, Response
from evomerge.study import session
from evomerge.study.search import search

Times = np.ndarray[Any, np.dtype[np.float64]]

PARTS = 10
CHOICES = 2
TASK = """
task: driver_choice
dataset_path: json
dataset_kwargs: {{data_files: {{validation: {folder}/validation.jsonl, test: {folder}/test.jsonl}}}}
validation_split: validation
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}} Answer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: 0
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1.0}}
"""


def main() -> None:
    """Run one search, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000, help="candidates to propose")
    parser.add_argument("--dimensions", type=int, default=100)
    parser.add_argument("--items", type=int, default=200, help="search items, each with two choices")
    parser.add_argument("--algorithm", default="cma")
    parser.add_argument("--storage", default="journal")
    parser.add_argument("--block", type=int, help="answer the search items in blocks of so many")
    parser.add_argument("--failures", type=float, default=0.0, help="share of candidates that fail")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options, Path(folder))
    print(table(found))
    if options.json is not None:
        settings = {name: value for name, value in vars(options).items() if name != "json"}
        options.json.write_text(json.dumps({**settings, **found}, indent=2) + "\n")


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Drive a search in `folder`, and open its ledger in another process."""
    config, run = experiment(options, folder), folder / "run"
    executor = SimulatedExecutor(dimensions=options.dimensions, failures=options.failures, seed=options.seed)
    watch = Stopwatch(executor)
    with simulated(executor), watch.timing():
        search(config, run, observer=watch)
    parts = [part for part in np.array_split(np.array(watch.drive), PARTS) if len(part)]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        open_s, open_cpu_s, opened_bytes = pool.apply(_open, (run,))
    return {
        "ms_per_trial": [1000 * float(part[:, 0].mean()) for part in parts],
        "cpu_ms_per_trial": [1000 * float(part[:, 1].mean()) for part in parts],
        "scoring_cpu_ms_per_trial": 1000 * float(watch.scoring[1]) / len(watch.drive),
        "open_s": open_s,
        "open_cpu_s": open_cpu_s,
        "open_peak_bytes": opened_bytes,
        "journal_bytes": _size(run / JOURNAL),
        "evaluations_bytes": _size(run / "evaluations.jsonl"),
        "start_bytes": watch.start_bytes,
        "peak_bytes": _peak_bytes(),
    }


class SimulatedExecutor:
    """Answers from a response model, in no time.

    The first choice of every item is the right one. Item i is answered rightly with probability
    1 / (1 + exp(-a[i] (ability - b[i]))), drawn from the seed and the candidate's coefficients alone.
    """

    workers = 1

    def __init__(self, *, dimensions: int, failures: float, seed: int) -> None:
        self.seconds: Times = np.zeros(2)
        self._failures, self._seed = failures, seed
        self._optimum = np.random.default_rng(seed).uniform(0.2, 0.8, dimensions)
        self._requests: dict[str, int] = {}
        self._blocks: dict[str, list[list[int]]] = {}

    def add_requests(
        self, split: str, requests: Sequence[Request], blocks: Sequence[Sequence[int]] | None = None
    ) -> None:
        """Remember how many there are."""
        self._requests[split] = len(requests)
        self._blocks[split] = [list(block) for block in blocks or ()]

    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[Job, Outcome]]:
        """Yield each job with simulated answers."""
        for job in jobs:
            assert job is not None
            start = _now()
            outcome = self._outcome(job)
            self.seconds = self.seconds + _now() - start
            yield job, outcome

    def close(self) -> None:
        """Nothing is held."""

    def _outcome(self, job: Job) -> Outcome:
        point = _coefficients(job.recipe)
        generator = np.random.default_rng([self._seed, *point.view(np.uint32).tolist()])
        fails, seconds = generator.random() < self._failures, float(generator.lognormal(0.0, 0.3))
        if fails and job.recipe.groups:
            return Failure(reason="error", message="simulated")
        distance = 1.0 if point.size != self._optimum.size else float(np.mean((point - self._optimum) ** 2)) * 4
        logs = self._log_probabilities(job.split, 1.0 - 3.0 * distance, generator)
        blocks = None if job.blocks is None else [self._blocks[job.split][block] for block in job.blocks]
        places = range(len(logs)) if blocks is None else sorted(place for block in blocks for place in block)
        responses: tuple[Response, ...] = tuple(LogLikelihoodResponse(logs[place], False) for place in places)
        return Answers(responses=responses, seconds={"prepare": 0.0, "materialise": 0.1 * seconds, "respond": seconds})

    def _log_probabilities(self, split: str, ability: float, generator: np.random.Generator) -> list[float]:
        """One per request: of the right choice's odds, half on either side of an even chance."""
        items = self._requests[split] // CHOICES
        fixed = np.random.default_rng(self._seed + 1)
        slope, difficulty = fixed.lognormal(0.0, 0.3, items), fixed.normal(0.0, 1.0, items)
        right = generator.random(items) < 1.0 / (1.0 + np.exp(-slope * (ability - difficulty)))
        odds = np.where(right, 1.0, -1.0) * generator.exponential(1.0, items)
        found: list[float] = np.stack([-5.0 + odds / 2, -5.0 - odds / 2], axis=1).ravel().tolist()
        return found


@dataclass
class Stopwatch(SilentObserver):
    """Takes the time between candidates."""

    executor: SimulatedExecutor
    drive: list[Times] = field(default_factory=list)
    """Of each candidate, without answering and scoring."""
    scoring: Times = field(default_factory=lambda: np.zeros(2))
    start_bytes: int = 0
    _searching: bool = False
    _last: Times = field(default_factory=lambda: np.zeros(2))

    def phase(self, name: str, total: int | None) -> None:
        """Start when the search does."""
        self._searching = name == "search"
        if self._searching:
            self.start_bytes = _peak_bytes()
            self.scoring = np.zeros(2)
        self._last = self._driven()

    def trial(self, record: TrialRecord) -> None:
        """A candidate is recorded."""
        now = self._driven()
        if self._searching and record.generation is not None:
            self.drive.append(now - self._last)
        self._last = now

    def scored(self, score: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time kept apart."""

        def timed(*arguments: Any, **options: Any) -> Any:
            start = _now()
            try:
                return score(*arguments, **options)
            finally:
                if self._searching:
                    self.scoring = self.scoring + _now() - start

        return timed

    @contextmanager
    def timing(self) -> Iterator[None]:
        """Scoring is timed."""
        with (
            mock.patch.object(Benchmark, "score", self.scored(Benchmark.score)),
            mock.patch.object(Benchmark, "aggregate", self.scored(Benchmark.aggregate)),
        ):
            yield

    def _driven(self) -> Times:
        return _now() - self.scoring - self.executor.seconds


@contextmanager
def simulated(executor: SimulatedExecutor) -> Iterator[None]:
    """Searches are given this executor."""
    with mock.patch.object(session, "make_executor", return_value=executor):
        yield


def table(found: dict[str, Any]) -> str:
    """The figures as text."""
    wall, cpu = (" ".join(f"{value:6.2f}" for value in found[key]) for key in ("ms_per_trial", "cpu_ms_per_trial"))
    return "\n".join(
        [
            f"driver, ms a trial, by tenth of the run   {wall}",
            f"    of the processor                      {cpu}",
            f"lm-eval's scoring, ms of the processor    {found['scoring_cpu_ms_per_trial']:6.2f}",
            f"opening the ledger, s                     {found['open_s']:6.2f}",
            f"    of the processor                      {found['open_cpu_s']:6.2f}",
            f"study.journal, MB                         {found['journal_bytes'] / 1e6:6.1f}",
            f"evaluations.jsonl, MB                     {found['evaluations_bytes'] / 1e6:6.1f}",
            f"peak memory, at the search's start, GB    {found['start_bytes'] / 1e9:6.2f}",
            f"peak memory, at its end, GB               {found['peak_bytes'] / 1e9:6.2f}",
        ]
    )


def experiment(options: argparse.Namespace, folder: Path) -> Config:
    """Tiny models with as many layers as there are dimensions, and a task with the items."""
    from evomerge.testing.models import tiny_family

    models = tiny_family(folder / "models", experts=("a",), layers=options.dimensions, hidden=8)
    tasks = folder / "tasks"
    tasks.mkdir()
    for split, items in (("validation", options.items + 8), ("test", 8)):
        with (tasks / f"{split}.jsonl").open("w") as file:
            for number in range(items):
                question = f"{split} {number}?"
                file.write(json.dumps({"question": question, "choices": ["yes", "no"]}) + "\n")
    (tasks / "driver_choice.yaml").write_text(TASK.format(folder=tasks))
    data = {
        "models": {"base": str(models["base"]), "experts": {"a": str(models["a"])}},
        "merge": {"method": "task_arithmetic"},
        "space": {"granularity": "layer"},
        "benchmark": {
            "include_path": str(tasks),
            "tasks": ["driver_choice"],
            "splits": {
                "search": {"split": "validation", "items": options.items},
                "validation": {"split": "validation", "items": 8},
                "test": {"split": "test"},
            },
        },
        "search": {
            "evaluations": options.trials,
            "algorithm": options.algorithm,
            "seed": options.seed,
            "scan": 4,
            **({"block": options.block} if options.block else {}),
        },
        "execution": {"backend": "inline", "dtype": "float32"},
        "storage": options.storage,
    }
    return Config.from_yaml(yaml.safe_dump(data), where="driver")


def _coefficients(recipe: Recipe) -> np.ndarray[Any, np.dtype[np.float64]]:
    values = [value for group in recipe.groups for one in group.coefficients.values() for value in _numbers(one)]
    return np.array(values, dtype=np.float64)


def _numbers(coefficient: Any) -> list[float]:
    return list(coefficient.values()) if isinstance(coefficient, dict) else [coefficient]


def _open(directory: Path) -> tuple[float, float, int]:
    run = open_run(directory)
    start = _now()
    Ledger.open(directory, run.config.storage, run.facts["study"])
    wall, cpu = _now() - start
    return float(wall), float(cpu), _peak_bytes()


def _now() -> Times:
    """Seconds by the clock and of the processor."""
    return np.array([time.perf_counter(), time.process_time()])


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _peak_bytes() -> int:
    """Most memory that this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main()
