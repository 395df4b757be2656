"""A small real experiment: three tiny models, a local multiple-choice task, a search of a few seconds."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import yaml

from evomerge.config.config import Config
from evomerge.run.observer import SilentObserver
from evomerge.run.records import TrialRecord
from helpers.commands import Command
from helpers.patience import LONG_S

TASK = """
task: tiny_choice
dataset_path: json
dataset_kwargs:
  data_files:
    validation: {folder}/validation.jsonl
    test: {folder}/test.jsonl
validation_split: validation
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}} Answer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata: {{version: 1.0}}
"""

WORDS = ("goat", "river", "book", "rain", "market", "three", "four", "school", "morning", "sea", "hill", "town")


def write_task(folder: Path, *, items: int = 24) -> Path:
    """A folder with a task YAML and its documents."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = random.Random(0)
    for split in ("validation", "test"):
        with (folder / f"{split}.jsonl").open("w") as file:
            for number in range(items):
                choices = generator.sample(WORDS, 3)
                question = f"{split} {number}: {' '.join(generator.choices(WORDS, k=5))}?"
                answer = generator.randrange(3)
                file.write(json.dumps({"question": question, "choices": choices, "answer": answer}) + "\n")
    (folder / "tiny_choice.yaml").write_text(TASK.format(folder=folder))
    return folder


def write_clustered_task(folder: Path) -> Path:
    """The same with documents that belong together in threes, by their `topic`."""
    for path in write_task(folder).glob("*.jsonl"):
        documents = [json.loads(line) for line in path.read_text().splitlines()]
        lines = [json.dumps({**one, "topic": f"{path.stem} {place // 3}"}) for place, one in enumerate(documents)]
        path.write_text("\n".join(lines))
    return folder


def write_config(path: Path, models: dict[str, Path], tasks: Path, **changes: Any) -> Path:
    """An experiment over the models; `changes` replace keys of sections."""
    data: dict[str, Any] = {
        "models": {
            "base": str(models["base"]),
            "experts": {name: str(folder) for name, folder in models.items() if name != "base"},
        },
        "merge": {"method": "task_arithmetic"},
        "space": {"granularity": "layer"},
        "benchmark": {
            "include_path": str(tasks),
            "tasks": ["tiny_choice"],
            "splits": {
                "search": {"split": "validation", "fraction": 0.5},
                "validation": {"split": "validation", "fraction": 0.5},
                "test": {"split": "test"},
            },
        },
        "search": {"evaluations": 28, "population": 8, "scan": 4, "shortlist": 2},
        "execution": {"backend": "inline", "cpus_per_worker": 1, "dtype": "float32"},
    }
    for section, values in changes.items():
        data[section] = {**data.get(section, {}), **values} if isinstance(values, dict) else values
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def changed(config: Config, **changes: dict[str, Any]) -> Config:
    """The config with some keys of its sections replaced."""
    data = config.model_dump(mode="json")
    for section, values in changes.items():
        data[section].update(values)
    return Config.from_data(data)


def answered_blocks(directory: Path) -> list[tuple[int, int]]:
    """Trial and block of everything that was answered in blocks."""
    lines = [json.loads(line) for line in (directory / "parts.jsonl").read_text().splitlines()]
    return [(line["trial"], line["block"] + place) for line in lines for place in range(line.get("blocks", 1))]


class Interrupt(SilentObserver):
    """Presses Ctrl-C after so many evaluations."""

    def __init__(self, after: int) -> None:
        self.left = after

    def trial(self, record: TrialRecord) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


class Count(SilentObserver):
    """Counts what was evaluated."""

    def __init__(self) -> None:
        self.evaluated: list[int] = []

    def trial(self, record: TrialRecord) -> None:
        self.evaluated.append(record.number)


def start(config_file: Path, directory: Path) -> Command:
    """A search in a process of its own."""
    return Command(["search", config_file, "--run", directory], merged=True)


def kill_after_lines(process: Command, path: Path, lines: int) -> None:
    """Kill a process as soon as a file has so many lines, and wait until it is gone."""
    deadline = time.monotonic() + LONG_S
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") >= lines:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    process.communicate(LONG_S)
