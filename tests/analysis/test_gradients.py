"""Gradients against autograd on transformers' own model, and against task vectors of one step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge.analysis.gradients import Gradients, loss_gradients, text_references
from evomerge.errors import BenchmarkError
from evomerge.models.open import Models, open_models
from evomerge.recipe.sources import ModelReference, Sources
from evomerge.testing.models import tiny_checkpoint

TEXTS = {
    "english": "The river rises in the hills and runs past the market town down to the sea. " * 3,
    "swahili": "Watoto wanasoma vitabu shuleni kila siku asubuhi na jioni. " * 3,
}


def on_texts(models: Models, files: dict[str, Path]) -> Gradients:
    return loss_gradients(models, text_references(files, models.base)[0])


def one_step(base: Path, out: Path, text: str, rate: float = 0.01) -> tuple[Path, float]:
    """The base after one full-batch step of gradient descent on a text, and the length of the gradient."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokens = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
    model(input_ids=tokens, labels=tokens).loss.backward()
    square = 0.0
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            square += float(parameter.grad.double().square().sum())
            parameter -= rate * parameter.grad
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out, square**0.5


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral"])
def test_after_one_step_a_task_vector_is_the_negative_gradient(tmp_path: Path, architecture: str) -> None:
    base = tiny_checkpoint(tmp_path / "base", architecture)
    steps = {name: one_step(base, tmp_path / name, text) for name, text in TEXTS.items()}
    files = {name: tmp_path / f"{name}.txt" for name in TEXTS}
    for name, path in files.items():
        path.write_text(TEXTS[name], encoding="utf-8")
    experts = {name: ModelReference(path=str(folder)) for name, (folder, _) in steps.items()}
    models = open_models(Sources(base=ModelReference(path=str(base)), experts=experts))
    found = on_texts(models, files)
    np.testing.assert_allclose(np.diagonal(found.descent), 1.0, atol=1e-4)
    np.testing.assert_allclose(found.norms[0], [norm for _, norm in steps.values()], rtol=1e-4)
    # Two task vectors of one step lie to each other as the gradients do.
    assert found.descent[0, 1] == pytest.approx(found.cosines[0, 0, 1], abs=1e-3)
    one, two = found.norms[0]
    squared = one**2 + two**2 - 2 * one * two * found.cosines[0, 0, 1]
    assert found.distances[0, 0, 1] == pytest.approx(squared**0.5, rel=1e-6)
    assert found.losses[1, 0] < found.losses[0, 0]
    assert found.losses[2, 1] < found.losses[0, 1]


def test_an_empty_text_is_refused(tmp_path: Path, tiny_llama: dict[str, Path]) -> None:
    (tmp_path / "empty.txt").write_text("")
    experts = {"a": ModelReference(path=str(tiny_llama["a"]))}
    models = open_models(Sources(base=ModelReference(path=str(tiny_llama["base"])), experts=experts))
    with pytest.raises(BenchmarkError, match=r"empty\.txt"):
        on_texts(models, {"empty": tmp_path / "empty.txt"})
