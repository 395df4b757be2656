"""What a model is trained on: examples from rows, those that are held out, and how they become batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from evomerge.errors import TuningError
from evomerge.models.checkpoint import Checkpoint
from evomerge.tuning import answers, labelled, texts
from evomerge.tuning.rows import read
from evomerge.tuning.settings import TuneData, TuneSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Examples of one kind.

    Attributes:
        train: learnt from.
        validation: held out; may be none.
        how: what is held out was chosen, in words.
        labels: names in the model's order; none for text that is continued.
        answers: whether they are texts with answers, of which these alone are learnt.
    """

    train: Sequence[Any]
    validation: Sequence[Any]
    how: str
    labels: tuple[str, ...] = ()
    answers: bool = False

    @property
    def unit(self) -> str:
        """What they are, in words."""
        if self.answers:
            return "texts with answers"
        return "labelled items" if self.labels else "blocks of text"


def prepare(data: TuneData, settings: TuneSettings, base: Checkpoint) -> Examples:
    """Read the data and make the model's inputs, as far as memory suffices for all of them.

    Raises: TuningError, BenchmarkError, CheckpointError for data that the model can't learn from.
    """
    rows, given = read(data)
    if data.answer is not None:
        learnt, held_out, how = answers.encoded(rows, given, data, settings, base)
        return Examples(train=learnt, validation=held_out, how=how, answers=True)
    if data.label is None:
        train, held, how = texts.packed(rows, given, data, settings, base)
        return Examples(train=_blocks(train), validation=_blocks(held), how=how)
    names = labelled.label_names(rows, data, base)
    items, held_items, how = labelled.encoded(rows, given, data, settings, base, names)
    padding = base.config.get("pad_token_id")
    if data.image is None and padding is None and settings.batch > 1 and _decodes(base):
        raise TuningError(
            f"{base.folder}: a decoder tells a text's end by its padding, and config.json has no pad_token_id; set it "
            "there, or take --batch 1 with more --accumulation"
        )
    return Examples(train=items, validation=held_items, how=how, labels=names)


def batches(data: TuneData, model: Any, dtype: torch.dtype) -> Callable[[Sequence[Any]], Any]:
    """What puts examples into a batch."""
    if data.label is None:
        return texts.TextBatch()
    return labelled.LabelledBatch(getattr(model.config, "pad_token_id", None), dtype)


def _blocks(blocks: Sequence[texts.Block]) -> list[dict[str, Any]]:
    return [{"input_ids": block} for block in blocks]


def _decodes(base: Checkpoint) -> bool:
    """Whether transformers' class takes the last token that isn't padding for the text's end."""
    from evomerge.models.transformers_settings import settings_of

    return getattr(settings_of(base.config), "pad_token_id", None) is None
