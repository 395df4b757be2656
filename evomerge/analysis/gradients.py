"""Gradients of the loss on texts at the base and at each expert, beside the task vectors.

To first order fine-tuning moves a model against the gradient of its task: one step of gradient descent gives
τ = −η ∇L(θ₀) exactly (Zhou et al. 2025, On Task Vectors and Gradients). Knows models and token windows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomerge.analysis.measures import Texts
from evomerge.analysis.moments import cosines
from evomerge.errors import BenchmarkError
from evomerge.inference.architecture import refuse_unless_it_continues_text
from evomerge.inference.live import LiveModel
from evomerge.models.names import match_names
from evomerge.models.open import Models
from evomerge.score.requests import LogLikelihoodRequest

CHARACTERS = 20_000
"""Of each text that are read."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradients:
    """Of the mean loss in nats per token on T texts, at M models of which the base is the first, with K experts.

    Attributes:
        texts: names of the texts.
        models: names of the models, "base" first.
        losses: shape (M, T).
        norms: lengths of the gradients, shape (M, T).
        cosines: between the gradients of the texts at each model, shape (M, T, T).
        distances: ‖∇L_a − ∇L_b‖ between them, shape (M, T, T).
        descent: cosine of each task vector with the negative gradient at the base, shape (K, T).
        notes: what a person should know of the texts, a sentence each.
    """

    texts: tuple[str, ...]
    models: tuple[str, ...]
    losses: Numbers
    norms: Numbers
    cosines: Numbers
    distances: Numbers
    descent: Numbers
    notes: tuple[str, ...]


def text_gradients(
    models: Models, files: Mapping[str, Path], *, report: Callable[[str], None] = lambda doing: None
) -> Gradients:
    """Gradients on plain texts, in float32 on the CPU.

    Holds one model, and a gradient of its size for each text and one more.

    Args:
        models: whole models of one family that continue text.
        files: the texts by name, one for each task.
        report: is told of each model before it is measured.

    Raises: BenchmarkError for texts that can't be read or are empty; CheckpointError for models that transformers
        can't load.
    """
    refuse_unless_it_continues_text(models.base)
    texts = Texts(files, models.base, characters=CHARACTERS)
    live = LiveModel.build(models.base, dtype=torch.float32)
    live.model.requires_grad_(True)
    losses, grams, descent = [], [], np.zeros((len(models.experts), len(files)))
    for model, checkpoint in models.by_name.items():
        report(model)
        if model != "base":
            names = match_names(models.base, checkpoint)
            with torch.no_grad():
                for name, target in live.targets.items():
                    target.copy_(checkpoint.tensor(names[name]))
        found = [_gradient(live, [one for one in asked if isinstance(one, LogLikelihoodRequest)])
                 for asked in texts.requests.values()]  # fmt: skip
        losses.append([loss for loss, _ in found])
        gradients = [gradient for _, gradient in found]
        grams.append(gram(gradients))
        if model == "base":
            descent = _descent(models, gradients)
    squares = np.array([np.diagonal(one) for one in grams])
    apart = squares[:, :, None] + squares[:, None, :] - 2 * np.array(grams)
    return Gradients(
        texts=tuple(files),
        models=tuple(models.by_name),
        losses=np.array(losses),
        norms=np.sqrt(squares),
        cosines=np.array([cosines(one) for one in grams]),
        distances=np.sqrt(np.maximum(apart, 0.0)),
        descent=descent,
        notes=tuple(texts.notes),
    )


def gram(gradients: Sequence[Mapping[str, Tensor]]) -> Numbers:
    """Inner products of gradients that are given by tensor, in float64, shape (T, T)."""
    found = np.zeros((len(gradients), len(gradients)))
    for name in gradients[0]:
        rows = torch.stack([one[name].to(torch.float64).flatten() for one in gradients])
        found += (rows @ rows.T).numpy()
    return found


def _descent(models: Models, gradients: Sequence[Mapping[str, Tensor]]) -> Numbers:
    """Cosines of the task vectors with the negative gradients, shape (K, T); NaN where one is zero."""
    dots = np.zeros((len(models.experts), len(gradients)))
    squares, own = np.zeros(len(models.experts)), np.diagonal(gram(gradients))
    for row, model in enumerate(models.experts.values()):
        names = match_names(models.base, model)
        for name in gradients[0]:
            tau = model.tensor(names[name]).to(torch.float64) - models.base.tensor(name).to(torch.float64)
            squares[row] += float(tau.square().sum())
            for column, gradient in enumerate(gradients):
                dots[row, column] -= float((tau * gradient[name]).sum())
    lengths = np.sqrt(np.outer(squares, own))
    return dots / np.where(lengths > 0, lengths, np.nan)


def _gradient(live: LiveModel, windows: Sequence[LogLikelihoodRequest]) -> tuple[float, dict[str, Tensor]]:
    """Mean loss over the tokens of all windows, and its gradient for each stored tensor."""
    live.model.zero_grad(set_to_none=True)
    count = sum(len(window.continuation) for window in windows)
    total = 0.0
    for window in windows:
        tokens = torch.tensor([[*window.context, *window.continuation]])
        logits = live.model(input_ids=tokens[:, :-1], use_cache=False).logits[0, -len(window.continuation) :]
        loss = torch.nn.functional.cross_entropy(
            logits.float(), tokens[0, -len(window.continuation) :], reduction="sum"
        )
        (loss / count).backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    if not np.isfinite(total):
        raise BenchmarkError("the loss on a text isn't finite, so there is no gradient; look for NaN in the models")
    parameters = {one.untyped_storage().data_ptr(): one for one in live.model.parameters()}
    found = {}
    for name, target in live.targets.items():
        parameter = parameters.get(target.untyped_storage().data_ptr())
        if parameter is None or parameter.grad is None:
            continue
        # A stored tensor's part of the gradient lies where its part of the parameter does.
        grad = parameter.grad.contiguous()
        found[name] = grad.as_strided(target.shape, target.stride(), target.storage_offset()).detach().clone()
    return total / count, found
