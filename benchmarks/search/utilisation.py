"""How busy a thousand workers are kept: a search by generations, and an asynchronous one.

    python benchmarks/search/utilisation.py --workers 1000 --trials 10000 --json utilisation.json

Whole searches through `evomerge.study.search` with the simulated executor of benchmarks/driver.py, here a cluster with
a clock of its own. A candidate takes a time from a heavy-tailed distribution with the mean that is asked for; what the
driver really takes of the processor between two outcomes passes on that clock as well, since workers wait for it.
Utilisation is the workers' busy time over all of their time: until the last candidate begins, and until the last ends,
before which ever fewer are at work in either mode.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from driver import SimulatedExecutor, experiment, simulated
from evomerge.execute.base import Job, Outcome
from evomerge.run.observer import SilentObserver
from evomerge.study.search import search

MODES = ("generations", "asynchronous")
TIMES = {
    "log-normal, sigma 0.5": lambda generator: generator.lognormal(-0.125, 0.5),
    "log-normal, sigma 1": lambda generator: generator.lognormal(-0.5, 1.0),
    "Pareto, alpha 2": lambda generator: 0.5 * (1.0 + generator.pareto(2.0)),
}
"""How long a candidate takes, in units of the mean."""


class Cluster(SimulatedExecutor):
    """Workers that take as long as their candidates say, on a clock that nobody waits for."""

    def __init__(self, *, workers: int, mean_s: float, times: str, dimensions: int, seed: int) -> None:
        super().__init__(dimensions=dimensions, failures=0.0, seed=seed)
        self.workers = workers
        self._mean_s, self._draw, self._generator = mean_s, TIMES[times], np.random.default_rng(seed)
        self.begin()

    def begin(self, candidates: int = 0) -> None:
        """Count from now, until so many jobs have ended."""
        self.now = self._busy = 0.0
        self._to_begin = self._to_end = candidates
        self.until_last_begins = self.until_last_ends = self.seconds_in_all = 0.0

    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[Job, Outcome]]:
        """Yield each job when it ends on the clock; idle workers draw the next."""
        source, order = iter(jobs), itertools.count()
        working: list[tuple[float, int, float, Job]] = []
        while True:
            drawn = self._timed(source, self.workers - len(working))
            for job in drawn:
                seconds = self._mean_s * float(self._draw(self._generator))
                heapq.heappush(working, (self.now + seconds, next(order), seconds, job))
                self._to_begin -= 1
                if self._to_begin == 0:
                    busy = self._busy + sum(self.now - (end - took) for end, _, took, _ in working)
                    self.until_last_begins = busy / (self.workers * self.now)
            if not working:
                return
            end, _, seconds, job = heapq.heappop(working)
            # A driver that is behind takes it in when it comes to it.
            self.now = max(self.now, end)
            self._busy += seconds
            self._to_end -= 1
            if self._to_end == 0:
                self.until_last_ends = self._busy / (self.workers * self.now)
                self.seconds_in_all = self.now
            outcome = self._outcome(job)
            start = time.process_time()
            yield job, outcome
            self.now += time.process_time() - start

    def _timed(self, source: Iterator[Job | None], idle: int) -> list[Job]:
        """As many jobs as there are for the idle workers; what drawing them takes passes on the clock."""
        start = time.process_time()
        drawn = list(itertools.islice(itertools.takewhile(lambda job: job is not None, source), idle))
        self.now += time.process_time() - start
        return [job for job in drawn if job is not None]


class Starts(SilentObserver):
    """Starts the clock when the search does."""

    def __init__(self, cluster: Cluster, candidates: int) -> None:
        self._cluster, self._candidates = cluster, candidates

    def phase(self, name: str, total: int | None) -> None:
        """The search begins."""
        if name == "search":
            self._cluster.begin(self._candidates)


def measure(options: argparse.Namespace, mode: str, times: str) -> dict[str, Any]:
    """One search."""
    with tempfile.TemporaryDirectory() as folder:
        config = experiment(options, Path(folder))
        changes = {"mode": mode, "population": options.workers}
        config = config.model_copy(update={"search": config.search.model_copy(update=changes)})
        cluster = Cluster(
            workers=options.workers,
            mean_s=options.seconds,
            times=times,
            dimensions=options.dimensions,
            seed=options.seed,
        )
        with simulated(cluster):
            search(config, Path(folder) / "run", observer=Starts(cluster, options.trials))
    return {
        "times": times,
        "mode": mode,
        "until_last_begins": cluster.until_last_begins,
        "until_last_ends": cluster.until_last_ends,
        "hours": cluster.seconds_in_all / 3600,
    }


def main() -> None:
    """Search in both modes with each distribution of times, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--trials", type=int, default=10000, help="candidates to propose")
    parser.add_argument("--seconds", type=float, default=60.0, help="that a candidate takes on average")
    parser.add_argument("--dimensions", type=int, default=20)
    parser.add_argument("--items", type=int, default=20, help="search items, each with two choices")
    parser.add_argument("--algorithm", default="cma")
    parser.add_argument("--times", choices=[*TIMES], action="append", help="of candidates; all of them if not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.block, options.storage = None, "journal"
    rows = []
    print(f"{'a candidate takes':24}{'mode':14}{'until last begins':>19}{'until last ends':>17}{'hours':>8}")
    for times, mode in itertools.product(options.times or TIMES, MODES):
        rows.append(measure(options, mode, times))
        row = rows[-1]
        print(
            f"{times:24}{mode:14}{row['until_last_begins']:>19.1%}{row['until_last_ends']:>17.1%}{row['hours']:>8.2f}",
            flush=True,
        )
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
