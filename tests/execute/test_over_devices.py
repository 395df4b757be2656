"""A worker whose model is spread over several devices answers as on one of them, and merges the same bytes there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.config.execution import ExecutionConfig
from evomerge.errors import ExecutionError
from evomerge.execute.device import open_devices
from evomerge.execute.settings import gpu_share, gpus_of
from evomerge.execute.worker import Worker
from evomerge.inference.spread import devices_of
from evomerge.testing.models import tiny_family
from helpers.classifiers import write_family
from helpers.commands import run
from helpers.worker import REQUESTS, answers, job, make_settings

SCRIPT = Path(__file__).with_name("over_devices.py")


@pytest.mark.slow
def test_answers_and_merged_tensors_over_three_devices_are_those_of_one_to_the_last_bit(tmp_path: Path) -> None:
    # Untied, with its own positions, and tied.
    kinds = ("llama", "gpt2", "gemma")
    for kind in kinds:
        tiny_family(tmp_path / kind, kind, layers=3, scale=0.05)
    write_family(tmp_path, "bert")
    folders = [tmp_path / kind for kind in (*kinds, "bert")]
    done = run(folders, script=SCRIPT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{folder.name} is the same" for folder in folders]


def test_more_devices_than_there_are_is_refused() -> None:
    with pytest.raises(ExecutionError, match=r"execution\.gpus_per_worker: 2 GPUs .*, and there are 1 here"):
        open_devices("cpu", 2)


def test_gpus_of_inline_and_ray_workers_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for backend, workers in (("inline", 1), ("ray", 3)):
        execution = ExecutionConfig(backend=backend, device="cuda", gpus_per_worker=2)
        assert gpus_of(execution, workers) == 2.0 * workers


def test_only_workers_of_ray_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    settings: dict[str, Any] = {"backend": "ray", "device": "cuda", "gpus_per_worker": 0.25}
    assert gpu_share(ExecutionConfig(**settings)) == 0.25
    for changes in ({"backend": "inline"}, {"gpus_per_worker": 2}, {"gpus_per_worker": None}, {"device": "cpu"}):
        assert gpu_share(ExecutionConfig(**settings | changes)) == 1.0


def test_a_worker_takes_its_share_before_it_loads_a_model(
    tiny_llama: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[tuple[torch.device, float]] = []

    def take(device: torch.device, share: float) -> None:
        taken.append((device, share))

    def load(*_: Any, **__: Any) -> None:
        assert taken == [(torch.device("cpu"), 0.25)]
        raise ExecutionError("loaded")

    monkeypatch.setattr("evomerge.execute.worker.take_share", take)
    monkeypatch.setattr("evomerge.execute.worker.LoadedModels", load)
    with pytest.raises(ExecutionError, match="loaded"):
        Worker(make_settings(tiny_llama, gpu_share=0.25))
    taken.clear()
    with pytest.raises(AssertionError):
        Worker(make_settings(tiny_llama))
    assert taken == []


@pytest.mark.parametrize("gpus", [1.5, 2.25])
def test_parts_of_several_gpus_are_refused(gpus: float) -> None:
    with pytest.raises(ValueError, match="a fraction of one GPU, or a whole number of them"):
        ExecutionConfig(gpus_per_worker=gpus)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma"])
def test_answers_over_two_gpus_are_those_of_one(kind: str, tmp_path: Path) -> None:
    settings = make_settings(tiny_family(tmp_path, kind, layers=4, scale=0.05), device="cuda", batch_tokens=256)
    one, two = (Worker(replace(settings, gpus=count)) for count in (1, 2))
    assert len(devices_of(two._merged.live.model)) == 2
    for worker in (one, two):
        worker.add_requests("search", REQUESTS)
    for number, weight in enumerate((0.3, -0.6)):
        expected, found = (answers(worker.evaluate(job(settings, number, weight))).responses for worker in (one, two))
        for request, before, after in zip(REQUESTS, expected, found, strict=True):
            if hasattr(request, "continuation"):
                assert after.log_probability == pytest.approx(before.log_probability, abs=1e-4)  # type: ignore[union-attr]
            else:
                assert after == before
        for name, tensor in one._merged.live.targets.items():
            assert torch.equal(two._merged.live.targets[name].cpu(), tensor.cpu())
