"""Learned refinement: it lowers the loss between the models, and its maps are still maps of their kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from evomerge.alignment.learned import cayley, refine
from evomerge.alignment.spec import Spec
from evomerge.alignment.specs import folding_of, spec_of
from evomerge.alignment.symmetries import Symmetries
from evomerge.errors import AlignmentError
from helpers.architectures import ARCHITECTURES, built

Weights = dict[str, Tensor]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_cayley_transform_is_a_rotation_and_of_zeros_the_identity() -> None:
    found = cayley(numbers(3, 5, 5).double())
    torch.testing.assert_close(found @ found.mT, torch.eye(5, dtype=torch.float64).expand(3, 5, 5))
    assert torch.equal(cayley(torch.zeros(4, 4)), torch.eye(4))


def model_of(name: str, residual: Any) -> tuple[Spec, Weights, Callable[[Mapping[str, Tensor]], Tensor]]:
    """A spec, a model's weights, and its logits of a text as a function of any weights."""
    model = built(ARCHITECTURES[name]).float()
    config = model.config.to_dict()
    weights = {key: value.detach() for key, value in model.named_parameters()}
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    if residual == "orthogonal":
        folding = folding_of(config["model_type"], shapes, config)
        shapes, read = folding.shapes(shapes), weights.__getitem__
        weights = {key: folding.tensor(key, read) for key in shapes}
        model = type(model)(type(model.config)(**{**config, **folding.config})).eval()
    spec = spec_of(config["model_type"], shapes, config, Symmetries(residual=residual))
    text = torch.randint(3, 40, (4, 8), generator=torch.Generator().manual_seed(1))

    def logits(between: Mapping[str, Tensor]) -> Tensor:
        found: Tensor = functional_call(model, dict(between), kwargs={"input_ids": text}).logits
        return found

    return spec, weights, logits


@pytest.mark.parametrize(("name", "residual"), [("llama", "orthogonal"), ("gpt2", "orthogonal"), ("qwen3", "signed")])
def test_learning_brings_models_together_and_its_maps_leave_functions_unchanged(name: str, residual: Any) -> None:
    spec, one, logits = model_of(name, residual)
    right = logits(one).detach()
    noise = np.random.default_rng(3)
    two = {
        key: value + 0.02 * numbers(*value.shape, seed=place) if value.ndim > 1 else value
        for place, (key, value) in enumerate(one.items())
    }
    spread = {label: kind.random(noise) for label, kind in spec.labels.items() if "heads" in label}
    two = {key: spec.apply(spread, key, value) for key, value in two.items()}

    def loss(between: Mapping[str, Tensor]) -> Tensor:
        return (logits(between) - right).square().mean()

    found = refine(spec, one, two, spec.identity(), loss, steps=40, rate=0.01, generator=np.random.default_rng(0))
    assert len(found.losses) == 40
    assert np.mean(found.losses[-5:]) < 0.9 * np.mean(found.losses[:5])
    for label, map_ in found.maps.items():
        spec.labels[label].load(map_.arrays())
    moved = {key: spec.apply(found.maps, key, value) for key, value in two.items()}
    torch.testing.assert_close(logits(moved), logits(two), rtol=0, atol=2e-5)


def test_labels_that_are_not_asked_for_keep_their_maps() -> None:
    spec, one, logits = model_of("gpt2", "permutation")
    start = spec.random(np.random.default_rng(2))
    found = refine(
        spec, one, one, start, lambda between: logits(between).square().mean(), steps=2,
        labels=lambda label: label == "h.1.hidden", generator=np.random.default_rng(0),
    )  # fmt: skip
    assert [label for label in start if found.maps[label] is not start[label]] == ["h.1.hidden"]


def test_nothing_to_refine_and_a_loss_that_is_no_number_are_refused() -> None:
    spec, one, logits = model_of("gpt2", "permutation")
    generator = np.random.default_rng(0)
    with pytest.raises(AlignmentError, match="none of these maps can be refined"):
        refine(spec, one, one, {}, lambda between: logits(between).mean(), generator=generator)
    with pytest.raises(AlignmentError, match="isn't a finite number in step 1"):
        refine(spec, one, one, spec.identity(), lambda between: logits(between).mean() / 0, generator=generator)
