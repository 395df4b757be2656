"""The lm-eval tasks on which `scoring.py` compares ways of scoring a candidate.

Knows how a task is written down, not who is asked it.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

WORDS = ("goat", "river", "book", "rain", "market", "three", "four", "school", "morning", "sea", "hill")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One kind of task."""

    kind: Literal["choice", "generate"]
    """Four answers to choose from, or one to write."""
    shots: int
    """Examples before each question."""
    same: bool = False
    """Whether all questions have the same examples; lm-eval draws others for each one unless a task says so."""
    letters: bool = False
    """Whether an answer is one letter, a token or two, instead of two words."""

    @property
    def metric(self) -> str:
        """What is compared, by lm-eval's name."""
        return {"choice": "acc,none", "generate": "exact_match,none"}[self.kind]


CASES = {
    "choice0": Case(kind="choice", shots=0),
    "choice0_letter": Case(kind="choice", shots=0, letters=True),
    "choice5": Case(kind="choice", shots=5),
    "choice5_same": Case(kind="choice", shots=5, same=True),
    "generate": Case(kind="generate", shots=0),
    "generate5_same": Case(kind="generate", shots=5, same=True),
}


def write_task(folder: Path, name: str, *, items: int, words: int, new_tokens: int) -> None:
    """Write a case as a local task with made-up questions; candidates are scored on its test split.

    Args:
        folder: where the task and its questions go.
        name: of the case, and of the task.
        items: questions in the test split.
        words: of a question, on average.
        new_tokens: most tokens generated for a question.
    """
    counts = {"train": 8, "validation": 8, "test": items}
    generator = random.Random(0)
    for split, count in counts.items():
        lines = [
            json.dumps(_question(split, number, words, CASES[name].letters, generator)) + "\n"
            for number in range(count)
        ]
        (folder / f"{split}.jsonl").write_text("".join(lines))
    case = CASES[name]
    task: dict[str, Any] = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {split: str(folder / f"{split}.jsonl") for split in counts}},
        "training_split": "train",
        "validation_split": "validation",
        "test_split": "test",
        "fewshot_split": "train",
        "num_fewshot": case.shots,
        "doc_to_text": "Question: {{question}} Answer:",
        "metadata": {"version": 1.0},
        "metric_list": [{"metric": case.metric.partition(",")[0], "aggregation": "mean", "higher_is_better": True}],
    }
    if case.same:
        task["fewshot_config"] = {"sampler": "first_n"}
    if case.kind == "choice":
        task |= {
            "output_type": "multiple_choice",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "{{answer}}",
        }
    else:
        task |= {
            "output_type": "generate_until",
            "doc_to_target": "{{choices[answer]}}",
            "generation_kwargs": {"until": ["\n", "m"], "max_gen_toks": new_tokens, "do_sample": False},
        }
    # YAML reads JSON.
    (folder / f"{name}.yaml").write_text(json.dumps(task))


def _question(split: str, number: int, words: int, letters: bool, generator: random.Random) -> dict[str, Any]:
    """A question with four answers; its number makes it different from all others."""
    length = generator.randint(words // 2, words * 3 // 2)
    question = f"{split} {number} " + " ".join(generator.choices(WORDS, k=length))
    choices = [" ".join(generator.choices(WORDS, k=2)) for _ in range(4)]
    if letters:
        choices = generator.sample("abcdefghijklmnopqrstuvwxyz", 4)
    return {"question": question, "choices": choices, "answer": number % 4}
