"""The tasks on which `benchmarks/scoring.py` compares them."""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

CASES = {
    "choice0": {"kind": "choice", "shots": 0},
    "choice5": {"kind": "choice", "shots": 5},
    "choice5_same": {"kind": "choice", "shots": 5, "sampler": "first_n"},
    "generate": {"kind": "generate", "shots": 0},
    "generate5_same": {"kind": "generate", "shots": 5, "sampler": "first_n"},
}
"""lm-eval draws other examples for each question unless the task says `sampler: first_n`, as the `same` ones do."""


METRICS = {"choice": "acc,none", "generate": "exact_match,none"}


def write_task(folder: Path, case: str, options: argparse.Namespace) -> None:
    """A local lm-eval task; mergekit and ours read its test split."""
    generator = random.Random(0)
    words = ["goat", "river", "book", "rain", "market", "three", "four", "school", "morning", "sea", "hill"]
    splits = {"train": 8, "validation": 8, "test": options.items}
    for split, count in splits.items():
        with (folder / f"{split}.jsonl").open("w") as file:
            for number in range(count):
                length = generator.randint(options.words // 2, options.words * 3 // 2)
                question = f"{split} {number} " + " ".join(generator.choices(words, k=length))
                choices = [" ".join(generator.choices(words, k=2)) for _ in range(4)]
                file.write(json.dumps({"question": question, "choices": choices, "answer": number % 4}) + "\n")
    settings = CASES[case]
    task = {
        "task": case,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {split: str(folder / f"{split}.jsonl") for split in splits}},
        "training_split": "train",
        "validation_split": "validation",
        "test_split": "test",
        "fewshot_split": "train",
        "num_fewshot": settings["shots"],
        "doc_to_text": "Question: {{question}} Answer:",
        "metadata": {"version": 1.0},
    }
    if "sampler" in settings:
        task["fewshot_config"] = {"sampler": settings["sampler"]}
    if settings["kind"] == "choice":
        task |= {
            "output_type": "multiple_choice",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "{{answer}}",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        }
    else:
        task |= {
            "output_type": "generate_until",
            "doc_to_target": "{{choices[answer]}}",
            "generation_kwargs": {"until": ["\n", "m"], "max_gen_toks": options.new_tokens, "do_sample": False},
            "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        }
    (folder / f"{case}.yaml").write_text(json.dumps(task))
