"""Gradients of the loss on texts and tasks at the base and at each expert, beside the task vectors.

To first order fine-tuning moves a model against the gradient of its task: one step of gradient descent gives
τ = −η ∇L(θ₀) exactly (Zhou et al. 2025, On Task Vectors and Gradients). Knows models and what would be right to answer.
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
from evomerge.inference.classify import Classifier
from evomerge.inference.live import LiveModel
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.names import match_names
from evomerge.models.open import Models
from evomerge.score.requests import LabelReference, LogLikelihoodRequest, Reference

CHARACTERS = 20_000
"""Of each text that are read."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradients:
    """Of the mean loss on T texts or tasks, at M models of which the base is the first, with K experts.

    The loss is in nats per token of a text or of reference answers, and per item where labels are given.

    Attributes:
        texts: names of the texts and tasks.
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


def text_references(files: Mapping[str, Path], model: Checkpoint) -> tuple[dict[str, Sequence[Reference]], list[str]]:
    """Windows of plain texts by the texts' names, and what a person should know of them, a sentence each.

    Raises: BenchmarkError for texts that can't be read or are empty; CheckpointError for a model that doesn't continue
        text.
    """
    refuse_unless_it_continues_text(model)
    texts = Texts(files, model, characters=CHARACTERS)
    found: dict[str, Sequence[Reference]] = {
        name: tuple(one for one in asked if isinstance(one, LogLikelihoodRequest))
        for name, asked in texts.requests.items()
    }
    return found, texts.notes


def loss_gradients(
    models: Models,
    references: Mapping[str, Sequence[Reference]],
    *,
    notes: Sequence[str] = (),
    report: Callable[[str], None] = lambda doing: None,
) -> Gradients:
    """Gradients of the loss on right answers, by task, in float32 on the CPU.

    Holds one model, and a gradient of its size for each task and one more. Heads of the tasks' own take part in the
    loss, but have no gradient.

    Args:
        models: whole models of one family that give such answers.
        references: the right answers of each task, at least one.
        notes: what a person should know of them, a sentence each.
        report: is told of each model before it is measured.

    Raises: BenchmarkError where a loss isn't finite; CheckpointError for models that transformers can't load.
    """
    live = LiveModel.build(models.base, dtype=torch.float32)
    live.model.requires_grad_(True)
    classifier = Classifier(live.model, device=torch.device("cpu"))
    losses, grams, descent = [], [], np.zeros((len(models.experts), len(references)))
    for model, checkpoint in models.by_name.items():
        report(model)
        if model != "base":
            names = match_names(models.base, checkpoint)
            with torch.no_grad():
                for name, target in live.targets.items():
                    target.copy_(checkpoint.tensor(names[name]))
        found = [_gradient(live, classifier, right, name) for name, right in references.items()]
        losses.append([loss for loss, _ in found])
        gradients = [gradient for _, gradient in found]
        grams.append(gram(gradients))
        if model == "base":
            descent = _descent(models, gradients)
    squares = np.array([np.diagonal(one) for one in grams])
    apart = squares[:, :, None] + squares[:, None, :] - 2 * np.array(grams)
    return Gradients(
        texts=tuple(references),
        models=tuple(models.by_name),
        losses=np.array(losses),
        norms=np.sqrt(squares),
        cosines=np.array([cosines(one) for one in grams]),
        distances=np.sqrt(np.maximum(apart, 0.0)),
        descent=descent,
        notes=tuple(notes),
    )


def gram(gradients: Sequence[Mapping[str, Tensor]]) -> Numbers:
    """Inner products of gradients that are given by tensor, in float64, shape (T, T).

    A gradient that lacks a tensor is zero there.
    """
    found = np.zeros((len(gradients), len(gradients)))
    for name in dict.fromkeys(name for one in gradients for name in one):
        known = next(one[name] for one in gradients if name in one)
        rows = torch.stack([one.get(name, torch.zeros_like(known)).to(torch.float64).flatten() for one in gradients])
        found += (rows @ rows.T).numpy()
    return found


def _descent(models: Models, gradients: Sequence[Mapping[str, Tensor]]) -> Numbers:
    """Cosines of the task vectors with the negative gradients, shape (K, T); NaN where one is zero."""
    dots = np.zeros((len(models.experts), len(gradients)))
    squares, own = np.zeros(len(models.experts)), np.diagonal(gram(gradients))
    for row, model in enumerate(models.experts.values()):
        names = match_names(models.base, model)
        for name in dict.fromkeys(name for one in gradients for name in one):
            tau = model.tensor(names[name]).to(torch.float64) - models.base.tensor(name).to(torch.float64)
            squares[row] += float(tau.square().sum())
            for column, gradient in enumerate(gradients):
                if name in gradient:
                    dots[row, column] -= float((tau * gradient[name]).sum())
    lengths = np.sqrt(np.outer(squares, own))
    return dots / np.where(lengths > 0, lengths, np.nan)


def _gradient(
    live: LiveModel, classifier: Classifier, references: Sequence[Reference], task: str
) -> tuple[float, dict[str, Tensor]]:
    """Mean loss over all right tokens or labels of a task, and its gradient for each stored tensor."""
    live.model.zero_grad(set_to_none=True)
    count = sum(1 if isinstance(one, LabelReference) else len(one.continuation) for one in references)
    total = 0.0
    for reference in references:
        if isinstance(reference, LabelReference):
            loss = _label_loss(classifier, reference)
        else:
            loss = _token_loss(live, reference)
        (loss / count).backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    if not np.isfinite(total):
        raise BenchmarkError(f"the loss on {task} isn't finite, so there is no gradient; look for NaN in the models")
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


def _token_loss(live: LiveModel, reference: LogLikelihoodRequest) -> Tensor:
    """−log of the probability of a continuation."""
    tokens = torch.tensor([[*reference.context, *reference.continuation]])
    logits = live.model(input_ids=tokens[:, :-1], use_cache=False).logits[0, -len(reference.continuation) :]
    right = tokens[0, -len(reference.continuation) :]
    return torch.nn.functional.cross_entropy(logits.float(), right, reduction="sum")


def _label_loss(classifier: Classifier, reference: LabelReference) -> Tensor:
    """−log of the probability of a label."""
    return torch.nn.functional.cross_entropy(classifier.logits([reference.request]), torch.tensor([reference.label]))
