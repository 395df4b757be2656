"""Folding the gains of norms into the tensors that read them, so that the stream between may be turned at will.

Knows tensors by name and read one at a time. Doesn't know architectures: a family says which tensors read which norm.
A model computes the same before and after, and stays one of its architecture: the gains are still there, all ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from evomerge.errors import AlignmentError

Read = Callable[[str], Tensor]
"""The stored tensor of a name."""


@dataclass(frozen=True, slots=True)
class Reader:
    """A matrix that is applied to the output of a norm.

    Attributes:
        weight: name of the matrix.
        axis: its axis along the norm's output: 1 of a linear layer's weight.
        bias: name of the vector that is added to the product; None if there is none.
    """

    weight: str
    axis: int = 1
    bias: str | None = None


def linear(shapes: Mapping[str, tuple[int, ...]], module: str) -> Reader:
    """A linear layer as a reader, with its bias if it has one."""
    bias = f"{module}.bias"
    return Reader(f"{module}.weight", bias=bias if bias in shapes else None)


@dataclass(frozen=True, slots=True)
class Norm:
    """A norm and all that reads its output.

    Attributes:
        gain: name of its gain.
        readers: every tensor that its output is multiplied with.
        bias: name of the vector that it adds; None for an RMSNorm.
        offset: what is added to the stored gain before it is used: 1 in Gemma.
    """

    gain: str
    readers: tuple[Reader, ...]
    bias: str | None = None
    offset: float = 0.0


@dataclass(frozen=True)
class Folding:
    """How to fold the norms of one model.

    Attributes:
        norms: every norm on the stream.
        centred: name of each tensor that writes to the stream → its axis along it. Their mean along it is taken off,
            which no LayerNorm sees. Empty for RMSNorm, which would see it. Names that a model lacks change nothing.
        untied: name of a tensor that the folded model has of its own → the tensor that held both.
    """

    norms: tuple[Norm, ...]
    centred: Mapping[str, int] = field(default_factory=dict)
    untied: Mapping[str, str] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        """Settings of config.json that change."""
        return {"tie_word_embeddings": False} if self.untied else {}

    def shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """The shapes of the folded model's tensors, from those of the stored ones."""
        return {**shapes, **{name: tuple(shapes[source]) for name, source in self.untied.items()}}

    def note(self) -> str:
        """What folding does to the model, in one sentence."""
        text = "the gains of the norms are folded into the tensors that read them, and are all ones"
        if self.untied:
            text += (
                f"; head and embedding are no longer tied ({', '.join(f'{k}: {v}' for k, v in _json(self.config))}),"
                f" and {', '.join(self.untied)} is a tensor of its own"
            )
        return text

    def tensor(self, name: str, read: Read) -> Tensor:
        """The folded model's tensor called `name`, in float64 if it is stored so, else in float32.

        Raises: AlignmentError for a gain of 0 that hides what can't be folded.
        """
        stored = read(self.untied.get(name, name))
        tensor = _wide(stored)
        if (axis := self.centred.get(name)) is not None:
            tensor = tensor - tensor.mean(dim=axis, keepdim=True)
        if (read_by := self._reading.get(name)) is not None:
            norm, reader = read_by
            return tensor * _along(self._gain(norm, read), reader.axis, tensor.ndim).to(tensor.dtype)
        if (added_to := self._added.get(name)) is not None:
            norm, reader = added_to
            return tensor + self._shift(norm, reader, read).to(tensor.dtype)
        if name in self._gains:
            return torch.full_like(tensor, 1.0 - self._gains[name].offset)
        if (norm_of := self._biases.get(name)) is not None:
            return self._bias(norm_of, tensor, read)
        return tensor

    @cached_property
    def _reading(self) -> dict[str, tuple[Norm, Reader]]:
        return {reader.weight: (norm, reader) for norm in self.norms for reader in norm.readers}

    @cached_property
    def _added(self) -> dict[str, tuple[Norm, Reader]]:
        pairs = ((norm, reader) for norm in self.norms if _folds_bias(norm) for reader in norm.readers)
        return {reader.bias: (norm, reader) for norm, reader in pairs if reader.bias is not None}

    @cached_property
    def _gains(self) -> dict[str, Norm]:
        return {norm.gain: norm for norm in self.norms}

    @cached_property
    def _biases(self) -> dict[str, Norm]:
        return {norm.bias: norm for norm in self.norms if norm.bias is not None}

    def _gain(self, norm: Norm, read: Read) -> Tensor:
        return _wide(read(norm.gain)) + norm.offset

    def _shift(self, norm: Norm, reader: Reader, read: Read) -> Tensor:
        """What the norm's bias comes to behind a reader."""
        assert norm.bias is not None
        weight = _wide(read(self.untied.get(reader.weight, reader.weight)))
        return weight.movedim(reader.axis, -1) @ _wide(read(norm.bias)).to(weight.dtype)

    def _bias(self, norm: Norm, bias: Tensor, read: Read) -> Tensor:
        """0 if the readers' biases took it; else divided by the gain, which the readers multiply with."""
        if _folds_bias(norm):
            return torch.zeros_like(bias)
        gain = self._gain(norm, read).to(bias.dtype)
        hidden = (gain == 0) & (bias != 0)
        if bool(hidden.any()):
            raise AlignmentError(
                f"{norm.gain}: is 0 at {int(hidden.sum())} places where {norm.bias} isn't, so that the norm can't be "
                "folded; align with permutations instead"
            )
        return torch.where(gain == 0, torch.zeros_like(bias), bias / gain)


def _folds_bias(norm: Norm) -> bool:
    return norm.bias is not None and all(reader.bias is not None for reader in norm.readers)


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.to(torch.float32)


def _along(vector: Tensor, axis: int, ndim: int) -> Tensor:
    return vector.reshape([-1 if place == axis else 1 for place in range(ndim)])


def _json(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(key, str(value).lower() if isinstance(value, bool) else str(value)) for key, value in config.items()]
