"""The space inside one attention head: which rotations of it cancel between the tensors on both of its sides.

Between queries and keys stand rotary position embeddings, which only rotations of each frequency's pair of
coordinates commute with; a norm of queries and keys leaves their signs. Nothing stands between values and output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from evomerge.alignment.kinds.base import is_orthogonal, polar, random_orthogonal

Inside = Literal["none", "signs", "rotations"]


@dataclass(frozen=True, slots=True)
class HeadSpace:
    """The maps of a head's coordinates.

    Attributes:
        size: number of coordinates.
        maps: "none" leaves them as they are; "signs" are one for each rotary pair and each other coordinate;
            "rotations" are by one angle for each rotary pair, and any of the other coordinates.
        rotary: how many coordinates, from the first, are rotated by position; even.
        interleaved: pairs are (0, 1), (2, 3), … instead of (0, rotary/2), (1, rotary/2 + 1), ….
    """

    size: int
    maps: Inside = "none"
    rotary: int = 0
    interleaved: bool = False

    def identity(self, groups: int) -> Tensor:
        """(groups, size, size)."""
        return torch.eye(self.size, dtype=torch.float64).repeat(groups, 1, 1)

    def random(self, groups: int, generator: np.random.Generator) -> Tensor:
        """Any map for each group, (groups, size, size)."""
        found = self.identity(groups)
        if self.maps == "none":
            return found
        pairs, rest = self.rotary // 2, self.size - self.rotary
        signs = self.maps == "signs"
        angles = (
            generator.integers(0, 2, (groups, pairs)) * np.pi if signs else generator.uniform(-9, 9, (groups, pairs))
        )
        phases = torch.from_numpy(np.exp(1j * angles))
        for group in range(groups):
            found[group] = self._matrix(phases[group].real.round() + 0j if signs else phases[group])
            if signs:
                found[group, self.rotary :, self.rotary :] = torch.diag(
                    torch.from_numpy(generator.integers(0, 2, rest) * 2.0 - 1)
                )
            elif rest:
                found[group, self.rotary :, self.rotary :] = random_orthogonal(rest, generator)
        return found

    def gain(self, products: Tensor) -> Tensor:
        """max_R ⟨R, C⟩ over the maps, for each C of (..., size, size); (...), float64."""
        if self.maps == "none":
            return products.diagonal(dim1=-2, dim2=-1).sum(-1, dtype=torch.float64)
        phases, rest = self._phases(products.double()), products[..., self.rotary :, self.rotary :].double()
        if self.maps == "signs":
            return phases.real.abs().sum(-1) + rest.diagonal(dim1=-2, dim2=-1).abs().sum(-1)
        turned = phases.abs().sum(-1)
        return turned + torch.linalg.svdvals(rest).sum(-1) if rest.shape[-1] else turned

    def best(self, products: Tensor) -> Tensor:
        """The map that maximises ⟨R, C⟩ for each C of (groups, size, size)."""
        found = self.identity(products.shape[0])
        if self.maps == "none":
            return found
        phases, rest = self._phases(products.double()), products[..., self.rotary :, self.rotary :].double()
        if self.maps == "signs":
            phases = _sign(phases.real) + 0j
            inner = torch.diag_embed(_sign(rest.diagonal(dim1=-2, dim2=-1)))
        else:
            phases = torch.where(phases == 0, 1 + 0j, phases / phases.abs().clamp_min(1e-300))
            inner = polar(rest) if rest.shape[-1] else rest
        for group in range(len(found)):
            found[group] = self._matrix(phases[group])
        found[:, self.rotary :, self.rotary :] = inner
        return found

    def contains(self, maps: Tensor) -> bool:
        """Whether each of (groups, size, size) is one of its maps."""
        if not is_orthogonal(maps):
            return False
        # The nearest map of the group to one that is in it is itself.
        return bool(((self.best(maps) - maps).abs() <= 1e-6).all())

    def _pairs(self) -> tuple[Tensor, Tensor]:
        """The first and the second coordinate of each rotary pair."""
        if self.interleaved:
            return torch.arange(0, self.rotary, 2), torch.arange(1, self.rotary, 2)
        return torch.arange(self.rotary // 2), torch.arange(self.rotary // 2, self.rotary)

    def _phases(self, products: Tensor) -> Tensor:
        """For each pair the number whose argument is its best angle, and whose length what that gains."""
        one, two = self._pairs()
        real = products[..., one, one] + products[..., two, two]
        imaginary = products[..., two, one] - products[..., one, two]
        return torch.complex(real, imaginary)

    def _matrix(self, phases: Tensor) -> Tensor:
        """The rotation by the phases of its pairs, (pairs,) complex of length 1, the other coordinates staying."""
        one, two = self._pairs()
        found = torch.eye(self.size, dtype=torch.float64)
        found[one, one] = found[two, two] = phases.real
        found[two, one] = phases.imag
        found[one, two] = -phases.imag
        return found


def _sign(numbers: Tensor) -> Tensor:
    """1 or −1 for each number; 1 for 0."""
    return torch.where(numbers < 0, -1.0, 1.0).double()
