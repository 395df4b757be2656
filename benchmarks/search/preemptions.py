"""A day of a search on a thousand workers that are taken away and come back.

    python benchmarks/search/preemptions.py --workers 1000 --hours 24 --seeds 0 1 2 --json preemptions.json

Whole searches through `evomerge.study.search` with the simulated executor of benchmarks/driver.py, here a cluster with
a clock of its own. Each worker is alone on its machine. A machine is lost after a time from an exponential
distribution, with the candidate that it is at; another comes after 5 to 15 minutes. The driver learns of a loss half a
minute later, and whether a candidate is tried again is decided as the Ray executor decides it. A candidate's time is
log-normal with sigma 1, the same in each try; it fails if that exceeds a limit. What the driver really takes of the
processor passes on the clock as well.

The workers' time until the end of the day is divided into what brought results (and what is still under way then), what
candidates beyond the limit took, what was lost with machines, the time away, and the rest, in which workers waited.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from driver import SimulatedExecutor, experiment, simulated
from evomerge.execute.base import Failure, Job, Outcome
from evomerge.execute.ray.slots import Attempt, Death, Queue
from evomerge.run.observer import SilentObserver
from evomerge.study.search import search

MODES = ("generations", "asynchronous")
AWAY_S = (300.0, 900.0)
NOTICE_S = 30.0
RETRIES = 2
SHARES = ("results", "beyond limit", "lost", "away", "waiting")


class DayIsOverError(Exception):
    """The clock has come to the end of the day."""


@dataclass(eq=False)
class Machine:
    """A machine with one worker, until it is lost."""

    node: str
    is_lost: bool = False
    attempt: Attempt | None = None
    began_s: float = 0.0


class Cluster(SimulatedExecutor):
    """Workers that are lost and come back, on a clock that nobody waits for."""

    def __init__(self, options: argparse.Namespace, *, lifetime_s: float) -> None:
        super().__init__(dimensions=options.dimensions, failures=0.0, seed=options.seed)
        self.workers = options.workers
        self._mean_s, self._limit_s, self._day_s = options.seconds, options.limit, 3600 * options.hours
        self._lifetime_s, self._generator = lifetime_s, np.random.default_rng(options.seed)
        self._order, self._numbers = itertools.count(), itertools.count()
        self._is_day = False
        self._clear()

    def begin_day(self) -> None:
        """Count from now; machines are lost from now on."""
        self._is_day = True
        self._clear()

    def _clear(self) -> None:
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._idle: list[Machine] = []
        self._live: dict[str, Machine] = {}
        self._found: list[tuple[Job, Outcome]] = []
        self._under_way = 0
        self.count: Counter[str] = Counter()
        self._spent_s: Counter[str] = Counter()
        for _ in range(self.workers):
            self._come(0.0)

    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[Job, Outcome]]:
        """Yield each job when it ends on the clock. Raises: DayIsOverError."""
        queue = Queue(jobs)
        while True:
            with self._passing():
                self._hand_out(queue)
            if queue.is_empty and not self._under_way:
                return
            at, _, event = heapq.heappop(self._events)
            if self._is_day and at > self._day_s:
                raise DayIsOverError
            # A driver that is behind takes things in when it comes to them.
            self._now = max(self._now, at)
            event(at)
            while self._found:
                with self._passing():
                    yield self._found.pop()

    def shares(self) -> dict[str, float]:
        """What became of the workers' time, at the end of the day."""
        under_way = sum(max(0.0, self._day_s - one.began_s) for one in self._live.values() if one.attempt is not None)
        spent_s = self._spent_s + Counter({"results": under_way})
        known = {name: spent_s[name] / (self.workers * self._day_s) for name in SHARES[:-1]}
        return known | {"waiting": 1.0 - sum(known.values())}

    @contextmanager
    def _passing(self) -> Iterator[None]:
        """What this takes of the processor passes on the clock."""
        start, others = time.process_time(), self.seconds[1]
        yield
        self._now += time.process_time() - start - (self.seconds[1] - others)

    def _then(self, at: float, event: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (at, next(self._order), event))

    def _come(self, at: float) -> None:
        machine = Machine(f"machine {next(self._numbers)}")
        self._live[machine.node] = machine
        self._idle.append(machine)
        if self._is_day and self._lifetime_s < math.inf:
            self._then(at + self._generator.exponential(self._lifetime_s), lambda at: self._lose(machine, at))

    def _hand_out(self, queue: Queue) -> None:
        self._idle = [machine for machine in self._idle if not machine.is_lost]
        while self._idle and (attempt := queue.next()) is not None:
            machine = self._idle.pop()
            machine.attempt, machine.began_s = attempt, self._now
            self._under_way += 1
            seconds = self._seconds_of(attempt.job)
            end = self._now + min(seconds, self._limit_s)
            self._then(end, partial(self._end, machine, attempt, in_time=seconds <= self._limit_s))
        self._queue = queue

    def _seconds_of(self, job: Job) -> float:
        """What a candidate takes, in each try."""
        return self._mean_s * float(np.random.default_rng([self._seed, job.number]).lognormal(-0.5, 1.0))

    def _end(self, machine: Machine, attempt: Attempt, at: float, *, in_time: bool) -> None:
        if machine.is_lost:
            return
        self._spent_s["results" if in_time else "beyond limit"] += at - machine.began_s
        machine.attempt = None
        self._idle.append(machine)
        failure = Failure(reason="timeout", message=f"no answer after {self._limit_s:g} s")
        self._give(
            "results" if in_time else "beyond limit", attempt, self._outcome(attempt.job) if in_time else failure
        )

    def _lose(self, machine: Machine, at: float) -> None:
        machine.is_lost = True
        del self._live[machine.node]
        self.count["machines lost"] += 1
        if machine.attempt is not None:
            self.count["candidates lost"] += 1
            self._spent_s["lost"] += max(0.0, at - machine.began_s)
            self._then(at + NOTICE_S, partial(self._hear, machine, machine.attempt))
        back = at + self._generator.uniform(*AWAY_S)
        self._spent_s["away"] += min(back, self._day_s) - at
        self._then(back, self._come)

    def _hear(self, machine: Machine, attempt: Attempt, at: float) -> None:
        """The driver learns that a machine was lost with the candidate it was at."""
        attempt.deaths.append(Death(machine.node))
        if attempt.may_go_on(self._live, RETRIES):
            self._under_way -= 1
            self.count["asked again"] += 1
            self._queue.again(attempt)
        else:
            self._give("given up", attempt, Failure(reason="worker_died", message="its machines were lost"))

    def _give(self, what: str, attempt: Attempt, outcome: Outcome) -> None:
        self._under_way -= 1
        self.count[what] += 1
        self._found.append((attempt.job, outcome))


