"""Workers for the tests of executors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from evomerge.execute.base import Executor, WorkerSettings
from helpers.worker import make_settings


@pytest.fixture
def settings(tiny_llama: dict[str, Path]) -> WorkerSettings:
    return make_settings(tiny_llama)


@pytest.fixture(scope="session")
def two_workers(local_ray: None, tiny_llama: dict[str, Path]) -> Iterator[Executor]:
    """Two Ray workers for tests that leave them healthy."""
    from evomerge.execute.ray.executor import RayExecutor

    executor = RayExecutor(make_settings(tiny_llama), workers=2, cpus_per_worker=0.1)
    yield executor
    executor.close()
