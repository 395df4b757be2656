"""Answering classification requests with a live model: inputs in, a log-probability for each label out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from evomerge.errors import ExecutionError, listed
from evomerge.kernels.device_memory import is_out_of_memory
from evomerge.score.requests import ClassificationRequest, ClassificationResponse, Head, Request

BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}
"""Most padded tokens, or patches of 16 by 16 pixels, in a forward pass when nothing is said."""

MOST_KEPT = 1 << 28
"""Bytes of inputs that stay with the model from candidate to candidate; what is beyond is made anew for each."""

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
        self._heads: dict[int, tuple[Head, dict[str, torch.Tensor]]] = {}
        self._batches: dict[tuple[int, tuple[int, ...]], tuple[ClassificationPlan, dict[str, torch.Tensor]]] = {}
        self._room = MOST_KEPT

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
        for request in known:
            self._weights(request.head)
        chosen = [range(len(known))] if blocks is None else blocks
        return ClassificationPlan(known, tuple(self._block(known, sorted(places)) for places in chosen))

    def _block(self, requests: Sequence[ClassificationRequest], places: Sequence[int]) -> ClassificationBlock:
        # Asked for once, since an image is read for it.
        shapes = {place: next(iter(requests[place].inputs.values())).shape for place in places}
        costs = {place: _cost(shape) for place, shape in shapes.items()}
        batches: list[list[int]] = []
        # The longest first, so that a batch's first request says how far the others are padded.
        heads = {id(requests[place].head): order for order, place in reversed([*enumerate(places)])}
        for place in sorted(places, key=lambda place: (heads[id(requests[place].head)], -costs[place], place)):
            full = not batches or (len(batches[-1]) + 1) * costs[batches[-1][0]] > self._budget
            full = full or requests[batches[-1][0]].head is not requests[place].head
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
        blocks: Sequence[int] | None = None,
        prefixes: object = None,
        deadline: float | None = None,
    ) -> list[ClassificationResponse]:
        """Answer the requests of some blocks, or of all, in request order.

        Each block has batches of its own, whose inputs are made once and stay with the model.

        Args:
            plan: from `plan`.
            blocks: numbers of the blocks; None: all of them.
            prefixes: not used; a classifier's inputs share nothing.
            deadline: `time.monotonic()` value after which to give up.

        Raises:
            TimeoutError: the deadline has passed.
            torch.OutOfMemoryError: not even one input fits.
        """
        found: dict[int, ClassificationResponse] = {}
        for part in plan.blocks if blocks is None else [plan.blocks[number] for number in blocks]:
            for batch in part.batches:
                if deadline is not None and time.monotonic() > deadline:
                    raise TimeoutError
                requests = [plan.requests[place] for place in batch]
                found |= zip(batch, self._answer(requests, self._kept_batch(plan, batch)), strict=True)
        return [found[place] for place in sorted(found)]

    def _kept_batch(self, plan: ClassificationPlan, batch: tuple[int, ...]) -> dict[str, torch.Tensor]:
        """The model's arguments for a batch, made once for all candidates while there is room to keep them."""
        key = id(plan), batch
        if key not in self._batches:
            made = self._batch([plan.requests[place] for place in batch])
            size = sum(tensor.nbytes for tensor in made.values())
            if size > self._room:
                return made
            self._room -= size
            # With the plan itself, so that its identity isn't given to another.
            self._batches[key] = plan, made
        return self._batches[key][1]

    def _answer(
        self, requests: Sequence[ClassificationRequest], inputs: dict[str, torch.Tensor] | None = None
    ) -> list[ClassificationResponse]:
        """Answer a batch, in halves where it doesn't fit."""
        try:
            logits = self.logits(requests, inputs)
        except Exception as error:
            if len(requests) == 1 or not is_out_of_memory(error):
                raise
        else:
            rows = torch.log_softmax(logits, dim=-1).tolist()
            return [ClassificationResponse(tuple(row)) for row in rows]
        half = len(requests) // 2
        return self._answer(requests[:half]) + self._answer(requests[half:])

    def logits(
        self, requests: Sequence[ClassificationRequest], inputs: dict[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """What the model gives each label in one forward pass, shape (requests, labels), float32.

        Args:
            requests: of one head.
            inputs: the model's arguments for them; None: they are made.

        Raises: ExecutionError for a head that the model has no place for.
        """
        inputs = self._batch(requests) if inputs is None else inputs
        if (weights := self._weights(requests[0].head)) is None:
            made: torch.Tensor = self._model(**inputs).logits
        else:
            made = torch.func.functional_call(self._model, weights, (), inputs).logits
        return made.float()

    def _weights(self, head: Head | None) -> dict[str, torch.Tensor] | None:
        """A head's weights as the live model takes them. Raises: ExecutionError if it has no place for them."""
        if head is None:
            return None
        if id(head) not in self._heads:
            known = dict(self._model.named_parameters())
            if strange := [name for name in head.tensors if name not in known]:
                raise ExecutionError(f"the head of task {head.task!r} has {listed(strange)}, which the model hasn't")
            weights = {
                name: torch.from_numpy(array).to(known[name].device, known[name].dtype)
                for name, array in head.tensors.items()
            }
            # With the head itself, so that its identity isn't given to another.
            self._heads[id(head)] = head, weights
        return self._heads[id(head)][1]

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
