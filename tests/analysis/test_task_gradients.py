"""Gradients on a config's tasks, against one step of gradient descent on right answers that are read here by hand."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from evomerge.analysis.analyse import analyse
from evomerge.config.config import Config
from evomerge.errors import BenchmarkError, ConfigError
from helpers.classifiers import LABELS, write_family, write_texts
from helpers.classifiers import write_config as write_labels_config
from helpers.search import write_config, write_task

SPLITS = {
    "search": "validation",
    "validation": {"split": "test", "fraction": 0.5},
    "test": {"split": "test", "fraction": 0.5},
}
WRITTEN = {
    "output_type: multiple_choice": "output_type: generate_until",
    "tiny_choice": "written",
    'doc_to_choice: "{{choices}}"': "generation_kwargs: {until: ['?'], max_gen_toks: 8}",
    'doc_to_target: "{{answer}}"': 'doc_to_target: "{{choices[(answer + 1) % 3]}}"',
    "metric: acc": "metric: exact_match",
}


def one_step(auto: Any, base: Path, out: Path, loss: Callable[[Any, Any], Tensor]) -> Path:
    model, tokenizer = auto.from_pretrained(base, dtype=torch.float32), AutoTokenizer.from_pretrained(base)
    loss(model, tokenizer).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.01 * parameter.grad
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out


def answered(rows: list[dict[str, Any]], next_choice: int) -> Callable[[Any, Any], Tensor]:
    """The mean loss per token of answers, which are the right choices or those after them."""

    def loss(model: Any, tokenizer: Any) -> Tensor:
        total, count = torch.zeros(()), 0
        for row in rows:
            prompt = f"Question: {row['question']} Answer:"
            answer = f" {row['choices'][(row['answer'] + next_choice) % 3]}"
            start = len(tokenizer(prompt)["input_ids"])
            tokens = torch.tensor([tokenizer(prompt + answer)["input_ids"]])
            logs = torch.log_softmax(model(input_ids=tokens).logits[0, start - 1 : -1], dim=-1)
            total = total - logs.gather(1, tokens[0, start:, None]).sum()
            count += tokens.shape[1] - start
        return total / count

    return loss


@pytest.mark.slow
def test_after_one_step_on_right_answers_a_task_vector_is_the_negative_gradient(
    tmp_path: Path, tiny_llama: dict[str, Path]
) -> None:
    tasks, base = write_task(tmp_path / "tasks", items=6), tiny_llama["base"]
    text = (tasks / "tiny_choice.yaml").read_text()
    for old, new in WRITTEN.items():
        assert old in text
        text = text.replace(old, new)
    (tasks / "written.yaml").write_text(text)
    rows = [json.loads(line) for line in (tasks / "validation.jsonl").read_text().splitlines()]
    models = {"base": base} | {
        name: one_step(AutoModelForCausalLM, base, tmp_path / name, answered(rows, place))
        for place, name in enumerate(("chosen", "wrote"))
    }
    benchmark = {"tasks": ["tiny_choice", "written"], "splits": SPLITS}
    config = Config.from_file(write_config(tmp_path / "experiment.yaml", models, tasks, benchmark=benchmark))
    found = analyse(config, tasks=True, spectra="none").gradients
    assert found is not None
    assert found.texts == ("tiny_choice", "written")
    np.testing.assert_allclose(np.diagonal(found.descent), 1.0, atol=1e-4)
    assert found.descent[0, 1] < 0.99
    assert "6 of tiny_choice, 6 of written" in found.notes[-1]


def test_right_labels_are_answers_too_and_a_single_one_is_refused(tmp_path: Path) -> None:
    base = write_family(tmp_path, "bert")["base"]
    rows = list(csv.DictReader(write_texts(tmp_path / "texts.csv", 10).read_text().splitlines()))

    def loss(model: Any, tokenizer: Any) -> Tensor:
        losses = [
            model.eval()(
                **tokenizer(row["sentence"], return_tensors="pt"), labels=torch.tensor([LABELS.index(row["label"])])
            ).loss
            for row in rows
        ]
        return torch.stack(losses).mean()

    expert = one_step(AutoModelForSequenceClassification, base, tmp_path / "expert", loss)

    def config(rows: list[dict[str, str]]) -> Config:
        files = {"search": rows, "rest": [{"sentence": f"no {number}", "label": "sad"} for number in range(4)]}
        for name, own in files.items():
            (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, own)))
        data = {name: str(tmp_path / f"{name}.jsonl") for name in files}
        rest = {"split": "rest", "fraction": 0.5}
        benchmark = {
            "labels": {"data": data, "text": "sentence"},
            "splits": {"search": "search", "validation": rest, "test": rest},
        }
        models = {"base": base, "a": expert, "b": expert}
        return Config.from_file(write_labels_config(tmp_path / "experiment.yaml", models, benchmark))

    found = analyse(config(rows), tasks=True, spectra="none").gradients
    assert found is not None
    np.testing.assert_allclose(found.descent, 1.0, atol=1e-3)
    with pytest.raises(BenchmarkError, match="all 10 search items have the label 'glad'"):
        analyse(config([{**row, "label": "glad"} for row in rows]), tasks=True, spectra="none")


def test_without_right_answers_or_a_config_tasks_are_refused(tmp_path: Path, tiny_llama: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="need a config"):
        analyse([*tiny_llama.values()], tasks=True)
    (tmp_path / "lengths.py").write_text(
        "def items():\n    return list(range(20))\n\n\ndef f(model, items):\n    ...\n"
    )
    path = write_config(tmp_path / "experiment.yaml", tiny_llama, tmp_path)
    benchmark = {"function": {"call": "lengths:f", "folder": str(tmp_path)}}
    config = Config.model_validate({**Config.from_file(path).model_dump(), "benchmark": benchmark})
    with pytest.raises(BenchmarkError, match="no right answers"):
        analyse(config, tasks=True)