class Starts(SilentObserver):
    """Starts the day when the search does."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def phase(self, name: str, total: int | None) -> None:
        """The search begins."""
        if name == "search":
            self._cluster.begin_day()


def measure(options: argparse.Namespace, mode: str, lifetime_s: float) -> dict[str, Any]:
    """A day of one search."""
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        config = experiment(options, Path(folder))
        changes = {"mode": mode, "population": options.workers}
        config = config.model_copy(update={"search": config.search.model_copy(update=changes)})
        cluster = Cluster(options, lifetime_s=lifetime_s)
        with simulated(cluster), suppress(DayIsOverError):
            search(config, Path(folder) / "run", observer=Starts(cluster))
    return {
        "mode": mode,
        "lifetime_s": None if lifetime_s == math.inf else lifetime_s,
        "seed": options.seed,
        "shares": cluster.shares(),
        "count": dict(cluster.count),
        "processor_s": time.process_time() - start,
    }


def line(row: dict[str, Any], undisturbed: dict[str, Any]) -> str:
    """A day in words, beside the undisturbed one."""
    count, shares = Counter(row["count"]), row["shares"]
    until = f"lost after {row['lifetime_s']:g} s" if row["lifetime_s"] else "undisturbed"
    parts = ", ".join(f"{shares[name]:.1%} {name}" for name in SHARES)
    return (
        f"{row['mode']}, seed {row['seed']}, {until}: {count['results']} candidates with results "
        f"({count['results'] / max(1, undisturbed['count'].get('results', 0)):.2f} of undisturbed), "
        f"{count['beyond limit']} beyond the limit, {count['machines lost']} machines lost with "
        f"{count['candidates lost']} candidates, {count['asked again']} asked again, {count['given up']} given up; "
        f"{parts}; {row['processor_s']:.0f} s of the processor"
    )


def main() -> None:
    """Search undisturbed and disturbed in each mode, print a line for each, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--hours", type=float, default=24.0, help="of the day")
    parser.add_argument("--seconds", type=float, default=1800.0, help="that a candidate takes on average")
    parser.add_argument("--limit", type=float, default=7200.0, help="seconds beyond which a candidate fails")
    parser.add_argument("--lifetime", type=float, default=3600.0, help="seconds of a machine on average")
    parser.add_argument("--modes", choices=MODES, nargs="+", default=MODES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.dimensions, options.items, options.block = 4, 4, None
    options.algorithm, options.storage, options.trials = "cma", "journal", 10**9
    rows = []
    for mode, seed in itertools.product(options.modes, options.seeds):
        options.seed = seed
        undisturbed = measure(options, mode, math.inf)
        for row in (undisturbed, measure(options, mode, options.lifetime)):
            rows.append(row)
            print(line(row, undisturbed), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
