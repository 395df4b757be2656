"""Run by a test in a process of its own: a search's jobs while a machine joins a cluster of Ray's and is lost again."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from evomerge.execute.base import Job
from evomerge.execute.inline import InlineExecutor
from evomerge.execute.ray.executor import RayExecutor
from evomerge.testing.jobs import REQUESTS, answers, job, make_settings
from helpers.clusters import joined, started

MOST = 20_000


def main(family: Path) -> None:
    """Print what came of the jobs and which workers were at them."""
    settings = make_settings({name: family / name for name in ("base", "a", "b")})
    inline = InlineExecutor(settings)
    inline.add_requests("search", REQUESTS)
    [(_, expected)] = inline.run([job(settings, 0, 0.5)])
    cluster = started(num_cpus=1)
    executor = RayExecutor(settings, workers=1, max_workers=2, cpus_per_worker=1, address=cluster.address)
    executor.add_requests("search", REQUESTS)
    workers, numbers, seen = [executor.workers], list[int](), set[str]()
    node, lost = None, False

    def jobs() -> Iterator[Job | None]:
        for number in range(MOST):
            if lost and executor.workers == 1:
                return
            while node is not None and not lost and executor.workers == 1:
                yield None  # leave the processor to the machine that is about to join
            yield job(settings, number, 0.5)

    for one, outcome in executor.run(jobs()):
        assert answers(outcome).responses == answers(expected).responses
        numbers.append(one.number)
        seen.add(answers(outcome).worker)
        if node is None:
            node = joined(cluster, num_cpus=1)
        elif len(seen) == 2 and not lost:
            workers.append(executor.workers)
            cluster.remove_node(node, allow_graceful=False)
            lost = True
    workers.append(executor.workers)
    print(json.dumps({"numbers": sorted(numbers), "seen": len(seen), "workers": workers}))
    executor.close()
    cluster.shutdown()


main(Path(sys.argv[1]))
