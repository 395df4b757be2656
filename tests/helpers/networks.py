"""Small networks for images and vectors, with the names that torchvision and others give their tensors."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """A ResNet's block of two 3×3 convolutions, or of three that narrow and widen again."""

    def __init__(self, reads: int, width: int, out: int, stride: int, *, bottleneck: bool) -> None:
        super().__init__()
        sizes = (
            [(reads, width, 1), (width, width, 3), (width, out, 1)]
            if bottleneck
            else [
                (reads, width, 3),
                (width, out, 3),
            ]
        )
        self.depth = len(sizes)
        for number, (before, after, kernel) in enumerate(sizes, start=1):
            step = stride if number == self.depth - 1 else 1
            setattr(self, f"conv{number}", nn.Conv2d(before, after, kernel, step, kernel // 2, bias=False))
            setattr(self, f"bn{number}", nn.BatchNorm2d(after))
        self.downsample = None
        if stride != 1 or reads != out:
            self.downsample = nn.Sequential(nn.Conv2d(reads, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for number in range(1, self.depth + 1):
            y = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(y))
            y = y.relu() if number < self.depth else y
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class ResNet(nn.Module):
    """torchvision's ResNet, narrower; or that of three stages for small images."""

    def __init__(self, depths: tuple[int, ...], width: int = 4, *, bottleneck: bool = False, labels: int = 5) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        reads, grows = width, 4 if bottleneck else 1
        self.stages = len(depths)
        for stage, depth in enumerate(depths):
            own, blocks = width * 2**stage, []
            for place in range(depth):
                stride = 2 if stage and place == 0 else 1
                blocks.append(Block(reads, own, own * grows, stride, bottleneck=bottleneck))
                reads = own * grows
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(reads, labels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


class VGG(nn.Module):
    """torchvision's VGG, smaller: `features`, pooled to 2×2, flattened, `classifier`."""

    def __init__(self, widths: tuple[int, ...] = (4, 6, 8), *, norms: bool = False, labels: int = 5) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((3, *widths), widths, strict=False):
            layers += [nn.Conv2d(before, after, 3, padding=1), *([nn.BatchNorm2d(after)] if norms else []), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Sequential(
            nn.Linear(4 * widths[-1], 12), nn.ReLU(), nn.Dropout(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, labels)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.pool(self.features(x)).flatten(1))
        return out


class Named(nn.Module):
    """A network with a norm behind each layer, called by number."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.bn1 = nn.Linear(6, 8), nn.BatchNorm1d(8)
        self.fc2, self.bn2 = nn.Linear(8, 7), nn.BatchNorm1d(7)
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.bn2(self.fc2(self.bn1(self.fc1(x)).relu())).tanh())
        return out


def mlp(*widths: int) -> nn.Sequential:
    """Dense layers with ReLU between them; more than ten, so that their names sort otherwise than they count."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def scrambled(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in float64 for evaluation, every number of it random, its running statistics too."""
    generator = torch.Generator().manual_seed(seed)
    module.double().eval()
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            fan = tensor[0].numel() if tensor.ndim > 1 else 1
            noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype) / fan**0.5
            tensor.copy_(noise.abs() + 0.5 if name.endswith("running_var") else noise)
    return module
