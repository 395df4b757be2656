"""What is said of a worker's GPUs before any is taken."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from evomerge.config.config import Config
from evomerge.errors import ConfigError
from evomerge.execute.settings import worker_settings
from evomerge.models.checkpoint import Checkpoint
from evomerge.study.gpus import notes_on_gpus


def config_of(base: Path, gpus: float, **execution: Any) -> Config:
    data = {
        "models": {"base": str(base), "experts": {"x": "e"}},
        "benchmark": {"tasks": ["t"]},
        "execution": {"device": "cuda", "gpus_per_worker": gpus, "workers": 1, **execution},
    }
    return Config.from_data(data)


def notes(monkeypatch: pytest.MonkeyPatch, base: Path, gpus: float, *memory: int, **execution: Any) -> list[str]:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(memory))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(memory))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(total_memory=memory[index]))
    config = config_of(base, gpus, **execution)
    return notes_on_gpus(config, Checkpoint.open(base), "float32", where="c.yaml")


def test_a_model_over_two_gpus_is_said_to_lie_there(
    tiny_llama: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Checkpoint.open(tiny_llama["base"]).num_parameters * 4
    (note,) = notes(monkeypatch, tiny_llama["base"], 2, int(0.8 * whole), int(0.8 * whole))
    assert note.startswith("the live model lies over 2 GPUs of each worker in whole layers, ")
    assert "workers start" not in note
    with pytest.raises(
        ConfigError, match=r"c\.yaml: .*a worker's GPU has room for .*; set execution\.gpus_per_worker: 2"
    ):
        notes(monkeypatch, tiny_llama["base"], 1, int(0.8 * whole), int(0.8 * whole))


def test_a_model_that_fits_on_one_gpu_is_said_to(tiny_llama: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    _, hint = notes(monkeypatch, tiny_llama["base"], 2, 1 << 30, 1 << 30)
    assert "fits on one GPU" in hint
    assert notes(monkeypatch, tiny_llama["base"], 1, 1 << 30) == []


def test_workers_that_share_a_gpu_have_room_for_a_part_of_it(
    tiny_llama: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Checkpoint.open(tiny_llama["base"]).num_parameters * 4
    # So small a GPU keeps half of each part for CUDA.
    assert notes(monkeypatch, tiny_llama["base"], 0.5, 5 * whole, workers=2) == []
    with pytest.raises(
        ConfigError, match=r"a worker's part of a GPU has room for .*; set execution\.gpus_per_worker to more of a GPU"
    ):
        notes(monkeypatch, tiny_llama["base"], 0.5, 3 * whole, workers=2)
    assert notes(monkeypatch, tiny_llama["base"], 1, 3 * whole, workers=2) == []
    assert worker_settings(config_of(tiny_llama["base"], 0.5, workers=2), dtype="float32").gpu_share == 0.5


def test_gpus_that_are_elsewhere_are_said_to_be_unseen(
    tiny_llama: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (note,) = notes(monkeypatch, tiny_llama["base"], 2, 1, ray_address="10.0.0.1:6379")
    assert note.endswith("whether they have room for that is seen when workers start")


def test_fewer_gpus_than_a_worker_is_to_have_are_refused(
    tiny_llama: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="2 GPUs are asked for each worker, and this machine has 1"):
        notes(monkeypatch, tiny_llama["base"], 2, 1 << 30)
