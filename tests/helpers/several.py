"""A search algorithm for any number of objectives, and a small experiment with two tasks that pull apart."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from evomerge.algorithms.base import Proposer
from evomerge.config.config import Config
from evomerge.score.pareto import front
from evomerge.space.base import Genome
from evomerge.streams import stream
from helpers.search import WORDS, write_config


class Around(Proposer):
    """Points around those of the front so far, the first generation anywhere."""

    name = "around"
    max_objectives = None

    def _start(self) -> None:
        self._turn = 0
        self._points: NDArray[np.float64] = np.empty((0, len(self.dimensions)))
        self._values: NDArray[np.float64] = np.empty((0, self.objectives))

    def _ask(self) -> list[Genome]:
        draws = stream(self.seed, "around", self._turn)
        low = np.array([item.low for item in self.dimensions])
        high = np.array([item.high for item in self.dimensions])
        if not len(self._points):
            return [*draws.uniform(low, high, size=(self.population, len(low)))]
        best = self._points[front(self._values)]
        chosen = best[draws.integers(len(best), size=self.population)]
        return [*np.clip(chosen + 0.2 * (high - low) * draws.standard_normal(chosen.shape), low, high)]

    def _tell(self, genomes: list[Genome], fitness: NDArray[np.float64]) -> None:
        self._turn += 1
        self._points = np.vstack([self._points, *genomes])
        self._values = np.vstack([self._values, fitness])


AROUND = {"around": "helpers.several:Around"}
"""To be registered among the algorithms."""

_TEXT = {
    "output_type": "generate_until",
    "doc_to_text": "Question: {{question}} Answer:",
    "doc_to_target": "{{choices[answer]}}",
    "generation_kwargs": {"until": ["a"], "max_gen_toks": 6, "do_sample": False},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
_CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "Question: {{question}} Answer:",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{answer}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
KINDS = {"north": _CHOICE, "south": _CHOICE, "text": _TEXT}
"""Two tasks of choices and one of generated text."""


def write_tasks(folder: Path, *, items: int = 24) -> Path:
    """A folder with the three tasks and their documents, others for each task."""
    folder.mkdir(parents=True)
    for name, settings in KINDS.items():
        draws = random.Random(name)
        files = {split: str(folder / f"{name}-{split}.jsonl") for split in ("validation", "test")}
        for split, file in files.items():
            rows = []
            for number in range(items):
                question = f"{name} {split} {number}: {' '.join(draws.choices(WORDS, k=5))}?"
                rows.append({"question": question, "choices": draws.sample(WORDS, 3), "answer": draws.randrange(3)})
            Path(file).write_text("".join(json.dumps(row) + "\n" for row in rows))
        task = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": files},
            "validation_split": "validation",
            "test_split": "test",
            "metadata": {"version": 1.0},
            **settings,
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))
    return folder


def write_experiment(
    path: Path,
    models: dict[str, Path],
    tasks: Path,
    *,
    of: tuple[str, ...] = ("north", "south"),
    benchmark: dict[str, Any] | None = None,
    **search: Any,
) -> Config:
    """A search over some of the tasks; the other arguments are keys of the sections."""
    settings = {"algorithm": "around", "evaluations": 18, "population": 6, "scan": 3, "shortlist": 2, **search}
    changes = {"search": settings, "benchmark": {"tasks": list(of), **(benchmark or {})}}
    return Config.from_file(write_config(path, models, tasks, **changes))
