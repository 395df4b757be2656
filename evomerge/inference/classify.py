"""Answering classification requests with a live model: inputs in, a log-probability for each label out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from evomerge.errors import ExecutionError
from evomerge.inference.memory import is_out_of_memory
from evomerge.score.requests import ClassificationRequest, ClassificationResponse, Request

BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}
"""Most padded tokens, or patches of 16 by 16 pixels, in a forward pass when nothing is said."""

_PATCH = 16 * 16


@dataclass(frozen=True, slots=True)
class ClassificationBlock:
    """Positions of a block's requests, ascending, and of those of each batch."""

    requests: tuple[int, ...]
    batches: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class ClassificationPlan:
    """All requests of a split, and how those of each block are batched."""

    requests: tuple[ClassificationRequest, ...]
    blocks: tuple[ClassificationBlock, ...]


class Classifier:
    """A classification model that stays loaded while its weights change under it.

    Args:
        model: the live model.
        device: where it is.
        batch_tokens: most padded tokens, or patches of 16 by 16 pixels, in a forward pass; None: by the device.
    """

    def __init__(self, model: Any, *, device: torch.device, batch_tokens: int | None = None) -> None:
        self._model = model
        self._device = device
        self._budget = batch_tokens or BATCH_TOKENS.get(device.type, BATCH_TOKENS["cpu"])
        self._padding: int | None = getattr(model.config, "pad_token_id", None)

    def plan(self, requests: Sequence[Request], *, blocks: Sequence[Sequence[int]] | None = None) -> ClassificationPlan:
        """Batch requests of like size, once.

        Args:
            requests: all of a split.
            blocks: positions of the requests of each block; None: one block of all.

        Raises: ExecutionError for requests of another kind.
        """
        if not all(isinstance(request, ClassificationRequest) for request in requests):
            raise ExecutionError("a split asks for labels and for something else; ask for labels only")
        known: tuple[ClassificationRequest, ...] = tuple(requests)  # type: ignore[arg-type]
        chosen = [range(len(known))] if blocks is None else blocks
        return ClassificationPlan(known, tuple(self._block(known, sorted(places)) for places in chosen))

    def _block(self, requests: Sequence[ClassificationRequest], places: Sequence[int]) -> ClassificationBlock:
        # Asked for once, since an image is read for it.
        shapes = {place: next(iter(requests[place].inputs.values())).shape for place in places}
        costs = {place: _cost(shape) for place, shape in shapes.items()}
        batches: list[list[int]] = []
        # The longest first, so that a batch's first request says how far the others are padded.
        for place in sorted(places, key=lambda place: (-costs[place], place)):
            full = not batches or (len(batches[-1]) + 1) * costs[batches[-1][0]] > self._budget
            if full or (self._padding is None and len(shapes[place]) == 1):
                # Decoders tell a text's end by its padding, so without such a token each text goes alone.
                batches.append([])
            batches[-1].append(place)
        return ClassificationBlock(tuple(places), tuple(map(tuple, batches)))

    @torch.inference_mode()
    def respond(
        self,
        plan: ClassificationPlan,
        *,
        block: int | None = None,
        prefixes: object = None,
        deadline: float | None = None,
    ) -> list[ClassificationResponse]:
        """Answer the requests of a block, or of all, in request order.

        Args:
            plan: from `plan`.
            block: number of the block; None: all of them.
            prefixes: not used; a classifier's inputs share nothing.
            deadline: `time.monotonic()` value after which to give up.

        Raises:
            TimeoutError: the deadline has passed.
            torch.OutOfMemoryError: not even one input fits.
        """
        found: dict[int, ClassificationResponse] = {}
        for part in plan.blocks if block is None else plan.blocks[block : block + 1]:
            for batch in part.batches:
                if deadline is not None and time.monotonic() > deadline:
                    raise TimeoutError
                found |= zip(batch, self._answer([plan.requests[place] for place in batch]), strict=True)
        return [found[place] for place in sorted(found)]

    def _answer(self, requests: Sequence[ClassificationRequest]) -> list[ClassificationResponse]:
        """Answer a batch, in halves where it doesn't fit."""
        try:
            logits = self._model(**self._batch(requests)).logits.float()
        except Exception as error:
            if len(requests) == 1 or not is_out_of_memory(error):
                raise
        else:
            rows = torch.log_softmax(logits, dim=-1).tolist()
            return [ClassificationResponse(tuple(row)) for row in rows]
        half = len(requests) // 2
        return self._answer(requests[:half]) + self._answer(requests[half:])

    def _batch(self, requests: Sequence[ClassificationRequest]) -> dict[str, torch.Tensor]:
        """The model's arguments, shorter texts padded on the right."""
        arguments = {}
        for name in requests[0].inputs:
            columns = [request.inputs[name] for request in requests]
            if columns[0].ndim == 1:
                length, fill = max(map(len, columns)), self._padding if name == "input_ids" else 0
                assert fill is not None or len(columns) == 1
                columns = [np.pad(row, (0, length - len(row)), constant_values=fill or 0) for row in columns]
            stacked = torch.from_numpy(np.stack(columns)).to(self._device)
            arguments[name] = stacked.to(self._model.dtype) if stacked.is_floating_point() else stacked
        return arguments


def _cost(shape: tuple[int, ...]) -> int:
    """Tokens of a text, patches of an image."""
    return shape[0] if len(shape) == 1 else max(1, int(np.prod(shape[-2:])) // _PATCH)
