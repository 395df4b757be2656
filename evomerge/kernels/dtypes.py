"""The dtypes of stored tensors: what they are called, and how large their numbers are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from evomerge.late import torch


@dataclass(frozen=True, slots=True)
class Dtype:
    """A dtype, known without torch.

    Attributes:
        name: as torch and configs call it.
        header: as safetensors headers call it.
        itemsize: bytes of a number.
        is_floating_point: whether it has fractions.
    """

    name: str
    header: str
    itemsize: int
    is_floating_point: bool

    @property
    def torch(self) -> torch.dtype:
        """Torch's own."""
        found: torch.dtype = getattr(torch, self.name)
        return found

    def __str__(self) -> str:
        return f"torch.{self.name}"


DTYPES = {
    dtype.header: dtype
    for dtype in (
        Dtype("float64", "F64", 8, True),
        Dtype("float32", "F32", 4, True),
        Dtype("float16", "F16", 2, True),
        Dtype("bfloat16", "BF16", 2, True),
        Dtype("float8_e4m3fn", "F8_E4M3", 1, True),
        Dtype("float8_e5m2", "F8_E5M2", 1, True),
        Dtype("int64", "I64", 8, False),
        Dtype("int32", "I32", 4, False),
        Dtype("int16", "I16", 2, False),
        Dtype("int8", "I8", 1, False),
        Dtype("uint8", "U8", 1, False),
        Dtype("uint16", "U16", 2, False),
        Dtype("uint32", "U32", 4, False),
        Dtype("uint64", "U64", 8, False),
        Dtype("bool", "BOOL", 1, False),
    )
}
"""Those that safetensors files hold, as their headers write them."""

_BY_NAME = {dtype.name: dtype for dtype in DTYPES.values()}
_CODES = {"float32": 0, "bfloat16": 1, "float16": 2, "float64": 3}


@cache
def dtype_of(dtype: torch.dtype | str) -> Dtype:
    """One of torch's dtypes, or the name of one. Raises: KeyError for one that no file holds."""
    return _BY_NAME[str(dtype).removeprefix("torch.")]


@cache
def code_of(dtype: torch.dtype | Dtype) -> int | None:
    """By what compiled loops know a dtype; None for those that they can't read."""
    return _CODES.get(str(dtype).removeprefix("torch."))


FLOAT32, BFLOAT16 = _CODES["float32"], _CODES["bfloat16"]
