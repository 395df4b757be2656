"""Requests become tokens as lm-eval makes them, and a question is encoded once, however many answers it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoConfig, AutoTokenizer

from evomerge.benchmark.lm_eval.prompts import Encoder
from evomerge.score.requests import LogLikelihoodRequest

ANSWERS = (" goat", " river", " three markets")


def test_a_question_is_encoded_once_however_many_answers_it_has(
    tiny_llama: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []
    encode = HFLM.tok_encode

    def counted(model: HFLM, text: str, *arguments: Any, **settings: Any) -> Any:
        encoded.append(text)
        return encode(model, text, *arguments, **settings)

    monkeypatch.setattr(HFLM, "tok_encode", counted)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama["base"])
    encoder = Encoder(tokenizer, AutoConfig.from_pretrained(tiny_llama["base"]), max_length=None)
    questions = ("What eats grass?", "What flows?", "What eats grass?")
    for question in questions:
        for index, answer in enumerate(ANSWERS):
            context, whole = tokenizer.encode(question), tokenizer.encode(question + answer)
            request = Instance("loglikelihood", {}, (question, answer), index)
            expected = LogLikelihoodRequest(context=tuple(context), continuation=tuple(whole[len(context) :]))
            assert encoder.encode(request) == [expected]
    assert [encoded.count(question) for question in questions] == [2, 1, 2]
    encoder.tok_encode("theirs").clear()
    assert encoder.tok_encode("theirs") == tokenizer.encode("theirs")
