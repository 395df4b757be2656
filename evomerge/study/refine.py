"""Maps refined on a text: what lies between aligned models is run, and its loss says how the maps should turn.

Knows aligned models, texts and live models. How maps follow a loss is in `alignment.learned`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from evomerge.alignment.base import Progress
from evomerge.alignment.kinds import Map
from evomerge.alignment.kinds.permutation import Order
from evomerge.alignment.learned import refine
from evomerge.errors import AlignmentError
from evomerge.files.outside import read_text
from evomerge.inference.architecture import refuse_unless_it_continues_text
from evomerge.inference.live import LiveModel
from evomerge.models.aligned import FoldedWeights
from evomerge.models.alignment import Alignable, Found
from evomerge.models.checkpoint import Checkpoint
from evomerge.streams import stream

WINDOW, BATCH = 128, 8
"""Tokens of a window, and windows that each step takes the loss of."""
HELD_OUT = 0.2
"""Share of the text, its end, that maps are judged on and not learned from."""
STEPS = 240
_JUDGED = 64
"""Windows that are judged at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refinement:
    """What refining one model's maps gained.

    Attributes:
        before: loss halfway between the reference and the model on the end of the text, in nats per token, under the
            maps that refinement began with.
        after: the same under the refined ones.
        kept: whether the refined maps are better there and were taken.
    """

    before: float
    after: float
    kept: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessons:
    """What maps are refined on, and for how long.

    Attributes:
        learning: windows of tokens to learn from, (N, length).
        judging: windows of the text's end, to judge on.
        steps: of Adam, for each model.
    """

    learning: Tensor
    judging: Tensor
    steps: int


def lessons(text: str | Path, reference: Checkpoint, steps: int = STEPS) -> Lessons:
    """A file of plain text, of the kind that the models are for, as their reference reads it.

    Raises: AlignmentError for a text that is too short or can't be read, or for no step; CheckpointError for a
        reference that doesn't continue text.
    """
    if steps < 1:
        raise AlignmentError(f"the number of steps of a refinement has to be at least 1 (found {steps})")
    refuse_unless_it_continues_text(reference)
    learning, judging = _windows(Path(text), reference)
    return Lessons(learning=learning, judging=judging, steps=steps)


def refined(
    kin: Alignable, found: Found, on: Lessons, *, progress: Progress | None = None
) -> tuple[Found, dict[str, Refinement]]:
    """Maps that go on from those found, by the gradient of the loss between each model and the reference.

    Orders of the residual stream stay. Held in memory are, in float32, the reference, one model, the one between them
    and the gradients of that.

    Args:
        kin: the models.
        found: their maps.
        on: what they are refined on.
        progress: called with steps done and in all.

    Returns: the maps, those of a model as they were where refining didn't help on the end of the text; and what was
        gained by model.

    Raises: AlignmentError for maps without anything to refine; CheckpointError for a reference that transformers can't
        load.
    """
    between = _Between(kin.shown({})[kin.align.reference])
    fixed = _floats(kin, kin.align.reference)
    maps, gains = dict(found.maps), {}
    others = kin.moved[1:]
    spec = kin.frame.spec
    for place, name in enumerate(others):
        generator = stream(kin.align.seed, f"refine {name}")
        moving, own = _floats(kin, name), {**spec.identity(), **maps[name]}

        def loss(
            weights: Mapping[str, Tensor], generator: np.random.Generator = generator, windows: Tensor = on.learning
        ) -> Tensor:
            return between.loss(weights, windows[torch.from_numpy(generator.integers(0, len(windows), BATCH))])

        def halfway(chosen: Mapping[str, Map], moving: Mapping[str, Tensor] = moving) -> float:
            with torch.no_grad():
                middle = {key: torch.lerp(fixed[key], spec.apply(chosen, key, moving[key]), 0.5) for key in moving}
                return float(between.loss(middle, on.judging))

        def told(done: int, total: int, place: int = place) -> None:
            if progress is not None:
                progress(place * on.steps + done, len(others) * on.steps)

        learned = refine(
            spec,
            fixed,
            moving,
            own,
            loss,
            steps=on.steps,
            labels=lambda label, own=own: not (label == "residual" and isinstance(own[label], Order)),  # type: ignore[misc]
            generator=generator,
            progress=told,
        )
        before, after = halfway(own), halfway(learned.maps)
        gains[name] = Refinement(before=before, after=after, kept=after < before)
        if after < before:
            maps[name] = learned.maps
    return Found(maps, found.history), gains


class _Between:
    """The reference's network, run with any weights of the stored tensors."""

    def __init__(self, reference: Checkpoint) -> None:
        live = LiveModel.build(reference, dtype=torch.float32)
        self._model, self._targets = live.model, live.targets
        self._names = {value.untyped_storage().data_ptr(): key for key, value in live.model.named_parameters()}
        self._parameters = {key: value.detach() for key, value in live.model.named_parameters()}

    def loss(self, weights: Mapping[str, Tensor], windows: Tensor) -> Tensor:
        """Nats per token of windows (N, length), differentiable by the weights."""
        parameters = dict(self._parameters)
        for name, target in self._targets.items():
            key = self._names.get(target.untyped_storage().data_ptr())
            if key is None or name not in weights:
                continue
            whole = parameters[key]
            same = target.shape == whole.shape and target.stride() == whole.stride()
            # A stored tensor may fill a part of a parameter, as an expert's of a stack.
            parameters[key] = (
                weights[name]
                if same
                else whole.as_strided_scatter(
                    weights[name],
                    target.shape,
                    target.stride(),
                    target.storage_offset() - self._parameters[key].storage_offset(),
                )
            )
        given = {"input_ids": windows[:, :-1], "use_cache": False}
        logits: Tensor = functional_call(self._model, parameters, kwargs=given).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())


def _floats(kin: Alignable, name: str) -> dict[str, Tensor]:
    """A model's tensors by the spec's names, in float32."""
    weights = FoldedWeights(kin.models[name], kin.frame, kin.names[name])
    return {key: value.float() for key in weights if (value := weights[key]).is_floating_point()}


def _windows(path: Path, model: Checkpoint) -> tuple[Tensor, Tensor]:
    """Windows to learn from and, of the text's end, to judge on; (N, length) each."""
    text = read_text(path, AlignmentError)
    length = min(WINDOW, model.positions or WINDOW)
    tokens: Sequence[int] = model.tokenizer()(text, add_special_tokens=False, verbose=False)["input_ids"]
    count = len(tokens) // length
    held = max(1, round(HELD_OUT * count))
    if count - held < 1:
        raise AlignmentError(
            f"{path}: is too short to refine maps on: it has {len(tokens)} tokens, and two windows of {length} are the "
            "least"
        )
    every = torch.tensor(tokens[: count * length]).reshape(count, length)
    return every[:-held], every[-held:][:_JUDGED]
