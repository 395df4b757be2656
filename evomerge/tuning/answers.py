"""Texts with answers: a row is a prompt and what is to follow it, and the loss is that of the answer's tokens alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from evomerge.errors import TuningError
from evomerge.models.checkpoint import Checkpoint
from evomerge.tuning.rows import Row, hold_out
from evomerge.tuning.settings import TuneData, TuneSettings
from evomerge.tuning.texts import IGNORED, block_length, encode

Answered = dict[str, list[int]]


def encoded(
    rows: Sequence[Row], given: Sequence[Row] | None, data: TuneData, settings: TuneSettings, base: Checkpoint
) -> tuple[list[Answered], list[Answered], str]:
    """Tokens and labels to train on, those that are held out, and how these were chosen, in words.

    Equal texts are on the same side, whatever their answers.

    Raises: TuningError for a text that is too long with its answer; CheckpointError if the base has no tokenizer.
    """
    tokenizer, length = base.tokenizer(), block_length(settings, base)

    def make(chosen: Sequence[Row]) -> list[Answered]:
        return [_encoded(tokenizer, row, data, length) for row in chosen]

    if given is not None:
        return make(rows), make(given), "data of their own"
    kept, held = hold_out([row.values[data.columns[0]] for row in rows], settings.validation, settings.seed)
    return make([rows[place] for place in kept]), make([rows[place] for place in held]), "texts drawn at random"


class AnswerBatch:
    """Puts texts with answers into a batch, shorter ones filled up with what isn't learnt."""

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """The model's arguments; padding follows a text's end, where nothing looks at it."""
        width = max(len(item["input_ids"]) for item in items)
        rows = [(list(item["input_ids"]), list(item["labels"])) for item in items]
        return {
            "input_ids": torch.tensor([tokens + tokens[-1:] * (width - len(tokens)) for tokens, _ in rows]),
            "labels": torch.tensor([labels + [IGNORED] * (width - len(labels)) for _, labels in rows]),
        }


def _encoded(tokenizer: Any, row: Row, data: TuneData, length: int) -> Answered:
    """The tokens of text and answer as one, and of these the answer's, from the first that the text alone hasn't."""
    text, answer = (row.values[column] for column in data.columns)
    tokens = encode(tokenizer, text + answer)
    alone = list(tokenizer(text, verbose=False)["input_ids"])
    end = tokenizer.eos_token_id
    alone = alone[:-1] if alone[-1:] == [end] else alone
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(tokens, alone, strict=False)))
    # A first token has nothing before it to be predicted from.
    start = max(1, same)
    if len(tokens) > length:
        raise TuningError(
            f"{row.place}: the text and its answer are {len(tokens)} tokens, and {length} are taken; leave it out, or "
            "give a larger length"
        )
    return {"input_ids": tokens, "labels": [IGNORED] * start + tokens[start:]}
