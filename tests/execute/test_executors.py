"""How the config chooses among executors, and what it leaves open to be decided."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.config.config import Config
from evomerge.config.execution import ExecutionConfig
from evomerge.errors import ConfigError, ExecutionError, UnknownNameError
from evomerge.execute.base import WorkerSettings
from evomerge.execute.inline import InlineExecutor
from evomerge.execute.settings import choose_backend, make_executor, worker_settings
from evomerge.study.experiment import check_names

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")


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
    monkeypatch.setattr("evomerge.execute.settings.cores", lambda: 8)
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
    config = experiment(backend="dask")
    with pytest.raises(ConfigError, match=r"c\.yaml: execution\.backend: unknown executor 'dask'.* auto, inline, ray"):
        check_names(config, where="c.yaml")
    with pytest.raises(UnknownNameError, match=r"unknown executor 'dask'.* inline, ray"):
        make_executor(config.execution, worker_settings(config, dtype="float32"))


def test_a_ray_of_its_own_that_does_not_come_up_is_told_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ray

    from evomerge.execute.ray import cluster

    rays_own = ray._private.services.start_raylet
    starts: list[tuple[str, bool]] = []

    def init(**settings: Any) -> None:
        starts.append((settings["address"], ray._private.services.start_raylet is not rays_own))
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr("evomerge.execute.ray.cluster.ray.init", init)
    monkeypatch.setattr("evomerge.execute.ray.cluster.ray.is_initialized", lambda: False)
    with pytest.raises(ExecutionError, match=r"can't be started or joined \(local\): The current node timed out"):
        cluster.connect(None, gpus=False)
    assert starts == [("local", True)]
