"""Text as blocks of tokens: documents one after another, each with its end, cut into pieces of one length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from evomerge.errors import TuningError
from evomerge.models.checkpoint import Checkpoint
from evomerge.tuning.rows import Row, hold_out
from evomerge.tuning.settings import TuneData, TuneSettings

IGNORED = -100
"""The label of a position that isn't learnt, as transformers has it."""
_LENGTH = 1024
_FEW_DOCUMENTS = 10

Block = list[int]


def block_length(settings: TuneSettings, base: Checkpoint) -> int:
    """Tokens of a block. Raises: TuningError if the model takes fewer than are asked for."""
    limit = base.positions
    if settings.length is None:
        return min(_LENGTH, limit or _LENGTH)
    if limit is not None and settings.length > limit:
        raise TuningError(
            f"length: blocks of {settings.length} tokens are longer than the {limit} positions that {base.folder} has"
        )
    return settings.length


def packed(
    rows: Sequence[Row], given: Sequence[Row] | None, data: TuneData, settings: TuneSettings, base: Checkpoint
) -> tuple[list[Block], list[Block], str]:
    """Blocks to train on, blocks that are held out, and how these were chosen, in words.

    Of few documents their last blocks are held out, of many whole documents.

    Raises: TuningError for text that makes fewer than two tokens; CheckpointError if the base has no tokenizer.
    """
    tokenizer, length, (column,) = base.tokenizer(), block_length(settings, base), data.columns

    def blocks(chosen: Sequence[Row]) -> list[Block]:
        return _cut([encode(tokenizer, row.values[column]) for row in chosen], length)

    if given is not None or len({row.values[column] for row in rows}) >= _FEW_DOCUMENTS:
        kept, held, how = hold_out(rows, given, lambda row: row.values[column], settings, "documents drawn at random")
        train, validation = blocks(kept), blocks(held)
    else:
        train, how = blocks(rows), "the last blocks of the text"
        count = min(round(settings.validation * len(train)), len(train) - 1)
        train, validation = train[: len(train) - count], train[len(train) - count :]
    if not train:
        raise TuningError(f"{rows[0].place}: the text is too short: a block has at least two tokens")
    return train, validation, how


class TextBatch:
    """Puts texts into a batch, shorter ones filled up with what isn't learnt; without labels every token is learnt."""

    def __call__(self, texts: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """The model's arguments; padding follows a text's end, where nothing looks at it."""
        rows = [list(text["input_ids"]) for text in texts]
        labels = [list(text.get("labels", text["input_ids"])) for text in texts]
        width = max(map(len, rows))
        return {
            "input_ids": torch.tensor([row + row[-1:] * (width - len(row)) for row in rows]),
            "labels": torch.tensor([row + [IGNORED] * (width - len(row)) for row in labels]),
        }


def encode(tokenizer: Any, text: str) -> list[int]:
    """A document's tokens with the tokenizer's own start, and its end."""
    tokens = list(tokenizer(text, verbose=False)["input_ids"])
    end = tokenizer.eos_token_id
    return tokens if end is None or tokens[-1:] == [end] else [*tokens, end]


def _cut(documents: Sequence[list[int]], length: int) -> list[Block]:
    stream = [token for document in documents for token in document]
    blocks = [stream[start : start + length] for start in range(0, len(stream), length)]
    # Of a single token nothing can be predicted.
    return [block for block in blocks if len(block) > 1]
