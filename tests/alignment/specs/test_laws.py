"""Whatever maps a spec allows, the model computes what it computed before, in stock transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from evomerge.alignment.kinds import Heads
from evomerge.alignment.specs import folding_of, spec_of
from evomerge.alignment.symmetries import RESIDUALS, Symmetries
from evomerge.errors import AlignmentError
from helpers.architectures import ARCHITECTURES, built, inputs, outputs, reloaded

CASES = [(name, residual) for name, row in ARCHITECTURES.items() for residual in row.residuals]
REFUSED = [
    (name, residual) for name, row in ARCHITECTURES.items() for residual in RESIDUALS if residual not in row.residuals
]


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def saved(model: PreTrainedModel, folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A model's tensors and config, as they are in its folder."""
    model.save_pretrained(folder)
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return load_file(folder / "model.safetensors"), config


def mapped(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], symmetries: Symmetries, seed: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors behind random maps of every label, and their config."""
    shapes, read, config = shapes_of(tensors), tensors.__getitem__, dict(config)
    names = list(tensors)
    if symmetries.residual == "orthogonal":
        folding = folding_of(config["model_type"], shapes, config)
        shapes, config = folding.shapes(shapes), {**config, **folding.config}
        names = list(shapes)
        read = lambda name: folding.tensor(name, tensors.__getitem__)  # noqa: E731
    spec = spec_of(config["model_type"], shapes, config, symmetries)
    spec.check(shapes)
    maps = spec.random(np.random.default_rng(seed))
    return {name: spec.apply(maps, name, read(name)) if spec.moves(name) else read(name) for name in names}, config


@pytest.mark.parametrize(("name", "residual"), CASES)
def test_random_maps_leave_a_model_s_function_unchanged(name: str, residual: Any, tmp_path: Path) -> None:
    row = ARCHITECTURES[name]
    model = built(row)
    given = inputs(model)
    before = outputs(model, given, row.compared)
    tensors, config = saved(model, tmp_path)
    moved, config = mapped(tensors, config, Symmetries(residual=residual), seed=1)
    assert any(not torch.equal(moved[key], tensors[key]) for key in tensors)
    if residual != "orthogonal":
        assert moved.keys() == tensors.keys()
    save_file(moved, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = reloaded(model, tmp_path)
    after = outputs(loaded, given, row.compared)
    assert before.keys() == after.keys()
    for key, value in before.items():
        torch.testing.assert_close(after[key], value, rtol=0, atol=row.within)
    first, second = (outputs(found.float(), given, row.compared) for found in (model, loaded))
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("off", ["heads", "rotations", "hidden"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_is_switched_off_stays_and_the_rest_leaves_the_function_unchanged(
    name: str, off: str, tmp_path: Path
) -> None:
    row = ARCHITECTURES[name]
    model = built(row)
    given = inputs(model)
    before = outputs(model, given, row.compared)
    tensors, config = saved(model, tmp_path)
    labels = spec_of(config["model_type"], shapes_of(tensors), config, Symmetries(**{off: False})).labels
    heads = [kind for kind in labels.values() if isinstance(kind, Heads)]
    if off == "heads":
        assert all(kind.ordered for kind in heads)
    elif off == "rotations":
        assert all(kind.inside == "none" and not kind.value_rotations and not kind.ordered for kind in heads)
    moved, config = mapped(tensors, config, Symmetries(**{off: False}), seed=2)
    if off == "hidden":
        assert not any(label.endswith("hidden") for label in labels)
        inner = ("up_proj", "w1", "gate_proj", "c_fc", "dense_h_to_4h", "intermediate.dense", "fc1")
        where = [key for key in tensors if key.endswith(tuple(f".{part}.bias" for part in inner))]
        assert all(torch.equal(moved[key], tensors[key]) for key in where)
    save_file(moved, tmp_path / "model.safetensors", metadata={"format": "pt"})
    after = outputs(reloaded(model, tmp_path), given, row.compared)
    for key, value in before.items():
        torch.testing.assert_close(after[key], value, rtol=0, atol=row.within)


@pytest.mark.parametrize(("name", "residual"), REFUSED)
def test_a_symmetry_that_an_architecture_lacks_is_refused_with_the_reason(
    name: str, residual: Any, tmp_path: Path
) -> None:
    tensors, config = saved(built(ARCHITECTURES[name]), tmp_path)
    with pytest.raises(AlignmentError, match=f"can't have the symmetry '{residual}'|isn't one of this network"):
        spec_of(config["model_type"], shapes_of(tensors), config, Symmetries(residual=residual))
