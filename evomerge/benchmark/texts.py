"""Texts as a classifier's inputs: token ids as the base's own tokenizer makes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.benchmark.base import BaseModel


class TextEncoder:
    """Token ids of one text or two."""

    def __init__(self, model: BaseModel, max_length: int | None) -> None:
        self._tokenizer = model.tokenizer()
        limits = [max_length, self._tokenizer.model_max_length, model.config.get("max_position_embeddings")]
        self._limit = min(limit for limit in limits if isinstance(limit, int))
        self.cut = 0
        """Items that lost their end."""

    def encode(self, values: Sequence[Any], folder: Path) -> dict[str, NDArray[np.generic]]:
        """The inputs of one item. Raises: ValueError if it isn't text."""
        if not all(isinstance(value, str) for value in values):
            raise ValueError(f"expected a text, found {values!r:.80}")
        whole = self._tokenizer(*values, verbose=False)
        if len(whole["input_ids"]) > self._limit:
            self.cut += 1
            whole = self._tokenizer(*values, truncation=True, max_length=self._limit)
        return {name: np.array(column, dtype=np.int64) for name, column in whole.items()}
