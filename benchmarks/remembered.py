"""A real search over tiny models whose answers are remembered, so that it can be run thousands of times."""

from __future__ import annotations

import gc
import json
import random
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import yaml

from evomerge.config.config import Config
from evomerge.execute.base import Job, Outcome
from evomerge.run.observer import SilentObserver
from evomerge.run.records import TrialRecord
from evomerge.score.requests import Request
from evomerge.study import session
from evomerge.study.search import search
from evomerge.testing.runs import essence

WORDS = ("goat", "river", "book", "rain", "market", "three", "four", "school", "morning", "sea", "hill", "town")
CHOICE = """
task: reliable_choice
dataset_path: json
dataset_kwargs: {{data_files: {{validation: {folder}/choice_validation.jsonl, test: {folder}/choice_test.jsonl}}}}
validation_split: validation
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}} Answer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1.0}}
"""
TEXT = """
task: reliable_text
dataset_path: json
dataset_kwargs: {{data_files: {{validation: {folder}/text_validation.jsonl, test: {folder}/text_test.jsonl}}}}
validation_split: validation
test_split: test
output_type: generate_until
doc_to_text: "Repeat: {{{{question}}}} ->"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 6, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}}]
metadata: {{version: 1.0}}
"""
INTERRUPTED_AFTER = 13


class Remembered:
    """A search with remembered answers, in this process, and its undisturbed run."""

    def __init__(self, folder: Path, *, evaluations: int, block: int | None) -> None:
        self.folder = folder
        self.config = _config(folder, evaluations, block)
        self._experiment = session.open_experiment(self.config)
        self._answers: dict[tuple[str, str, int | None], Outcome] = {}
        self._waiting: list[tuple[str, Sequence[Request], Sequence[Sequence[int]] | None]] = []
        self._executor = session.make_executor(
            self.config.execution, session.worker_settings(self.config, dtype=self._experiment.dtype)
        )
        session.make_executor = lambda execution, settings: self  # type: ignore[assignment]
        session.open_experiment = lambda config, **more: self._experiment
        self.finished, self.interrupted = folder / "finished", folder / "interrupted"
        search(self.config, self.finished, observer=_CopyAfter(INTERRUPTED_AFTER, self.finished, self.interrupted))
        self.right = essence(self.finished)
        self._waiting.clear()
        # Forked processes then share this memory instead of copying it.
        gc.collect()
        gc.freeze()
        gc.disable()

    workers = 1

    def add_requests(
        self, split: str, requests: Sequence[Request], blocks: Sequence[Sequence[int]] | None = None
    ) -> None:
        """Make them known to the real executor, once an answer is asked for that isn't remembered."""
        self._waiting.append((split, requests, blocks))

    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[Job, Outcome]]:
        """Answers from memory, or from the real executor the first time."""
        for job in jobs:
            assert job is not None
            key = (job.recipe.key(), job.split, job.blocks)
            if key not in self._answers:
                while self._waiting:
                    self._executor.add_requests(*self._waiting.pop(0))
                ((_, self._answers[key]),) = self._executor.run([job])
            yield job, self._answers[key]

    def close(self) -> None:
        """Stays open for the next search."""


class _CopyAfter(SilentObserver):
    """Copies a run directory after so many evaluations."""

    def __init__(self, after: int, source: Path, target: Path) -> None:
        self._left, self._source, self._target = after, source, target

    def trial(self, record: TrialRecord) -> None:
        """Copy it when it is time."""
        self._left -= 1
        if self._left == 0:
            shutil.copytree(self._source, self._target)


def _config(folder: Path, evaluations: int, block: int | None) -> Config:
    """Tiny models, and two tasks over documents drawn from a seed."""
    from evomerge.testing.models import tiny_family

    models, tasks, generator = tiny_family(folder / "models", scale=0.08), folder / "tasks", random.Random(7)
    tasks.mkdir()
    for split, items in (("validation", 24), ("test", 12)):
        choices = [
            {"question": f"{split} {number} {generator.choice(WORDS)}?", "choices": generator.sample(WORDS, 3)}
            for number in range(items)
        ]
        choices = [{**one, "answer": generator.randrange(3)} for one in choices]
        texts = [{"question": f"{split} {number}", "answer": generator.choice(WORDS)} for number in range(8)]
        for name, documents in (("choice", choices), ("text", texts)):
            (tasks / f"{name}_{split}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in documents))
    (tasks / "choice.yaml").write_text(CHOICE.format(folder=tasks))
    (tasks / "text.yaml").write_text(TEXT.format(folder=tasks))
    half = {"split": "validation", "fraction": 0.5}
    search_settings = {"evaluations": evaluations, "population": 8, "scan": 4, "shortlist": 3}
    data = {
        "models": {"base": str(models["base"]), "experts": {name: str(models[name]) for name in ("a", "b")}},
        "merge": {"method": "task_arithmetic"},
        "space": {"granularity": "layer"},
        "benchmark": {
            "include_path": str(tasks),
            "tasks": ["reliable_choice", "reliable_text"],
            "splits": {"search": half, "validation": half, "test": {"split": "test"}},
        },
        "search": {**search_settings, **({"block": block, "pruner": "median"} if block else {})},
        "execution": {"backend": "inline", "cpus_per_worker": 1, "dtype": "float32"},
    }
    return Config.from_yaml(yaml.safe_dump(data), where="reliability")
