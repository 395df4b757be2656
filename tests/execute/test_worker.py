"""A worker: right answers whatever came before, and every failure a value that names things."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.errors import CheckpointError, ExecutionError
from evomerge.execute.base import WorkerSettings
from evomerge.execute.worker import Worker
from evomerge.methods import METHODS
from evomerge.recipe.group import Group
from evomerge.score.requests import GenerationRequest, LogLikelihoodRequest
from evomerge.testing.jobs import alike, in_request_order
from helpers.worker import REQUESTS, answers, failure, job, make_settings


@pytest.fixture
def settings(tiny_llama: dict[str, Path]) -> WorkerSettings:
    return make_settings(tiny_llama)


def test_answers_are_those_of_the_merged_model_itself(settings: WorkerSettings, tiny_llama: dict[str, Path]) -> None:
    from transformers import AutoModelForCausalLM

    worker = Worker(settings)
    worker.add_requests("search", REQUESTS)
    got = answers(worker.evaluate(job(settings, 0, {"a": 0.5, "b": 0.25})))
    models = {name: AutoModelForCausalLM.from_pretrained(path) for name, path in tiny_llama.items()}
    states = {name: model.state_dict() for name, model in models.items()}
    merged = {
        name: base + 0.5 * (states["a"][name] - base) + 0.25 * (states["b"][name] - base)
        for name, base in states["base"].items()
    }
    model = models["base"]
    model.load_state_dict(merged)
    for request, response in zip(REQUESTS, got.responses, strict=True):
        if isinstance(request, LogLikelihoodRequest):
            ids = torch.tensor([[*request.context, *request.continuation]])
            with torch.no_grad():
                log_probabilities = model(ids).logits[0].double().log_softmax(-1)
            start = len(request.context)
            expected = sum(
                float(log_probabilities[start - 1 + offset, token]) for offset, token in enumerate(request.continuation)
            )
            assert response.log_probability == pytest.approx(expected, abs=1e-4)  # type: ignore[union-attr]


def test_answers_do_not_depend_on_the_worker_or_on_what_it_did_before(settings: WorkerSettings) -> None:
    fresh, used = Worker(settings), Worker(settings)
    for worker in (fresh, used):
        worker.add_requests("search", REQUESTS)
    for number, weight in enumerate((-1.0, 0.7, 1.5)):
        answers(used.evaluate(job(settings, number, weight)))
    last = job(settings, 9, {"a": 0.3, "b": 0.8})
    expected = answers(fresh.evaluate(last)).responses
    assert answers(used.evaluate(last)).responses == expected
    torch.set_num_threads(2)
    try:
        assert answers(used.evaluate(last)).responses == expected
    finally:
        torch.set_num_threads(1)


def test_each_split_gets_its_own_requests(settings: WorkerSettings) -> None:
    worker = Worker(settings)
    worker.add_requests("search", REQUESTS)
    worker.add_requests("test", REQUESTS[:2])
    search = answers(worker.evaluate(job(settings, 0, 0.5))).responses
    test = answers(worker.evaluate(job(settings, 0, 0.5, split="test"))).responses
    assert len(search) == len(REQUESTS)
    assert len(test) == 2
    assert [response.is_greedy for response in test] == [response.is_greedy for response in search[:2]]  # type: ignore[union-attr]


def test_phases_are_timed_and_memory_is_measured(settings: WorkerSettings) -> None:
    worker = Worker(settings, name="here")
    worker.add_requests("search", REQUESTS)
    start = time.perf_counter()
    outcome = answers(worker.evaluate(job(settings, 0, 0.5)))
    elapsed = time.perf_counter() - start
    assert set(outcome.seconds) == {"prepare", "materialise", "respond"}
    assert 0.5 * elapsed < sum(outcome.seconds.values()) <= elapsed
    assert outcome.peak_bytes > 50e6
    assert outcome.worker == "here"


def break_nothing(worker: Worker) -> None: ...


def answer_with(error: Exception) -> Callable[[Worker], None]:
    def break_it(worker: Worker) -> None:
        def fail(*args: Any, **kwargs: Any) -> None:
            # Half-written weights, as a candidate that dies in the middle leaves them.
            next(iter(worker._merged.live.targets.values())).fill_(float("nan"))
            raise error

        worker._merged._resident.respond = fail  # type: ignore[method-assign,assignment]

    return break_it


@pytest.mark.parametrize(
    ("breakage", "weight", "split", "reason", "said"),
    [
        (break_nothing, 1e300, "search", "not_finite", "merging"),
        (break_nothing, 0.5, "nowhere", "error", "no requests named 'nowhere'; known: search"),
        (answer_with(MemoryError()), 0.5, "search", "out_of_memory", "execution.batch_tokens"),
        (answer_with(RuntimeError("DefaultCPUAllocator: can't")), 0.5, "search", "out_of_memory", "cpu"),
        (answer_with(torch.OutOfMemoryError("CUDA out of memory")), 0.5, "search", "out_of_memory", "CUDA"),
        (answer_with(ZeroDivisionError("by zero")), 0.5, "search", "error", "ZeroDivisionError: by zero (test_worker"),
        (answer_with(CheckpointError("b: x.weight is gone")), 0.5, "search", "error", "b: x.weight is gone"),
    ],
)
def test_a_failure_is_a_value_and_the_next_candidate_is_right(
    settings: WorkerSettings, breakage: Callable[[Worker], None], weight: float, split: str, reason: str, said: str
) -> None:
    good = job(settings, 2, 0.5)
    reference = Worker(settings)
    reference.add_requests("search", REQUESTS)
    worker = Worker(settings)
    worker.add_requests("search", REQUESTS)
    respond = worker._merged._resident.respond
    breakage(worker)
    failed = failure(worker.evaluate(job(settings, 7, weight, split)))
    assert failed.reason == reason
    assert "trial 7" in failed.message
    assert said in failed.message
    worker._merged._resident.respond = respond  # type: ignore[method-assign]
    assert answers(worker.evaluate(good)).responses == answers(reference.evaluate(good)).responses


def test_weights_that_are_finite_but_whose_activations_are_not_are_reported(settings: WorkerSettings) -> None:
    worker = Worker(settings)
    worker.add_requests("search", REQUESTS)
    failed = failure(worker.evaluate(job(settings, 3, 1e16)))
    assert failed.reason == "not_finite"
    assert "trial 3" in failed.message


def test_a_candidate_that_takes_too_long_is_stopped(tiny_llama: dict[str, Path]) -> None:
    settings = make_settings(tiny_llama, timeout_s=0.02)
    worker = Worker(settings)
    endless = GenerationRequest(context=(1, 45, 46), stop=(), max_tokens=450)
    worker.add_requests("search", [endless] * 16)
    passes: list[None] = []
    worker._merged.live.model.register_forward_hook(lambda *_: passes.append(None))
    failed = failure(worker.evaluate(job(settings, 5, 0.5)))
    assert len(passes) < 400
    assert failed.reason == "timeout"
    assert "execution.timeout_s = 0.02 s" in failed.message


def test_interrupting_is_not_a_failure_of_the_candidate(settings: WorkerSettings) -> None:
    worker = Worker(settings)
    worker.add_requests("search", REQUESTS)

    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    worker._merged._resident.respond = interrupt  # type: ignore[method-assign,assignment]
    with pytest.raises(KeyboardInterrupt):
        worker.evaluate(job(settings, 0, 0.5))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_refused(tiny_llama: dict[str, Path]) -> None:
    with pytest.raises(ExecutionError, match=r"no usable GPU; set execution\.device to cpu or auto"):
        Worker(make_settings(tiny_llama, device="cuda"))


def test_an_expert_of_another_width_is_refused(tiny_llama: dict[str, Path], tmp_path: Path) -> None:
    from evomerge.testing.models import tiny_checkpoint

    wide = tiny_checkpoint(tmp_path / "wide", hidden=64)
    with pytest.raises(CheckpointError, match="wide"):
        Worker(make_settings({**tiny_llama, "b": wide}))
    assert json.loads((wide / "config.json").read_text())["hidden_size"] == 64


def test_a_candidates_next_block_is_answered_without_merging_it_again(settings: WorkerSettings) -> None:
    worker = Worker(settings)
    blocks = [[0, 3], [1, 2, 4]]
    worker.add_requests("search", REQUESTS, blocks)
    one, other = job(settings, 1, 0.5), job(settings, 2, 0.25)
    whole = answers(worker.evaluate(one)).responses
    first = answers(worker.evaluate(replace(one, blocks=(0,))))
    second = answers(worker.evaluate(replace(one, blocks=(1,))))
    assert second.seconds["materialise"] == 0.0
    assert alike(in_request_order(blocks, [first.responses, second.responses]), whole)
    # Another candidate in between, or a failure, and it is merged anew.
    assert answers(worker.evaluate(replace(other, blocks=(0,)))).responses != first.responses
    assert answers(worker.evaluate(replace(one, blocks=(1,)))).responses == second.responses
    failure(worker.evaluate(job(settings, 3, 1e300)))
    again = answers(worker.evaluate(replace(one, blocks=(1,))))
    assert again.seconds["materialise"] > 0.0
    assert again.responses == second.responses


def test_a_candidates_time_is_that_of_all_its_blocks(tiny_llama: dict[str, Path]) -> None:
    settings = make_settings(tiny_llama, timeout_s=60)
    worker = Worker(settings)
    worker.add_requests("search", REQUESTS, [[0, 1], [2, 3, 4]])
    answers(worker.evaluate(replace(job(settings, 1, 0.5), blocks=(0,), spent_s=1.0)))
    assert failure(worker.evaluate(replace(job(settings, 1, 0.5), blocks=(1,), spent_s=61.0))).reason == "timeout"


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "della", "sce", "karcher", "passthrough"])
def test_a_gpu_merges_the_same_bytes_and_answers_as_the_cpu_does(settings: WorkerSettings, method: str) -> None:
    merges, responses = [], []
    for device in ("cpu", "cuda"):
        worker = Worker(replace(settings, device=device))
        worker.add_requests("search", REQUESTS)
        asked = job(settings, 0, 0.5)
        recipe = replace(asked.recipe, method=method, groups=(Group(name="all"),))
        got = answers(worker.evaluate(replace(asked, recipe=recipe)))
        responses.append([getattr(response, "log_probability", 0.0) for response in got.responses])
        merges.append({name: target.cpu() for name, target in worker._merged.live.targets.items()})
        assert got.peak_bytes > 0
    assert all(torch.equal(merges[1][name], merged) for name, merged in merges[0].items())
    assert responses[1] == pytest.approx(responses[0], abs=1e-3)


@pytest.mark.gpu
def test_a_gpu_names_the_tensor_that_is_not_finite(settings: WorkerSettings) -> None:
    worker = Worker(replace(settings, device="cuda"))
    worker.add_requests("search", REQUESTS)
    with_infinity = list(worker._merged.merger.inputs.experts["a"].names)[3]
    inputs = worker._merged.merger.inputs.of(with_infinity, METHODS.get("task_arithmetic"), keep=True)
    inputs.experts[0].view(-1)[7] = torch.inf
    lost = failure(worker.evaluate(job(settings, 0, 0.5)))
    assert lost.reason == "not_finite"
    assert f"{with_infinity}: NaN or Inf in the weights of a" in lost.message
