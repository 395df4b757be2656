"""Distances of weights from a model's are those of all its tensors in one vector."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from evomerge.materialise.distance import relative_distance
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe.sources import ModelReference
from evomerge.testing.models import tiny_family


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    folders: dict[str, Path] = tiny_family(tmp_path_factory.mktemp("models"), "llama", layers=2, experts=("a", "b"))
    return {name: Checkpoint.open(ModelReference(path=str(folder))) for name, folder in folders.items()}


def vector(model: Checkpoint) -> Tensor:
    return torch.cat([model.tensor(name).double().flatten() for name in model.names])


def test_what_is_kept_of_the_reference_changes_no_distance(models: dict[str, Checkpoint]) -> None:
    reference, squares = vector(models["base"]), dict[str, float]()
    for name in ("a", "b", "base", "a"):
        found = relative_distance(models[name].tensor, models["base"], squares)
        assert found == relative_distance(models[name].tensor, models["base"])
        expected = torch.linalg.vector_norm(vector(models[name]) - reference) / torch.linalg.vector_norm(reference)
        assert found == pytest.approx(float(expected), rel=1e-6)
        assert sum(squares.values()) == pytest.approx(float(reference @ reference), rel=1e-6)


def test_tensors_that_the_weights_lack_are_left_out(models: dict[str, Checkpoint]) -> None:
    base, expert = models["base"], models["a"]
    (name, *_) = base.names
    expected = torch.linalg.vector_norm(expert.tensor(name).double() - base.tensor(name).double())
    expected /= torch.linalg.vector_norm(base.tensor(name).double())
    assert relative_distance({name: expert.tensor(name)}, base) == pytest.approx(float(expected), rel=1e-6)
