"""One private Ray for all executor tests, since starting it takes seconds."""

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
def local_ray() -> Iterator[None]:
    """A Ray with four CPUs and two pretended GPUs; executors find it initialised and leave it running."""
    import ray

    from evomerge.execute.ray.cluster import private_environment

    with private_environment():
        ray.init(address="local", num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def two_workers(local_ray: None, tiny_llama: dict[str, Path]) -> Iterator[Executor]:
    """Two Ray workers for tests that leave them healthy."""
    from evomerge.execute.ray.executor import RayExecutor

    executor = RayExecutor(make_settings(tiny_llama), workers=2, cpus_per_worker=0.1)
    yield executor
    executor.close()
