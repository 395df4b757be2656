"""Weights of 16 bits computed with in float32: the same weights, scored as lm-eval scores their folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lm_eval.models.huggingface import HFLM
from safetensors.torch import load_file

from evomerge.config.execution import ExecutionConfig
from evomerge.execute.settings import arithmetic_of
from evomerge.execute.worker import Worker
from evomerge.inference import arithmetic
from evomerge.materialise.folder import write_folder
from evomerge.score.requests import LogLikelihoodRequest, LogLikelihoodResponse
from evomerge.testing.models import tiny_checkpoint
from helpers.worker import REQUESTS, answers, job, make_settings


@pytest.fixture(scope="module", params=["bfloat16", "float16"])
def halves(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Path]]:
    folder = tmp_path_factory.mktemp(request.param)
    dtype = request.param
    return dtype, {
        name: tiny_checkpoint(folder / name, "llama", seed=seed, dtype=dtype) for seed, name in enumerate(("base", "a"))
    }


def lm_eval_on(folder: Path, dtype: str) -> list[float]:
    model = HFLM(pretrained=str(folder), device="cpu", dtype=dtype, batch_size=1, softmax_dtype="float32")
    asked = [
        (("", ""), list(one.context), list(one.continuation))
        for one in REQUESTS
        if isinstance(one, LogLikelihoodRequest)
    ]
    return [float(value) for value, _ in model._loglikelihood_tokens(asked, disable_tqdm=True)]


def test_answers_are_those_of_lm_eval_on_the_exported_folder_in_either_format(
    tmp_path: Path, halves: tuple[str, dict[str, Path]]
) -> None:
    dtype, models = halves
    settings = make_settings(models, dtype=dtype, compute_dtype="float32")
    asked = job(settings, 0, {"a": 0.37})
    found: dict[str, list[float]] = {}
    for computed in (dtype, "float32"):
        worker = Worker(replace(settings, compute_dtype=computed))
        worker.add_requests("search", REQUESTS)
        responses = answers(worker.evaluate(asked)).responses
        found[computed] = [one.log_probability for one in responses if isinstance(one, LogLikelihoodResponse)]
        live = worker._merged.live.targets
        assert {str(view.dtype) for view in live.values()} == {f"torch.{computed}"}
    write_folder(asked.recipe, tmp_path / "merged")
    stored = load_file(tmp_path / "merged" / "model.safetensors")
    for name, view in live.items():
        assert str(stored[name].dtype) == f"torch.{dtype}"
        assert torch.equal(view, stored[name].float())
    assert found["float32"] == pytest.approx(lm_eval_on(tmp_path / "merged", "float32"), abs=1e-4)
    # What lm-eval itself moves by with its batch size in these formats.
    assert found["float32"] == pytest.approx(lm_eval_on(tmp_path / "merged", dtype), abs=0.06)
    assert found["float32"] != found[dtype]


@pytest.mark.parametrize(
    ("execution", "gpus", "expected"),
    [
        ({}, 0, "float32"),
        ({}, 1, "bfloat16"),
        ({"compute_dtype": "stored"}, 0, "bfloat16"),
        ({"compute_dtype": "float32"}, 1, "float32"),
        ({"workers": 2}, 0, "float32"),
        ({"ray_address": "head:6379"}, 0, "bfloat16"),
        ({"ray_address": "head:6379", "device": "cpu"}, 0, "float32"),
        ({"ray_address": "head:6379", "gpus_per_worker": 1}, 0, "bfloat16"),
    ],
)
def test_a_slow_cpu_counts_only_where_it_is_what_computes(
    monkeypatch: pytest.MonkeyPatch, execution: dict[str, object], gpus: int, expected: str
) -> None:
    monkeypatch.setattr("evomerge.execute.settings.visible_gpus", lambda: gpus)
    monkeypatch.setattr(arithmetic, "slowness", lambda name: 6.2)
    found = arithmetic_of(ExecutionConfig.model_validate(execution), "bfloat16")
    assert found.dtype == expected
    assert ("can't be looked at from here" in found.why) == (execution == {"ray_address": "head:6379"})
