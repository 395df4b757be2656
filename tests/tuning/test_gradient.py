"""Tuning against gradient descent by hand: a step on all of the data at once is −η∇L.

In float64 throughout for a classifier; transformers takes the loss of a language model, and a Llama its norms, in
float32, whatever the model's format.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import evomerge
from evomerge.testing.models import tiny_checkpoint, tiny_tokenizer
from helpers.classifiers import classifier
from helpers.tuning import SENTENCES, tensors, write_rows

pytestmark = pytest.mark.slow

DESCENT: dict[str, Any] = {
    "optimizer": "sgd", "schedule": "constant", "warmup": 0.0, "clip": 0.0, "validation": 0.0, "batch": 1000,
}  # fmt: skip
RATE = 0.05
LENGTH = 32


def gradient(model: Any, loss: Any) -> dict[str, Tensor]:
    """The gradient of a loss of a model, by name."""
    model.zero_grad()
    torch.autograd.backward(loss(model))
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def text_loss(folder: Path, count: int) -> Any:
    """The mean over all tokens but the first of each block, of the blocks that were cut by hand."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens: list[int] = []
    for number in range(count):
        tokens += [*tokenizer(f"{number}. {SENTENCES[number % 4]}")["input_ids"], tokenizer.eos_token_id]
    blocks = [tokens[start : start + LENGTH] for start in range(0, len(tokens), LENGTH)]

    def loss(model: Any) -> Tensor:
        terms = []
        for block in blocks:
            row = torch.tensor([block])
            logits = model(row).logits[0, :-1]
            terms.append(functional.cross_entropy(logits, row[0, 1:], reduction="sum"))
        return torch.stack(terms).sum() / sum(len(block) - 1 for block in blocks)

    return loss


@pytest.mark.parametrize("accumulation", [1, 4])
def test_one_step_on_all_of_the_data_is_the_negative_gradient_times_the_rate(tmp_path: Path, accumulation: int) -> None:
    base = tiny_checkpoint(tmp_path / "base", dtype="float64")
    rows, loss = write_rows(tmp_path / "rows.jsonl", 12), text_loss(base, 12)
    batch = {"batch": 4, "accumulation": 4} if accumulation > 1 else {}
    made = evomerge.tune(
        base, rows, tmp_path / "out", steps=1, learning_rate=RATE, length=LENGTH, **{**DESCENT, **batch}
    )
    assert 8 < made.train <= 16
    expected = gradient(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64), loss)
    start, end = tensors(base), tensors(made.folder)
    for name, found in expected.items():
        tau = end[name] - start[name]
        assert (tau + RATE * found).norm() <= 1e-6 * (RATE * found).norm(), name
    assert made.losses[1] == pytest.approx(loss(AutoModelForCausalLM.from_pretrained(base)).item(), rel=1e-5)


def test_several_steps_are_gradient_descent_and_leave_the_first_gradient_by_the_second_order(tmp_path: Path) -> None:
    base = tiny_checkpoint(tmp_path / "base", dtype="float64")
    rows, loss = write_rows(tmp_path / "rows.jsonl", 12), text_loss(base, 12)
    start, errors = tensors(base), []
    for rate in (2e-2, 1e-2):
        made = evomerge.tune(
            base, rows, tmp_path / f"out-{rate}", steps=3, learning_rate=rate, length=LENGTH, **DESCENT
        )
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
        first = gradient(model, loss)
        for _ in range(3):
            found = gradient(model, loss)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter -= rate * found[name]
        end = tensors(made.folder)
        by_hand = dict(model.named_parameters())
        assert all(torch.allclose(end[name], by_hand[name], rtol=0, atol=1e-7) for name in end)
        gaps = [(end[name] - start[name] + 3 * rate * first[name]).norm() ** 2 for name in first]
        errors.append(float(torch.stack(gaps).sum().sqrt()))
    # What separates the task vector from the sum of the first gradients falls with the square of the rate.
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.1)


def test_a_step_of_a_classifier_is_the_gradient_of_its_mean_cross_entropy(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = classifier("distilbert").double().eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.config.dropout = model.config.attention_dropout = model.config.seq_classif_dropout = 0.0
    base = tmp_path / "base"
    model.save_pretrained(base)
    tiny_tokenizer().save_pretrained(base)
    texts, labels = ["a goat", "the river and the sea are wide", "rain", "market"], ["glad", "sad", "calm", "sad"]
    lines = ["sentence,label", *(f"{text},{label}" for text, label in zip(texts, labels, strict=True))]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    made = evomerge.tune(
        base, tmp_path / "rows.csv", tmp_path / "out",
        text="sentence", label="label", steps=1, learning_rate=RATE, **DESCENT,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(base)
    names = ["calm", "glad", "sad"]

    def loss(model: Any) -> Tensor:
        logits = [model(torch.tensor([tokenizer(text)["input_ids"]])).logits[0] for text in texts]
        pairs = zip(logits, map(names.index, labels), strict=True)
        terms = [functional.cross_entropy(row, torch.tensor(right)) for row, right in pairs]
        return torch.stack(terms).mean()

    expected = gradient(AutoModelForSequenceClassification.from_pretrained(base, dtype=torch.float64), loss)
    start, end = tensors(base), tensors(made.folder)
    for name, found in expected.items():
        tau = end[name] - start[name]
        assert (tau + RATE * found).norm() <= 1e-10 * (RATE * found).norm() + 1e-15, name
