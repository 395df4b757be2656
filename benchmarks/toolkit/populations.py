"""Networks of one architecture that were trained apart: from other starts, with other orders of batches.

Knows which networks are trained on what. Does not know alignment or merging.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import torch
from data import Images, Split
from networks import VGG, ResNet, mlp, train
from safetensors.torch import load_model, save_model
from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """An architecture with what it is trained on, and how; `model_type` is that of its alignment spec."""

    model_type: str
    data: str
    make: Callable[[], nn.Module]
    epochs: int
    rate: float


KINDS = {
    "mlp": Kind(model_type="mlp", data="mnist_5k", make=lambda: mlp(784, (128, 128), 10), epochs=20, rate=1e-3),
    "mlp1d": Kind(model_type="mlp", data="mnist1d", make=lambda: mlp(40, (256, 256), 10), epochs=30, rate=1e-3),
    "vgg": Kind(
        model_type="vgg",
        data="digits",
        make=lambda: VGG(1, ((32,), (64, 64)), side=8, hidden=128, classes=10),
        epochs=12,
        rate=2e-3,
    ),
    "resnet": Kind(
        model_type="resnet", data="digits", make=lambda: ResNet(1, (16, 32, 64), 1, 10), epochs=10, rate=3e-3
    ),
}


def train_apart(
    kind: Kind, images: Images, count: int, *, seed: int, epochs: int | None = None, folder: Path | None = None
) -> list[nn.Module]:
    """So many networks, in their mode of evaluation.

    Args:
        kind: what they are.
        images: their training part is used.
        count: how many.
        seed: of all of them; each has its own start and order of batches.
        epochs: of training; None: as many as their kind asks for.
        folder: where they are kept, and taken from if they are there already; None keeps nothing.
    """
    kind = kind if epochs is None else replace(kind, epochs=epochs)
    return [_trained(kind, images.train, 1000 * seed + place, folder) for place in range(count)]


def _trained(kind: Kind, split: Split, seed: int, folder: Path | None) -> nn.Module:
    file = None if folder is None else folder / f"{kind.data}-{kind.model_type}-{kind.epochs}-{seed}.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = kind.make()
    if file is not None and file.exists():
        load_model(network, file)
        return network.eval()
    start = perf_counter()
    train(network, split, epochs=kind.epochs, rate=kind.rate, seed=seed)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_model(network, str(file))
    print(f"  trained {kind.model_type} {seed} on {kind.data} in {perf_counter() - start:.0f} s", flush=True)
    return network


def weights(network: nn.Module) -> dict[str, torch.Tensor]:
    """Its floating-point tensors by name, parameters and running statistics."""
    return {name: tensor for name, tensor in network.state_dict().items() if tensor.is_floating_point()}


def holding(network: nn.Module, tensors: dict[str, torch.Tensor]) -> nn.Module:
    """A copy of a network with other tensors, in its mode of evaluation."""
    copy = deepcopy(network)
    copy.load_state_dict(tensors, strict=False)
    return copy.eval()


def has_running_statistics(network: nn.Module) -> bool:
    """Whether it normalises by running statistics, which an average has to measure anew."""
    return any(name.endswith("running_mean") for name, _ in network.named_buffers())
