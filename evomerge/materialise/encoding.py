"""What a merge method prepares, as tensors and JSON, and back again.

Knows the plain values that a state is made of: numbers, text, tensors, arrays, and tuples, lists, mappings, frozen
dataclasses and named tuples of them. Does not know files, nor what a state means. Reading runs no code of the file's:
classes are looked up among those already imported.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomerge.kernels.dtypes import DTYPES

_PLAIN = (type(None), bool, int, float, str)
_STORED = frozenset(dtype.torch for dtype in DTYPES.values())


@dataclass(frozen=True, slots=True)
class Encoded:
    """A state taken apart: contiguous tensors on the CPU, none sharing memory, and how they belong together."""

    tensors: Mapping[str, Tensor]
    structure: str
    """JSON, which refers to the tensors by name."""

    @property
    def size_bytes(self) -> int:
        """Size of the tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())


def encode(state: Any) -> Encoded:
    """Take a state apart. Raises: TypeError if something in it isn't one of the plain values."""
    tensors: dict[str, Tensor] = {}
    structure = json.dumps(_taken_apart(state, tensors))
    return Encoded(tensors, structure)


def decode(encoded: Encoded, device: torch.device | str) -> Any:
    """Put a state together again.

    Args:
        encoded: what `encode` made. Its tensors become those of the state, without a copy on the CPU.
        device: where tensors belong that weren't on the CPU.

    Raises: ValueError if it isn't what `encode` makes.
    """
    try:
        return _put_together(json.loads(encoded.structure), encoded.tensors, torch.device(device))
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"no encoded state: {error}") from error


def _taken_apart(value: Any, tensors: dict[str, Tensor]) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is Tensor:
        return {"tensor": _stored(value, tensors), "on": value.device.type}
    if kind is np.ndarray:
        return {"array": _stored(_as_tensor(value), tensors)}
    if isinstance(value, np.generic):
        return {"scalar": _stored(_as_tensor(np.asarray(value)), tensors)}
    if kind in (tuple, list):
        return {kind.__name__: [_taken_apart(part, tensors) for part in value]}
    if kind is dict:
        return {"dict": [[_taken_apart(key, tensors), _taken_apart(part, tensors)] for key, part in value.items()]}
    name = f"{kind.__module__}:{kind.__qualname__}"
    fields = _fields(kind)
    if fields is None or _imported(name) is not kind:
        raise TypeError(f"{kind.__module__}.{kind.__qualname__} can't be written to a file and read back")
    return {"class": name, "fields": {field: _taken_apart(getattr(value, field), tensors) for field in fields}}


def _put_together(node: Any, tensors: Mapping[str, Tensor], device: torch.device) -> Any:
    if not isinstance(node, dict):
        return node
    match node:
        case {"tensor": name, "on": place}:
            return tensors[name] if place == "cpu" else tensors[name].to(device)
        case {"array": name}:
            return tensors[name].numpy()
        case {"scalar": name}:
            return tensors[name].numpy()[()]
        case {"tuple": parts}:
            return tuple(_put_together(part, tensors, device) for part in parts)
        case {"list": parts}:
            return [_put_together(part, tensors, device) for part in parts]
        case {"dict": pairs}:
            return {_put_together(key, tensors, device): _put_together(part, tensors, device) for key, part in pairs}
        case {"class": name, "fields": fields}:
            kind = _imported(name)
            if kind is None or _fields(kind) is None:
                raise ValueError(f"no encoded state: {name} is no frozen dataclass that is imported here")
            return kind(**{field: _put_together(part, tensors, device) for field, part in fields.items()})
    raise ValueError(f"no encoded state: {sorted(node)}")


def _stored(tensor: Tensor, tensors: dict[str, Tensor]) -> str:
    """Add a tensor to those to be stored, under a name of its own."""
    if tensor.layout != torch.strided or tensor.dtype not in _STORED:
        raise TypeError(f"a tensor of {tensor.dtype} and {tensor.layout} can't be written to a file and read back")
    found = tensor.detach().cpu().contiguous()
    storage = found.untyped_storage()
    shared = any(storage.data_ptr() == other.untyped_storage().data_ptr() for other in tensors.values())
    if shared or storage.nbytes() != found.numel() * found.element_size():
        found = found.clone()
    name = str(len(tensors))
    tensors[name] = found
    return name


def _as_tensor(array: np.ndarray[Any, Any]) -> Tensor:
    try:
        return torch.from_numpy(np.require(array, requirements=("C", "W")))
    except ValueError as error:
        raise TypeError(str(error)) from error


def _fields(kind: type) -> tuple[str, ...] | None:
    """What a frozen dataclass or a named tuple is made from; None if the class is neither."""
    if issubclass(kind, tuple):
        return getattr(kind, "_fields", None)
    if not dataclasses.is_dataclass(kind) or not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        return None
    fields = dataclasses.fields(kind)
    return tuple(field.name for field in fields) if all(field.init for field in fields) else None


def _imported(name: str) -> type | None:
    """The class of this name in a module that is imported already."""
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) else None
