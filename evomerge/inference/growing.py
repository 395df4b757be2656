"""Continuing rows whose cache grows column by column, and is copied when rows join or end."""

from __future__ import annotations

from typing import Any

import torch

from evomerge.inference.batch import Batch, Work
from evomerge.inference.choosing import choose
from evomerge.inference.endings import Endings
from evomerge.inference.prompts import Prompts, next_logits


class GrowingRows:
    """Continues rows of whatever keeps its keys and values in columns.

    Args:
        model: the live model.
        prompts: runs contexts.
        endings: answers rows that end.
    """

    def __init__(self, model: Any, prompts: Prompts, endings: Endings) -> None:
        self._model = model
        self._prompts = prompts
        self._endings = endings

    def run(self, work: Work) -> None:
        """Answer all that waits."""
        batch: Batch | None = None
        while True:
            # Joining copies every row's columns, so it is done for several rows at a time.
            if work.waiting and (batch is None or batch.num_going <= work.rows * 3 // 4):
                if batch is not None:
                    batch.drop_finished()
                while work.waiting and (batch is None or len(batch.rows) < work.rows):
                    work.check_time()
                    fresh = self._prompts.begin(work, work.rows - (0 if batch is None else len(batch.rows)))
                    self._take(fresh, work)
                    fresh.drop_finished()
                    batch = fresh if batch is None else batch.joined(fresh)
            assert batch is not None
            if not batch.num_going:
                if not work.waiting:
                    return
                continue
            if batch.num_going <= len(batch.rows) * 3 // 4:
                batch.drop_finished()
            work.check_time()
            self.step(batch)
            self._take(batch, work)

    def step(self, batch: Batch) -> None:
        """The logits after each row's last token."""
        batch.positions = batch.positions[:, -1:] + 1
        batch.mask = torch.cat([batch.mask, batch.mask.new_ones((len(batch.tokens), 1))], dim=1)
        batch.seen = torch.cat([batch.seen, batch.tokens], dim=1)
        batch.logits = next_logits(self._model, batch)

    def _take(self, batch: Batch, work: Work) -> None:
        chosen = choose(batch.rows, work.decoding, batch.seen, batch.logits)
        batch.tokens = chosen.tokens[:, None]
        self._endings.add(batch.rows, chosen.tokens.tolist(), chosen.largest.tolist(), work)
