"""Networks without a config: their specs come from names and shapes, and hold for any maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from evomerge.alignment.specs import spec_of
from evomerge.alignment.symmetries import Symmetries
from evomerge.errors import AlignmentError
from helpers.networks import VGG, Named, ResNet, mlp, scrambled

IMAGES, VECTORS = (2, 3, 9, 9), (5, 6)
NETWORKS: dict[str, tuple[str, Any, tuple[int, ...]]] = {
    "mlp": ("mlp", lambda: mlp(6, 8, 7, 5), VECTORS),
    "deep mlp of one width": ("mlp", lambda: mlp(6, *[8] * 7, 5), VECTORS),
    "mlp with numbered norms": ("mlp", Named, VECTORS),
    "vgg": ("vgg", VGG, IMAGES),
    "vgg with norms": ("vgg", lambda: VGG(norms=True), IMAGES),
    "resnet of four stages": ("resnet", lambda: ResNet((2, 2, 2, 2)), IMAGES),
    "resnet of bottlenecks": ("resnet", lambda: ResNet((2, 1, 2), bottleneck=True), IMAGES),
    "resnet of three stages": ("resnet", lambda: ResNet((3, 3, 3)), IMAGES),
}


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """In the order of a file, by name."""
    return {name: tuple(tensor.shape) for name, tensor in sorted(module.state_dict().items())}


@pytest.mark.parametrize("name", NETWORKS)
def test_random_permutations_leave_a_network_s_function_unchanged(name: str) -> None:
    family, make, size = NETWORKS[name]
    module = scrambled(make())
    given = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    before = module(given)
    spec = spec_of(family, shapes_of(module), {}, Symmetries())
    maps = spec.random(np.random.default_rng(5))
    state = {key: spec.apply(maps, key, value) for key, value in module.state_dict().items()}
    changed = [key for key, value in module.state_dict().items() if not torch.equal(state[key], value)]
    assert len(changed) > len(state) // 2
    module.load_state_dict(state)
    torch.testing.assert_close(module(given), before, rtol=1e-10, atol=1e-10)


def test_every_unit_but_inputs_and_labels_may_move() -> None:
    spec = spec_of("mlp", shapes_of(mlp(6, 8, 7, 5)), {}, Symmetries())
    assert {label: kind.sizes["unit"] for label, kind in spec.labels.items()} == {"0": 8, "2": 7}
    spec = spec_of("resnet", shapes_of(ResNet((2, 1))), {}, Symmetries())
    assert {label: kind.sizes["unit"] for label, kind in spec.labels.items()} == {
        "stem": 4, "layer1.0.1": 4, "layer1.1.1": 4, "layer2.0.stream": 8, "layer2.0.1": 8,
    }  # fmt: skip


def test_running_statistics_move_with_their_channels_and_are_not_compared() -> None:
    spec = spec_of("vgg", shapes_of(VGG(norms=True)), {}, Symmetries())
    assert {name.rpartition(".")[2] for name in spec.unmatched} == {"running_mean", "running_var"}
    assert all(spec.moves(name) for name in spec.unmatched)


def test_a_stream_may_stay_while_the_channels_inside_blocks_move() -> None:
    spec = spec_of("resnet", shapes_of(ResNet((2, 1))), {}, Symmetries(residual="none"))
    assert list(spec.labels) == ["layer1.0.1", "layer1.1.1", "layer2.0.1"]


@pytest.mark.parametrize("residual", ["signed", "orthogonal"])
@pytest.mark.parametrize("family", ["mlp", "vgg", "resnet"])
def test_symmetries_that_no_activation_passes_are_refused(family: str, residual: Any) -> None:
    with pytest.raises(AlignmentError, match=f"{residual!r} isn't one of this network.*only permutations pass"):
        spec_of(family, shapes_of(ResNet((1,))), {}, Symmetries(residual=residual))


def test_layers_that_do_not_follow_one_another_are_refused() -> None:
    shapes = {"a.weight": (8, 6), "b.weight": (5, 7)}
    with pytest.raises(AlignmentError, match=r"b\.weight has 7 inputs, and a\.weight before it 8 units"):
        spec_of("mlp", shapes, {}, Symmetries())
    shapes = {"conv1.weight": (8, 3, 3, 3), "fc1.weight": (8, 8), "bn1.weight": (8,), "head.weight": (2, 8)}
    with pytest.raises(AlignmentError, match=r"bn1\.weight: its name and its shape \[8\] don't tell which layer's"):
        spec_of("vgg", shapes, {}, Symmetries())


def test_networks_that_are_no_resnets_are_refused() -> None:
    odd = {**shapes_of(ResNet((1,))), "layer1.0.se.fc.weight": (4, 4)}
    with pytest.raises(AlignmentError, match=r"isn't a ResNet.*layer1\.0\.se\.fc\.weight"):
        spec_of("resnet", odd, {}, Symmetries())
    with pytest.raises(AlignmentError, match="isn't a ResNet"):
        spec_of("resnet", shapes_of(VGG()), {}, Symmetries())


def test_a_shortcut_without_weights_between_widths_that_differ_is_refused() -> None:
    shapes = {name: shape for name, shape in shapes_of(ResNet((1, 1))).items() if "downsample" not in name}
    with pytest.raises(AlignmentError, match=r"layer2\.0"):
        spec_of("resnet", shapes, {}, Symmetries())
