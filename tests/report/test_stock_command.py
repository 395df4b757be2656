"""The command in a card asks lm-eval for the very test items, or the card says why none can."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from evomerge.config.config import Config
from evomerge.report.stock_command import SAMPLES, samples_file, stock_commands
from evomerge.run.directory import Run, create_run

WHOLE = {"split": "test", "is_stock": True, "is_whole": True, "documents": []}
PART = {**WHOLE, "is_whole": False, "documents": [0, 3]}
OTHER = {**WHOLE, "split": "train", "is_stock": False, "is_whole": False}


def run(folder: Path, tested: dict[str, Any], shots: int = 0, **settings: Any) -> Run:
    tasks = [{"task": "sums", **settings.pop("task", {})}]
    config = Config.from_data(
        {"models": {"base": "a", "experts": {"x": "b"}}, "benchmark": {"tasks": tasks, **settings}}
    )
    facts = {"task": "sums", "metric": "acc,none", "higher_is_better": True, "num_fewshot": shots, "tested": tested}
    return create_run(folder, config, {"identity": {}, "dtype": "bfloat16", "benchmark": {"tasks": [facts]}})


def command(lines: list[str]) -> list[str]:
    (found,) = [line for line in lines if line.startswith("lm_eval")]
    return shlex.split(found)


def test_settings_of_the_run_are_options_and_folders_are_named_alone(tmp_path: Path) -> None:
    made = run(
        tmp_path, WHOLE, 2, task={"num_fewshot": 2}, include_path="/home/alice/my tasks", system_instruction="Be brief."
    )
    assert command(stock_commands(made, "org/x")) == [
        *("lm_eval", "--model", "hf", "--model_args", "pretrained=org/x,dtype=bfloat16", "--tasks", "sums"),
        *("--include_path", "my tasks", "--num_fewshot", "2", "--system_instruction", "Be brief."),
    ]
    assert samples_file(made) == {}


def test_a_part_of_a_tasks_items_is_named_by_a_file_beside_the_card(tmp_path: Path) -> None:
    made = run(tmp_path, PART)
    assert command(stock_commands(made, "x"))[-2:] == ["--samples", f"x/{SAMPLES}"]
    assert json.loads(samples_file(made)[SAMPLES]) == {"sums": [0, 3]}


@pytest.mark.parametrize(
    ("tested", "shots", "settings", "reason"),
    [
        (OTHER, 0, {}, "the data-set split train"),
        (PART, 2, {}, "draws other examples"),
        (WHOLE, 0, {"task": {"overrides": {"dataset_path": "x"}}}, "replaces keys of the task"),
    ],
)
def test_where_no_command_gives_the_score_the_card_says_why(
    tmp_path: Path, tested: dict[str, Any], shots: int, settings: dict[str, Any], reason: str
) -> None:
    lines = stock_commands(run(tmp_path, tested, shots, **settings), "x")
    assert not any(line.startswith("lm_eval") for line in lines)
    assert any(reason in line for line in lines)
