"""An experiment whose task generates text that is to be in a language."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from evomerge.config.config import Config
from helpers.search import write_config, write_task


def generating(folder: Path, models: dict[str, Path], language: Any, output: str = "generate_until") -> Config:
    """A search over a task of `output` type in `folder`, with `language` asked of its text."""
    tasks = write_task(folder / "tasks", items=16)
    files = {"validation": str(tasks / "validation.jsonl"), "test": str(tasks / "test.jsonl")}
    task = {
        "task": "tiny_choice",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "validation_split": "validation",
        "test_split": "test",
        "metadata": {"version": 1.0},
        "output_type": output,
        "doc_to_text": "Question: {{question}} Answer:",
        "doc_to_target": "{{question}}" if output == "generate_until" else " {{choices[answer]}}",
        **(
            {"generation_kwargs": {"until": ["\n"], "max_gen_toks": 8, "do_sample": False}}
            if output == "generate_until"
            else {}
        ),
        "metric_list": [{"metric": "chrf" if output == "generate_until" else "acc"}],
    }
    (tasks / "tiny_choice.yaml").write_text(yaml.safe_dump(task))
    path = write_config(
        folder / "x.yaml",
        models,
        tasks,
        search={"evaluations": 16, "population": 8, "scan": 3, "shortlist": 3},
    )
    data = yaml.safe_load(path.read_text())
    data["benchmark"]["tasks"] = [{"task": "tiny_choice", "language": language}]
    path.write_text(yaml.safe_dump(data))
    return Config.from_file(path)
