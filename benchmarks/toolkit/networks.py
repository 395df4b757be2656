"""Small classifiers, trained on the spot: their tensors are named and shaped as torchvision names and shapes them.

Knows layers and training. Does not know merging.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from data import Split
from torch import Tensor, nn
from torch.nn import functional


def mlp(inputs: int, widths: Sequence[int], classes: int) -> nn.Sequential:
    """Dense layers with ReLU between, names as in torchvision.ops.MLP without dropout: 1.weight, 3.weight, ..."""
    sizes = [inputs, *widths, classes]
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class VGG(nn.Module):
    """Convolutions without normalisation, pooled by 2 after each stage, then dense layers: features.*, classifier.*."""

    def __init__(self, channels: int, stages: Sequence[Sequence[int]], side: int, hidden: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for stage in stages:
            for width in stage:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
            side //= 2
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(channels * side * side, hidden), nn.ReLU(), nn.Linear(hidden, classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits (items, classes)."""
        return self.classifier(self.features(images).flatten(1))


class BasicBlock(nn.Module):
    """Two convolutions with batch normalisation beside a skip."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1 or channels != width:
            self.downsample = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, images: Tensor) -> Tensor:
        """The sum of both ways, rectified."""
        skip = images if self.downsample is None else self.downsample(images)
        inner = functional.relu(self.bn1(self.conv1(images)))
        return functional.relu(self.bn2(self.conv2(inner)) + skip)


class ResNet(nn.Module):
    """A stem of 3 × 3, then a stage for each width, halving the image from the second on: conv1, bn1, layer1.*, fc."""

    def __init__(self, channels: int, widths: Sequence[int], blocks: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.stages = len(widths)
        fan_in = widths[0]
        for number, width in enumerate(widths, start=1):
            stride = 1 if number == 1 else 2
            first = BasicBlock(fan_in, width, stride)
            rest = (BasicBlock(width, width, 1) for _ in range(blocks - 1))
            setattr(self, f"layer{number}", nn.Sequential(first, *rest))
            fan_in = width
        self.fc = nn.Linear(fan_in, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (items, classes)."""
        hidden = functional.relu(self.bn1(self.conv1(images)))
        for number in range(1, self.stages + 1):
            hidden = getattr(self, f"layer{number}")(hidden)
        return self.fc(hidden.mean((-2, -1)))


class Quality(NamedTuple):
    """Share of the items that are classified right, and mean cross-entropy in nats."""

    accuracy: float
    loss: float


def train(network: nn.Module, split: Split, *, epochs: int, rate: float, seed: int, batch: int = 64) -> None:
    """Train in place by AdamW, the rate falling to 0 along half a cosine; batches are drawn from `seed` alone."""
    generator = torch.Generator().manual_seed(seed)
    steps = epochs * (len(split.labels) // batch)
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    network.train()
    for _ in range(epochs):
        order = torch.randperm(len(split.labels), generator=generator)
        for chosen in order[: len(order) // batch * batch].split(batch):
            loss = functional.cross_entropy(network(split.inputs[chosen]), split.labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    network.eval()


@torch.no_grad()
def quality(network: nn.Module, split: Split, *, batch: int = 512) -> Quality:
    """How well the network classifies, as it stands (in its mode of evaluation)."""
    network.eval()
    logits = torch.cat([network(part) for part in split.inputs.split(batch)])
    right = logits.argmax(-1) == split.labels
    return Quality(right.double().mean().item(), functional.cross_entropy(logits.double(), split.labels).item())
