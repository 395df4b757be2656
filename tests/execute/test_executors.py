"""Laws of every executor, and how the config chooses among them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.config.config import Config
from evomerge.config.execution import ExecutionConfig
from evomerge.errors import ConfigError, ExecutionError
from evomerge.execute import EXECUTORS
from evomerge.execute.base import Executor, Job, WorkerSettings
from evomerge.execute.inline import InlineExecutor
from evomerge.execute.settings import choose_backend, make_executor, worker_settings
from helpers.worker import REQUESTS, answers, failure, job

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")


@pytest.fixture(params=["inline", pytest.param("ray", marks=pytest.mark.ray)])
def executor(request: pytest.FixtureRequest, settings: WorkerSettings) -> Iterator[Executor]:
    if request.param == "ray":
        yield request.getfixturevalue("two_workers")
    else:
        yield InlineExecutor(settings)


def test_every_executor_is_tested_here() -> None:
    assert EXECUTORS.names() == ("inline", "ray")


def test_every_job_comes_back_once_with_its_own_outcome(executor: Executor, settings: WorkerSettings) -> None:
    executor.add_requests("search", REQUESTS)
    executor.add_requests("test", REQUESTS[:1])
    jobs = [job(settings, number, 0.1 * number, split) for number in range(4) for split in ("search", "test")]
    jobs.append(job(settings, 9, 1e300))
    outcomes = list(executor.run(jobs))
    assert sorted((done.number, done.split) for done, _ in outcomes) == sorted((one.number, one.split) for one in jobs)
    for done, outcome in outcomes:
        if done.number == 9:
            assert failure(outcome).reason == "not_finite"
        else:
            assert len(answers(outcome).responses) == (len(REQUESTS) if done.split == "search" else 1)
    assert list(executor.run([])) == []


def test_jobs_may_be_a_generator_that_is_drawn_as_workers_become_free(
    executor: Executor, settings: WorkerSettings
) -> None:
    executor.add_requests("search", REQUESTS)
    drawn: list[int] = []

    def jobs() -> Iterator[Job]:
        for number in range(6):
            drawn.append(number)
            yield job(settings, number, 0.1 * number)

    running = executor.run(jobs())
    next(running)
    assert len(drawn) <= executor.workers + 1
    assert len(list(running)) == 5


def test_an_abandoned_run_leaves_the_executor_usable(executor: Executor, settings: WorkerSettings) -> None:
    executor.add_requests("search", REQUESTS)
    running = executor.run([job(settings, number, 0.1 * number) for number in range(5)])
    next(running)
    running.close()  # type: ignore[attr-defined]
    [(done, outcome)] = executor.run([job(settings, 7, 0.5)])
    assert done.number == 7
    answers(outcome)


@pytest.mark.parametrize("backend", ["inline", pytest.param("ray", marks=pytest.mark.ray)])
def test_closing_twice_is_fine_and_a_closed_executor_says_so(
    request: pytest.FixtureRequest, settings: WorkerSettings, backend: str
) -> None:
    if backend == "ray":
        request.getfixturevalue("local_ray")
    executor = make_executor(ExecutionConfig(backend=backend, cpus_per_worker=4, device="cpu"), settings)  # type: ignore[arg-type]
    executor.close()
    executor.close()
    with pytest.raises(ExecutionError, match="closed"):
        list(executor.run([job(settings, 0, 0.5)]))


def experiment(**execution: Any) -> Config:
    return Config.from_data(
        {
            "models": {"base": "b", "experts": {"x": "e"}},
            "benchmark": {"tasks": ["t"]},
            "execution": execution,
        }
    )


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.parametrize(
    ("execution", "gpus", "backend"),
    [
        ({}, 0, "inline"),
        ({}, 1, "inline"),
        ({}, 2, "ray"),
        ({"device": "cpu"}, 2, "inline"),
        ({"workers": 1}, 2, "inline"),
        ({"workers": 2}, 0, "ray"),
        ({"ray_address": "10.0.0.1:6379"}, 0, "ray"),
        ({"backend": "inline"}, 2, "inline"),
        ({"backend": "ray"}, 0, "ray"),
    ],
)
def test_auto_takes_ray_where_there_is_more_than_one_worker_to_use(
    monkeypatch: pytest.MonkeyPatch, execution: dict[str, Any], gpus: int, backend: str
) -> None:
    monkeypatch.setattr("evomerge.execute.settings.visible_gpus", lambda: gpus)
    assert choose_backend(experiment(**execution).execution) == backend


def test_auto_takes_ray_inside_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert choose_backend(experiment().execution) == "ray"


@pytest.mark.parametrize(
    ("execution", "gpus", "expected"),
    [
        ({}, 0, {"dtype": "bfloat16", "device": "cpu", "threads": 3}),
        ({}, 1, {"dtype": "bfloat16", "device": "cuda"}),
        ({"dtype": "float32"}, 0, {"dtype": "float32"}),
        ({"device": "cpu"}, 1, {"device": "cpu"}),
        ({"gpus_per_worker": 0}, 1, {"device": "cpu"}),
        ({"gpus_per_worker": 0.5}, 0, {"device": "cuda"}),
        ({"workers": 2}, 0, {"threads": 4}),
        ({"workers": 100}, 0, {"threads": 1}),
        ({"workers": 2, "cpus_per_worker": 1.5}, 0, {"threads": 1}),
        ({"cpus_per_worker": 0.5}, 0, {"threads": 1}),
        ({"timeout_s": 5, "batch_tokens": 64}, 0, {"timeout_s": 5, "batch_tokens": 64}),
    ],
)
def test_settings_decide_what_the_config_leaves_open(
    monkeypatch: pytest.MonkeyPatch, execution: dict[str, Any], gpus: int, expected: dict[str, Any]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr("evomerge.execute.settings._cores", lambda: 8)
    monkeypatch.setattr("evomerge.execute.settings.visible_gpus", lambda: gpus)
    settings = worker_settings(experiment(**execution), dtype="bfloat16")
    assert {name: getattr(settings, name) for name in expected} == expected
    assert settings.sources.base.path == "b"
    assert list(settings.sources.experts) == ["x"]


def test_several_inline_workers_are_refused(settings: WorkerSettings) -> None:
    with pytest.raises(ExecutionError, match=r"execution\.workers: 3 workers can't run inline"):
        make_executor(ExecutionConfig(backend="inline", workers=3), settings)


@without_gpu
def test_a_gpu_that_is_not_there_is_refused_inline(tiny_llama: dict[str, Path]) -> None:
    from helpers.worker import make_settings

    with pytest.raises(ExecutionError, match="no usable GPU"):
        InlineExecutor(make_settings(tiny_llama, device="cuda"))


def test_an_unknown_backend_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="inline"):
        experiment(backend="dask")
