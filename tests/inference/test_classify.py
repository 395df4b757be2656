"""Batches of classification requests answered as transformers answers each input alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers

from evomerge.inference.classify import Classifier
from evomerge.score.requests import ClassificationRequest, Request

CPU = torch.device("cpu")


def requests(count: int = 14) -> list[Request]:
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 30, size=count)
    rows = [generator.integers(3, 60, size=length) for length in lengths]
    return [ClassificationRequest({"input_ids": row, "attention_mask": np.ones_like(row)}) for row in rows]


def model(kind: str, padding: int | None) -> Any:
    sizes: dict[str, Any] = {"vocab_size": 64, "num_labels": 4, "pad_token_id": padding, "initializer_range": 0.5}
    torch.manual_seed(0)
    if kind == "bert":
        config: Any = transformers.BertConfig(
            **sizes, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
        )
    else:
        config = transformers.LlamaConfig(
            **sizes, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
        )
    return transformers.AutoModelForSequenceClassification.from_config(config).eval()


@pytest.mark.parametrize(("kind", "padding"), [("bert", 0), ("bert", 5), ("llama", 0), ("llama", None)])
@pytest.mark.parametrize("tokens", [1, 64, 10_000])
def test_batches_do_not_change_answers(kind: str, padding: int | None, tokens: int) -> None:
    live, asked = model(kind, padding), requests()
    classifier = Classifier(live, device=CPU, batch_tokens=tokens)
    found = classifier.respond(classifier.plan(asked))
    for request, response in zip(asked, found, strict=True):
        with torch.no_grad():
            alone = {name: torch.from_numpy(row)[None] for name, row in request.inputs.items()}  # type: ignore[union-attr]
            expected = live(**alone).logits[0].log_softmax(-1)
        np.testing.assert_allclose(response.log_probabilities, expected, atol=1e-5)


def test_blocks_give_the_answers_of_the_whole_in_request_order() -> None:
    classifier, asked = Classifier(model("bert", 0), device=CPU, batch_tokens=64), requests()
    whole = classifier.respond(classifier.plan(asked))
    blocks = [[5, 1, 12], [0, 2, 3, 4], [6, 7, 8, 9, 10, 11, 13]]
    plan = classifier.plan(asked, blocks=blocks)
    for number, places in enumerate(blocks):
        part = classifier.respond(plan, blocks=[number])
        expected = [whole[place].log_probabilities for place in sorted(places)]
        np.testing.assert_allclose([one.log_probabilities for one in part], expected, atol=1e-5)


def test_time_that_is_up_is_said() -> None:
    classifier = Classifier(model("bert", 0), device=CPU)
    with pytest.raises(TimeoutError):
        classifier.respond(classifier.plan(requests()), deadline=0.0)
