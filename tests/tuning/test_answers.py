"""Of a text with an answer the answer alone is learnt, with the loss that transformers itself gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import evomerge
from evomerge.errors import ConfigError, TuningError
from evomerge.testing.models import tiny_checkpoint
from helpers.tuning import tensors

pytestmark = pytest.mark.slow

ROWS = [
    {"prompt": "Mvua ilinyesha usiku kucha.\nTopic:", "answer": " weather"},
    {"prompt": "The farmer sells five goats at the market.\nTopic:", "answer": " trade"},
    {"prompt": "Watoto wanasoma vitabu.\nTopic:", "answer": " school and books"},
    {"prompt": "The river runs down to the sea.\nTopic:", "answer": " geography"},
]
COLUMNS = {"text": "prompt", "answer": "answer"}


def rows(path: Path, items: list[dict[str, str]]) -> Path:
    path.write_text("\n".join(map(json.dumps, items)), encoding="utf-8")
    return path


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_step_is_the_gradient_of_transformers_own_loss_with_the_text_masked(
    tmp_path: Path, architecture: str, accumulation: int
) -> None:
    dropout = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0) if architecture == "gpt2" else {}
    base = tiny_checkpoint(tmp_path / "base", architecture, **dropout)
    made = evomerge.tune(
        base, rows(tmp_path / "rows.jsonl", ROWS), tmp_path / "out", **COLUMNS, steps=1, optimizer="sgd", clip=0.0,
        warmup=0.0, schedule="constant", learning_rate=0.5, validation=0.0, batch=4 // accumulation,
        accumulation=accumulation,
    )  # fmt: skip
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    total, count = torch.zeros(()), 0
    for row in ROWS:
        whole = [*tokenizer(row["prompt"] + row["answer"]).input_ids, tokenizer.eos_token_id]
        start = len(tokenizer(row["prompt"]).input_ids)
        labels = torch.tensor([[-100] * start + whole[start:]])
        total = total + model(torch.tensor([whole]), labels=labels).loss * (len(whole) - start)
        count += len(whole) - start
    loss = total / count
    loss.backward()
    assert made.losses[1] == pytest.approx(float(loss.detach()), rel=1e-5)
    found = tensors(made.folder)
    for name, weight in model.named_parameters():
        if name in found:
            torch.testing.assert_close(found[name], (weight - 0.5 * weight.grad).detach(), rtol=1e-4, atol=1e-6)


def test_answers_are_learnt_and_equal_texts_are_held_out_together(tmp_path: Path) -> None:
    base = tiny_checkpoint(tmp_path / "base")
    items = [{**ROWS[0], "prompt": f"{number // 2}. {ROWS[0]['prompt']}"} for number in range(20)]
    data = rows(tmp_path / "rows.jsonl", items)
    made = evomerge.tune(base, data, tmp_path / "out", **COLUMNS, steps=20, learning_rate=3e-3, validation=0.25)
    assert made.measures[20]["loss"] < made.measures[0]["loss"] / 2
    assert (made.train, made.validation) == (16, 4)
    assert "16 texts with answers" in (made.folder / "README.md").read_text(encoding="utf-8")


def test_what_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    base = tiny_checkpoint(tmp_path / "base")
    long = rows(tmp_path / "long.jsonl", [*ROWS, {"prompt": "maji " * 50, "answer": " water"}])
    with pytest.raises(TuningError, match=r"row 4: the text and its answer are \d+ tokens, and 48 are taken"):
        evomerge.tune(base, long, tmp_path / "out", **COLUMNS, steps=1, length=48)
    empty = rows(tmp_path / "empty.jsonl", [*ROWS, {"prompt": "maji", "answer": " "}])
    with pytest.raises(TuningError, match="row 4: answer is empty"):
        evomerge.tune(base, empty, tmp_path / "out", **COLUMNS, steps=1)
    with pytest.raises(ConfigError, match="answer follows a text"):
        evomerge.tune(base, long, tmp_path / "out", answer="answer", steps=1)
    (tmp_path / "plain.txt").write_text("maji", encoding="utf-8")
    with pytest.raises(TuningError, match="plain text, which has no column 'answer'"):
        evomerge.tune(base, tmp_path / "plain.txt", tmp_path / "out", **COLUMNS, steps=1)
