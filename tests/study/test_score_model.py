"""Scoring a single model folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.config.benchmark import BenchmarkConfig
from evomerge.config.config import Config
from evomerge.config.execution import ExecutionConfig
from evomerge.errors import BenchmarkError, CheckpointError
from evomerge.run.directory import open_run
from evomerge.study.score_model import evaluate
from evomerge.study.search import search
from helpers.search import write_config, write_task

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("stock_results_alone")]

FLOAT32 = ExecutionConfig(backend="inline", cpus_per_worker=1, dtype="float32")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_task(tmp_path_factory.mktemp("tasks"))


def test_all_items_of_a_task_are_scored_as_stock_lm_eval_does(tiny_llama: dict[str, Path], tasks: Path) -> None:
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    benchmark = BenchmarkConfig.model_validate({"tasks": ["tiny_choice"], "include_path": [str(tasks)]})
    (found,) = evaluate(str(tiny_llama["a"]), benchmark, execution=FLOAT32)
    model = HFLM(pretrained=str(tiny_llama["a"]), device="cpu", dtype="float32", batch_size=4)
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    stock = lm_eval.simple_evaluate(model=model, tasks=["tiny_choice"], task_manager=manager, bootstrap_iters=0)
    assert found.items == 24
    assert found.metric == "acc,none"
    assert found.score == stock["results"]["tiny_choice"]["acc,none"]
    assert found.interval is not None
    assert found.interval[0] <= found.score <= found.interval[1]


@pytest.mark.parametrize("split", ["search", "validation", "test"])
def test_a_split_is_scored_as_the_search_scored_it(
    tmp_path: Path, tiny_llama: dict[str, Path], tasks: Path, split: str
) -> None:
    config = Config.from_file(
        write_config(tmp_path / "x.yaml", tiny_llama, tasks, search={"evaluations": 8, "scan": 1})
    )
    search(config, tmp_path / "run")
    result = open_run(tmp_path / "run").result()
    assert result is not None
    (expected,) = [model for model in result[split]["models"] if model["name"] == "b"]
    (found,) = evaluate(str(tiny_llama["b"]), config.benchmark, split=split, execution=config.execution)
    assert found.score == expected["score"]
    assert found.items == expected["items"]
    assert list(found.interval or ()) == expected["interval"]


def test_a_group_is_scored_after_its_tasks(tmp_path: Path, tiny_llama: dict[str, Path]) -> None:
    tasks = write_task(tmp_path / "tasks", items=8)
    text = (tasks / "tiny_choice.yaml").read_text()
    (tasks / "other.yaml").write_text(text.replace("task: tiny_choice", "task: other").replace("Question", "Asked"))
    group = "group: both\ntask: [tiny_choice, other]\naggregate_metric_list: [{metric: acc}]\n"
    (tasks / "both.yaml").write_text(group)
    benchmark = BenchmarkConfig.model_validate({"tasks": ["both"], "include_path": [str(tasks)]})
    first, second, both = evaluate(str(tiny_llama["a"]), benchmark, execution=FLOAT32)
    assert (first.task, second.task, both.task, both.items) == ("tiny_choice", "other", "both", 16)
    assert both.score == pytest.approx((first.score + second.score) / 2)
    assert both.interval[0] <= both.score <= both.interval[1]


def test_what_cannot_be_scored_is_refused(tmp_path: Path, tiny_llama: dict[str, Path], tasks: Path) -> None:
    benchmark = BenchmarkConfig.model_validate({"tasks": ["tiny_choise"], "include_path": [str(tasks)]})
    with pytest.raises(BenchmarkError, match=r"--tasks.*tiny_choise.*tiny_choice"):
        evaluate(str(tiny_llama["a"]), benchmark, where="--tasks")
    with pytest.raises(CheckpointError):
        evaluate(str(tmp_path / "nothing"), benchmark)
