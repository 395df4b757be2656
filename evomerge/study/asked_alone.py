"""What a benchmark may know of one model of a search that is asked by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.models.checkpoint import Checkpoint
from evomerge.models.tokenizer_differences import has_tokenizer


@dataclass(frozen=True)
class AskedAlone:
    """What a benchmark may know of a model that is asked by itself: its own, and the base's where it lacks it."""

    model: Checkpoint
    base: Checkpoint

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return self.model.folder

    @property
    def config(self) -> Mapping[str, Any]:
        """Contents of its config.json, with the base's names of labels, which are those of the data."""
        names = {key: self.base.config[key] for key in ("id2label", "label2id") if key in self.base.config}
        return {**self.model.config, **names}

    def tokenizer(self) -> Any:
        """Its tokenizer, with the base's chat template if it has none; the base's if it has no tokenizer."""
        if not has_tokenizer(self.model):
            return self.base.tokenizer()
        made = self.model.tokenizer()
        if getattr(made, "chat_template", None) is None and has_tokenizer(self.base):
            made.chat_template = getattr(self.base.tokenizer(), "chat_template", None)
        return made
