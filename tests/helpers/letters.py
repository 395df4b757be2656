"""A small search over a task whose answers are generated, with a pruner that takes help of reference answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from evomerge.config.config import Config
from helpers.search import write_config, write_task

TASK = {
    "task": "tiny_letters",
    "dataset_path": "json",
    "validation_split": "validation",
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "Question: {{question}} Answer:",
    "doc_to_target": "{{['a', 'e', 'i'][answer]}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6, "do_sample": False},
    "filter_list": [
        {"name": "letter", "filter": [{"function": "regex", "regex_pattern": "([aei])"}, {"function": "take_first"}]}
    ],
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    "metadata": {"version": 1.0},
}
SEARCH = {"evaluations": 24, "population": 8, "scan": 6, "shortlist": 2, "block": 4, "estimator": "difference"}
PRUNERS: dict[str, dict[str, Any]] = {
    "median": {"pruner": "median", "pruner_options": {"rivals": 3}},
    "standard_error": {
        "pruner": "standard_error",
        "pruner_options": {"errors": 0.5, "items": 4},
        "evaluations": 16,
        "scan": 3,
    },
}
HELPED = {"covariate": "reference"}
"""What a search is helped by."""


def letters(folder: Path, models: Mapping[str, Path]) -> Config:
    """A search without help over 16 items that are answered by a letter, by `median`, with its files in the folder."""
    tasks = write_task(folder / "tasks", items=32)
    files = {split: str(tasks / f"{split}.jsonl") for split in ("validation", "test")}
    (tasks / "letters.yaml").write_text(yaml.safe_dump({**TASK, "dataset_kwargs": {"data_files": files}}))
    changes = {"benchmark": {"tasks": ["tiny_letters"]}, "search": {"step_size": 1.0, **SEARCH, **PRUNERS["median"]}}
    return Config.from_file(write_config(folder / "x.yaml", models, tasks, **changes))
