"""Ray's workers compute at the driver's own priority, and somebody else's cluster that sets them back is told of."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections import deque
from typing import Any

import pytest

pytestmark = pytest.mark.ray

PRIVATE = """
import os
import ray
from evomerge.execute.ray.cluster import connect
from evomerge.execute.ray.patience import WORKER, half_of
connect(None, gpus=False)
worker = ray.remote(num_cpus=0.1)(lambda: (os.nice(0), half_of(WORKER)))
niceness, patience_s = ray.get(worker.remote())
print(niceness - os.nice(0), patience_s)
ray.shutdown()
"""


def test_workers_of_a_private_ray_run_at_the_drivers_priority_and_have_time_to_come_up() -> None:
    done = subprocess.run([sys.executable, "-c", PRIVATE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "150.0"]


def test_workers_that_are_set_back_are_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    from evomerge.execute.ray.executor import RayExecutor

    executor: Any = object.__new__(RayExecutor)
    executor._said = set()
    with caplog.at_level(logging.WARNING):
        deque(map(executor._check_niceness, [0, 15, 15]), maxlen=0)
    (record,) = caplog.records
    assert "nice 15" in record.getMessage()
    assert "RAY_worker_niceness=0" in record.getMessage()
