"""Texts with answers: a row is a prompt and what is to follow it, and the loss is that of the answer's tokens alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

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

    train, held, how = hold_out(rows, given, lambda row: row.values[data.columns[0]], settings, "texts drawn at random")
    return make(train), make(held), how


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
