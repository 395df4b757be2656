"""Continuing rows in fixed slots: nothing is copied when others begin or end, and passes have few sizes.

A pass over a size is always the same work in the same memory, so that on a GPU it is one captured graph, and what
it chose is read while the next one runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evomerge.inference.arena import Arena
from evomerge.inference.batch import Batch, Running, Work
from evomerge.inference.choosing import Chosen, best_of, choose
from evomerge.inference.endings import Endings
from evomerge.inference.graphs import Graphs
from evomerge.inference.growing import GrowingRows
from evomerge.inference.masks import step_masks, windows_of
from evomerge.inference.prompts import Prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Which sizes passes have, and when their tokens are read.

    Attributes:
        rows: of a pass over so many rows.
        columns: of a pass over so many columns.
        is_late: whether a pass's tokens are read once the next one runs. A row that ends is then continued once more.
    """

    rows: Callable[[int], int]
    columns: Callable[[int], int]
    is_late: bool


def _half_steps(rows: int) -> int:
    """The next power of two, or the middle between two."""
    power = 1 << max(0, rows - 1).bit_length()
    return power * 3 // 4 if power >= 4 and rows <= power * 3 // 4 else power


def _eighths(columns: int) -> int:
    """Up in steps of 64, and of an eighth of the power of two below where that is more."""
    step = max(64, (1 << max(0, columns - 1).bit_length()) // 16)
    return -(-columns // step) * step


EXACT = Sizes(rows=int, columns=int, is_late=False)
"""No row and no column too many: where every one costs, and starting a pass doesn't."""
BUCKETS = Sizes(rows=_half_steps, columns=_eighths, is_late=True)
"""Few sizes: where a pass is captured once for each."""


class _Reading(NamedTuple):
    """What a pass chose, on its way to the host: tokens and largest logits, shape (2, rows)."""

    rows: list[Running]
    values: Tensor
    event: Any

    @classmethod
    def of(cls, rows: list[Running], chosen: Chosen) -> _Reading:
        values = torch.stack([chosen.tokens.double(), chosen.largest.double()])
        if values.device.type != "cuda":
            return cls(rows, values, None)
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        host.copy_(values, non_blocking=True)
        event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return cls(rows, host, event)

    def get(self) -> tuple[list[int], list[float]]:
        if self.event is not None:
            self.event.synchronize()
        tokens, largest = self.values.tolist()
        return [int(token) for token in tokens], largest


class FixedSlots:
    """Continues rows of a model whose layers keep keys and values of all positions.

    Args:
        model: the live model.
        prompts: runs contexts.
        endings: answers rows that end.
        device: where the model is.
        sizes: of passes; None: what suits the device.
    """

    def __init__(
        self, model: Any, prompts: Prompts, endings: Endings, *, device: torch.device, sizes: Sizes | None = None
    ) -> None:
        self._model = model
        self._prompts = prompts
        self._endings = endings
        self.sizes = sizes or (BUCKETS if device.type == "cuda" else EXACT)
        self.graphs = Graphs(device)
        self.arena: Arena | None = None
        self._is_limited = False
        self._windows = windows_of(model.config)
        self._running: list[Running | None] = []
        self._at: list[int] = []

    @torch.inference_mode()
    def difference(self, contexts: Sequence[tuple[int, ...]], other: GrowingRows, *, steps: int = 3) -> float:
        """Largest difference of logits from those of rows that grow, over a few tokens after each context.

        What no row may look at is filled with numbers that would be seen.
        """
        grown, fresh = (self._prompts.first_logits(contexts, None) for _ in range(2))
        slots = [number + (number > 0) for number in range(len(contexts))]
        lengths = [len(context) for context in contexts]
        columns = max(lengths) + steps + 8
        self.release()
        self.arena = arena = Arena(fresh.columns.cache, len(contexts) + 1, columns)
        fresh.tokens = grown.tokens = grown.logits.argmax(dim=1, keepdim=True)
        for buffer in arena.buffers:
            buffer.fill_(3)
        arena.put(fresh, range(len(contexts)), slots, lengths)
        for buffer in arena.buffers:
            for slot, length in zip(slots, lengths, strict=True):
                buffer[slot, :, length:] = 3
        found = []
        for _ in range(steps):
            other.step(grown)
            logits = self._pass(arena.rows, columns)[0][slots]
            found.append((logits - grown.logits).float().abs().max())
            grown.tokens = grown.logits.argmax(dim=1, keepdim=True)
            tokens = arena.tokens[:, 0].clone()
            tokens[slots] = grown.tokens[:, 0]
            arena.advance(arena.rows, tokens, note=False)
        self.release()
        return float(torch.stack(found).max())

    def rows_at_hand(self, rows: int, columns: int) -> int:
        """Slots that there are for so many rows of so many columns; 0 if there are to be new ones."""
        arena = self.arena
        if arena is None or arena.columns <= columns or (arena.rows < rows and not self._is_limited):
            self.release()
            return 0
        return arena.rows

    def release(self) -> None:
        """Let the slots' memory go."""
        self.graphs.clear()
        self.arena = None

    def run(self, work: Work) -> None:
        """Answer all that waits.

        Rows begin when a quarter of the slots is free. Those in slots beyond the size that is enough for all that go
        on are moved into free ones.
        """
        columns = max(len(request.context) + work.decoding.most_tokens(request) for _, request, _ in work.waiting)
        most = len(work.waiting)
        self._running = []
        last: _Reading | None = None
        while True:
            if work.waiting and len(self._going()) <= work.rows * 3 // 4:
                self._begin(work, most, columns)
            going = self._going()
            if not going:
                if not work.waiting:
                    return
                continue
            work.check_time()
            reading = self._step(self._compacted(going), work)
            if self.sizes.is_late:
                last, reading = reading, last
            if reading is not None:
                self._endings.add(reading.rows, *reading.get(), work)
                self._vacate()

    def _begin(self, work: Work, most: int, columns: int) -> None:
        """Run contexts of the next requests, and give slots to those that don't end at once."""
        while work.waiting and len(self._going()) < work.rows:
            work.check_time()
            fresh = self._prompts.begin(work, work.rows - len(self._going()))
            chosen = choose(fresh.rows, work.decoding, fresh.seen, fresh.logits)
            fresh.tokens = chosen.tokens[:, None]
            self._endings.add(fresh.rows, chosen.tokens.tolist(), chosen.largest.tolist(), work)
            self._make_room(fresh.columns.cache, min(work.rows, most), columns, is_limited=work.rows < most)
            self._seat(fresh)

    def _make_room(self, like: Any, rows: int, columns: int, *, is_limited: bool) -> None:
        arena = self.arena
        if arena is None or not arena.holds(like):
            # One more than there can be, which a row that is continued once too often points at.
            self.release()
            self.arena = arena = Arena(like, rows, self.sizes.columns(columns + 1))
            self._is_limited = is_limited
        if not self._running:
            arena.vacate()
            self._running, self._at = [None] * arena.rows, [0] * arena.rows
            self.graphs.keep_for(self._model, *arena.buffers)

    def _seat(self, fresh: Batch) -> None:
        arena = self.arena
        assert arena is not None
        rows = [number for number, row in enumerate(fresh.rows) if not row.is_finished]
        if not rows:
            return
        slots = [slot for slot, row in enumerate(self._running) if row is None][: len(rows)]
        lengths = [len(fresh.rows[row].request.context) for row in rows]
        arena.put(fresh, rows, slots, lengths)
        for row, slot, length in zip(rows, slots, lengths, strict=True):
            self._running[slot], self._at[slot] = fresh.rows[row], length

    def _going(self) -> list[int]:
        return [slot for slot, row in enumerate(self._running) if row is not None]

    def _vacate(self) -> None:
        ended = [slot for slot, row in enumerate(self._running) if row is not None and row.is_finished]
        if ended:
            assert self.arena is not None
            self.arena.vacate(ended)
            for slot in ended:
                self._running[slot] = None

    def _compacted(self, going: Sequence[int]) -> int:
        """Rows of the next pass, once those in slots beyond are moved."""
        assert self.arena is not None
        rows = min(self.sizes.rows(len(going)), self.arena.rows)
        sources = [slot for slot in going if slot >= rows]
        if sources:
            targets = [slot for slot in range(rows) if self._running[slot] is None][: len(sources)]
            self.arena.move(sources, targets)
            self.arena.vacate(sources)
            for source, target in zip(sources, targets, strict=True):
                self._running[target], self._at[target] = self._running[source], self._at[source]
                self._running[source] = None
        return rows

    def _step(self, rows: int, work: Work) -> _Reading:
        """One pass, and the tokens that it chooses for the rows that go on."""
        arena, decoding = self.arena, work.decoding
        assert arena is not None
        going = [(slot, row) for slot, row in enumerate(self._running[:rows]) if row is not None]
        columns = min(self.sizes.columns(1 + max(self._at[slot] for slot, _ in going)), arena.columns)
        logits, tokens, largest = self.graphs.run((rows, columns), arena.rows, lambda: self._pass(rows, columns))
        running, chosen = [row for _, row in going], Chosen(tokens, largest)
        if len(going) < rows:
            where = torch.tensor([slot for slot, _ in going], device=tokens.device)
            chosen = Chosen(tokens[where], largest[where])
        else:
            where = None
        if decoding.processors or decoding.draws:
            seen = arena.seen[:rows, :columns]
            if where is not None:
                seen, logits = seen[where], logits[where]
            chosen = choose(running, decoding, seen, logits, chosen)
            tokens = chosen.tokens if where is None else tokens.index_copy(0, where, chosen.tokens)
        arena.advance(rows, tokens, note=bool(decoding.processors))
        for slot, _ in going:
            self._at[slot] += 1
        return _Reading.of(running, chosen)

    def _pass(self, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
        """Logits after the token of each of the first rows, the most probable tokens, and the largest logits."""
        arena = self.arena
        assert arena is not None
        positions = arena.positions[:rows]
        output = self._model(
            input_ids=arena.tokens[:rows],
            attention_mask=step_masks(positions, columns, windows=self._windows, dtype=self._model.dtype),
            position_ids=positions,
            past_key_values=arena.corner(rows, columns),
            use_cache=True,
            logits_to_keep=1,
        )
        logits = output.logits[:, -1]
        best = best_of(logits)
        return logits, best.tokens, best.largest
