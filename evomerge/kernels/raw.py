"""Tensors as they lie in files and in memory, for what reads and writes them without torch."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from evomerge.kernels.dtypes import Dtype, dtype_of
from evomerge.late import Tensor, torch

_FIRST, _COMPARED = 1 << 10, 1 << 20
"""Entries that are compared first, where most tensors that differ do so, and then at a time."""


class _Device(NamedTuple):
    type: str


class RawTensor:
    """A tensor on the CPU that torch needn't know of: its bits, and what they mean.

    It has those of the methods of `torch.Tensor` that kernels use beside compiled loops, which take addresses. So
    methods that leave all arithmetic to kernels can be given it in a tensor's place.

    Args:
        bits: unsigned integers of the dtype's size, of the tensor's shape and any strides.
        dtype: what they mean.
    """

    __slots__ = ("bits", "dtype")

    device = _Device("cpu")

    def __init__(self, bits: NDArray[Any], dtype: Dtype) -> None:
        self.bits = bits
        self.dtype = dtype

    @classmethod
    def over(cls, memory: NDArray[np.uint8], dtype: Dtype, shape: tuple[int, ...]) -> RawTensor:
        """A tensor at the start of some memory, which is not copied."""
        size = math.prod(shape) * dtype.itemsize
        return cls(memory[:size].view(f"u{dtype.itemsize}").reshape(shape), dtype)

    @classmethod
    def of(cls, tensor: Tensor) -> RawTensor:
        """One of torch's, whose memory it shares if that is contiguous and on the CPU."""
        dtype, flat = dtype_of(tensor.dtype), tensor.detach().cpu().contiguous().reshape(-1)
        return cls.over(flat.view(torch.uint8).numpy(), dtype, tuple(tensor.shape))

    def torch(self) -> Tensor:
        """As torch's, of the same memory."""
        signed: NDArray[Any] = self.bits.view(f"i{self.dtype.itemsize}")
        return torch.from_numpy(signed).view(self.dtype.torch)

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sides."""
        return self.bits.shape

    def dim(self) -> int:
        """Number of its sides."""
        return self.bits.ndim

    def numel(self) -> int:
        """Number of its entries."""
        return self.bits.size

    def element_size(self) -> int:
        """Bytes of an entry."""
        return self.dtype.itemsize

    def data_ptr(self) -> int:
        """Address of its first entry."""
        address: int = self.bits.__array_interface__["data"][0]
        return address

    def is_contiguous(self) -> bool:
        """Whether entries lie one after the other."""
        return bool(self.bits.flags.c_contiguous)

    def contiguous(self) -> RawTensor:
        """Itself, or a copy whose entries lie one after the other."""
        return self if self.is_contiguous() else self.clone()

    def clone(self) -> RawTensor:
        """A contiguous copy."""
        return RawTensor(self.bits.copy(order="C"), self.dtype)

    def detach(self) -> RawTensor:
        """Itself."""
        return self

    def cpu(self) -> RawTensor:
        """Itself."""
        return self

    def view(self, *shape: int) -> RawTensor:
        """Of another shape."""
        return RawTensor(self.bits.reshape(shape), self.dtype)

    def movedim(self, source: int, destination: int) -> RawTensor:
        """With one side in another place, not copied."""
        return RawTensor(np.moveaxis(self.bits, source, destination), self.dtype)

    def new_empty(self, shape: tuple[int, ...]) -> RawTensor:
        """New memory for a tensor of its dtype."""
        return RawTensor(np.empty(shape, dtype=self.bits.dtype), self.dtype)

    def copy_(self, other: RawTensor) -> None:
        """Take over the entries of another of its shape and dtype."""
        assert other.dtype == self.dtype, "torch converts dtypes"
        self.bits[...] = other.bits

    def equals(self, other: RawTensor) -> bool:
        """Whether shape and numbers are the same, as for `torch.equal`: zeros of either sign are, NaN never is."""
        if self.shape != other.shape:
            return False
        one, two = (tensor.contiguous().bits.reshape(-1) for tensor in (self, other))
        starts = (0, *range(_FIRST, one.size, _COMPARED))
        parts = (slice(first, first + (_COMPARED if first else _FIRST)) for first in starts)
        return all(np.array_equal(_numbers(one[part], self.dtype), _numbers(two[part], other.dtype)) for part in parts)


def as_torch(tensor: Tensor | RawTensor) -> Tensor:
    """As torch's, of the same memory, if it isn't."""
    return tensor.torch() if isinstance(tensor, RawTensor) else tensor


def bytes_beside(tensor: Tensor | RawTensor, values: NDArray[np.uint8]) -> Tensor:
    """Bytes that lie beside a tensor's entries, of the tensor's kind and where it is; on the CPU they aren't copied."""
    if isinstance(tensor, RawTensor):
        beside: Any = RawTensor(values, dtype_of("uint8"))
        return cast("Tensor", beside)
    return torch.from_numpy(values).to(tensor.device)


def _numbers(bits: NDArray[Any], dtype: Dtype) -> NDArray[Any]:
    """What bits stand for, as NumPy knows it."""
    if dtype.name == "bfloat16":
        return (bits.astype(np.uint32) << 16).view(np.float32)
    if dtype.name.startswith("float8"):
        return np.asarray(RawTensor(bits, dtype).torch().float().numpy())
    return bits.view(dtype.name)
