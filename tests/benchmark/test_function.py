"""A function of the user's as a benchmark: run in workers, checked, and part of what a run is."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from evomerge.benchmark import Benchmark, build_benchmark
from evomerge.config.config import Config
from evomerge.errors import BenchmarkError, ConfigError, ResumeError, UnknownNameError
from evomerge.inference.function import FunctionCaller
from evomerge.models.checkpoint import Checkpoint
from evomerge.run.directory import open_run
from evomerge.score.requests import FunctionRequest
from evomerge.study.check import check
from evomerge.study.export import export
from evomerge.study.search import search
from evomerge.testing.runs import essence
from helpers.classifiers import write_config
from helpers.interrupt import Interrupt

pytestmark = pytest.mark.slow

SCORING = """
import torch
from numbers_of_items import COUNT


def items():
    return [{"start": number + 3} for number in range(COUNT)]


def smoothness(model, items):
    ids = torch.tensor([[item["start"], item["start"] + 7, 40] for item in items])
    return (-model(input_ids=ids, labels=ids).logits.std(dim=(1, 2))).tolist()
"""


@pytest.fixture
def folder(tmp_path: Path, tiny_llama: dict[str, Path]) -> Path:
    (tmp_path / "scoring.py").write_text(SCORING)
    (tmp_path / "numbers_of_items.py").write_text("COUNT = 30\n")
    write_config(tmp_path / "config.yaml", tiny_llama, {"function": "scoring:smoothness"})
    return tmp_path


def with_function(folder: Path, body: str) -> Config:
    """The experiment with another function."""
    (folder / "scoring.py").write_text(SCORING.partition("def smoothness")[0] + body)
    return Config.from_file(folder / "config.yaml")


def test_scores_are_those_of_the_function_on_the_exported_model(folder: Path) -> None:
    config = Config.from_file(folder / "config.yaml")
    result = search(config, folder / "run")
    model = transformers.AutoModelForCausalLM.from_pretrained(export(folder / "run", folder / "out"))
    built = build_benchmark(config.benchmark, Checkpoint.open(config.models.base.reference()))
    evaluation = open_run(folder / "run").ledger().evaluation(result.winner, "test")
    assert evaluation is not None
    assert evaluation.table is not None
    expected = []
    for request in built.requests("test"):
        start = request.item["start"]  # type: ignore[union-attr]
        with torch.no_grad():
            expected.append(-float(model(input_ids=torch.tensor([[start, start + 7, 40]])).logits.std()))
    np.testing.assert_allclose(evaluation.table.tasks["smoothness"].values["score,none"], expected, rtol=1e-5)
    assert evaluation.score == pytest.approx(np.mean(expected), rel=1e-5)


@pytest.mark.parametrize("block", [None, 5])
def test_an_interrupted_search_by_a_function_ends_as_an_undisturbed_one(block: int | None, folder: Path) -> None:
    data = Config.from_file(folder / "config.yaml")
    config = data.model_copy(update={"search": data.search.model_copy(update={"block": block})})
    search(config, folder / "whole")
    with pytest.raises(KeyboardInterrupt):
        search(config, folder / "broken", observer=Interrupt(6))
    search(config, folder / "broken")
    assert essence(folder / "broken") == essence(folder / "whole")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("def smoothness(model, items):\n    return [1.0]\n", r"error: .* returned 1 scores for 12 items"),
        ("def smoothness(model, items):\n    return None\n", r"error: .* returned None; return a list"),
        ("def smoothness(model, items):\n    return [float('nan')] * len(items)\n", r"not_finite: .*score nan"),
        ("def smoothness(model, items):\n    raise SystemExit(3)\n", r"error: .* asked to end the process \(3\)"),
        ("def smoothness(model, items):\n    raise KeyError('gone')\n", r"error: .*KeyError: 'gone' \(scoring.py:"),
    ],
)
def test_a_wrong_answer_is_a_failed_trial_that_says_why(body: str, reason: str, folder: Path) -> None:
    config = with_function(folder, body)
    with pytest.raises(Exception, match="no merge could be scored"):
        search(config, folder / "run")
    failures = [item.failure for item in open_run(folder / "run").ledger().evaluations()]
    assert failures
    for failure in failures:
        assert failure is not None
        assert re.match(reason, failure)


def test_a_run_is_not_continued_with_other_code(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        search(Config.from_file(folder / "config.yaml"), folder / "run", observer=Interrupt(3))
    config = with_function(folder, "def smoothness(model, items):\n    return [0.0] * len(items)\n")
    with pytest.raises(ResumeError, match="the benchmark's items"):
        search(config, folder / "run")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("scoring:gone", "has no function 'gone'"),
        ("nowhere:f", "module 'nowhere' can't be imported"),
        ({"call": "numbers_of_items:COUNT"}, "has no function 'COUNT'"),
    ],
)
def test_a_function_that_is_not_there_is_refused(
    function: Any, message: str, folder: Path, tiny_llama: dict[str, Path]
) -> None:
    config = Config.from_file(write_config(folder / "other.yaml", tiny_llama, {"function": function}))
    with pytest.raises(BenchmarkError, match=message):
        build_benchmark(config.benchmark, Checkpoint.open(tiny_llama["base"]))


def test_check_says_that_the_code_will_be_run(folder: Path) -> None:
    report = check(Config.from_file(folder / "config.yaml"), trust_tasks=True)
    said = f"scoring:smoothness of {folder} is your own code; it is run as it is, here and in every worker"
    assert said in report.notes
    assert not any("points" in warning for warning in report.warnings)
    assert report.items == {"search": 12, "validation": 9, "test": 9}


def test_check_runs_the_code_only_when_asked_to(folder: Path) -> None:
    canary = folder / "CANARY"
    config = with_function(folder, f"open({str(canary)!r}, 'w').close()\ndef smoothness(model, items): return []\n")
    report = check(config)
    assert not canary.exists()
    assert report.items == {}
    (unchecked,) = report.unchecked
    assert f"it runs code of its own when it is loaded (scoring:smoothness: {folder / 'scoring.py'})" in unchecked
    assert report.dimensions
    assert report.experiment is None
    elsewhere = config.benchmark.function.model_copy(update={"call": "no_such_module_here:f"})  # type: ignore[union-attr]
    benchmark = config.benchmark.model_copy(update={"function": elsewhere})
    assert "the module no_such_module_here" in check(config.model_copy(update={"benchmark": benchmark})).unchecked[0]
    with suppress(BenchmarkError):
        check(config, trust_tasks=True)
    assert canary.exists()


@pytest.mark.parametrize(
    ("benchmark", "message"),
    [
        ({}, "tasks, labels and function are missing"),
        ({"tasks": ["x"], "function": "a:b"}, "tasks and function are given"),
        ({"function": "a.b"}, "name a function as module:name"),
        ({"labels": {"data": "x.csv"}}, "give the column of the text"),
        ({"function": "a:b", "apply_chat_template": True}, "apply_chat_template is of tasks"),
        ({"function": "a:b", "other": {"kind": "c"}}, "function and other are given"),
    ],
)
def test_a_config_names_exactly_one_kind_of_benchmark(
    benchmark: dict[str, Any], message: str, tiny_llama: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.from_file(write_config(tmp_path / "config.yaml", tiny_llama, benchmark))


def test_rows_of_a_file_are_items_too(folder: Path, tiny_llama: dict[str, Path]) -> None:
    rows = [{"start": number} for number in range(10)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    function = {"call": "scoring:smoothness", "data": "rows.jsonl"}
    config = Config.from_file(write_config(folder / "rows.yaml", tiny_llama, {"function": function}))
    built = build_benchmark(config.benchmark, Checkpoint.open(tiny_llama["base"]))
    found = [request.item for split in built.splits for request in built.requests(split)]  # type: ignore[union-attr]
    assert sorted(found, key=lambda row: row["start"]) == rows


def test_random_numbers_do_not_depend_on_what_was_scored_before(tiny_llama: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "dice.py").write_text(
        "import random, numpy, torch\n\n\ndef roll(model, items):\n"
        "    return [random.random() + numpy.random.rand() + torch.rand(()).item() for _ in items]\n"
    )
    caller = FunctionCaller(None, lambda: None)
    plan = caller.plan([FunctionRequest("dice:roll", str(tmp_path), number) for number in range(4)])
    before = torch.get_rng_state()
    first = caller.respond(plan)
    torch.testing.assert_close(torch.get_rng_state(), before, rtol=0, atol=0)
    torch.rand(7)
    assert caller.respond(plan) == first
    assert len(set(first)) == 4


def test_a_number_makes_as_many_items_and_a_parameter_asks_for_the_tokenizer(
    folder: Path, tiny_llama: dict[str, Path]
) -> None:
    (folder / "words.py").write_text(
        "def lengths(model, items, tokenizer):\n"
        "    return [len(tokenizer('rain ' * item)['input_ids']) for item in items]\n"
    )
    function = {"call": "words:lengths", "data": 12}
    config = Config.from_file(write_config(folder / "words.yaml", tiny_llama, {"function": function}))
    base = Checkpoint.open(tiny_llama["base"])
    requests = [one for split in ("search", "validation", "test") for one in _built(config).requests(split)]
    assert sorted(request.item for request in requests) == list(range(12))  # type: ignore[union-attr]
    caller = FunctionCaller(None, base.tokenizer)
    found = [response.score for response in caller.respond(caller.plan(requests))]
    expected = [len(base.tokenizer()("rain " * request.item)["input_ids"]) for request in requests]  # type: ignore[union-attr]
    assert found == expected


def test_a_kind_that_no_package_brings_is_refused_with_those_that_there_are(
    folder: Path, tiny_llama: dict[str, Path]
) -> None:
    config = Config.from_file(write_config(folder / "other.yaml", tiny_llama, {"other": {"kind": "labelz"}}))
    with pytest.raises(UnknownNameError, match=r"Did you mean 'labels'\?"):
        _built(config)


def _built(config: Config) -> Benchmark:
    return build_benchmark(config.benchmark, Checkpoint.open(config.models.base.reference()))


@pytest.mark.ray
def test_workers_of_ray_find_the_function_beside_the_config(folder: Path, local_ray: None) -> None:
    config = Config.from_file(folder / "config.yaml")
    search(config, folder / "inline")
    execution = config.execution.model_copy(update={"backend": "ray", "workers": 2, "cpus_per_worker": 0.5})
    search(config.model_copy(update={"execution": execution}), folder / "ray")
    assert essence(folder / "ray") == essence(folder / "inline")
