"""The name of a prepared state: a hash of all that it depends on.

That is the code of methods and kernels, the options, and the bytes of the models' tensors.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor

from evomerge import kernels, methods
from evomerge.methods.base import MergeMethod, TensorInputs

_FORMAT = 1
_STRETCHES, _STRETCH = 8, 512


def key_of(
    method: MergeMethod, tensors: Iterable[TensorInputs], files: Iterable[Path], device: torch.device
) -> str | None:
    """A name for all that the states of a merge depend on; None if the method's code can't be told from another's.

    Args:
        method: with its options, experts and seed.
        tensors: all that it prepares, of which some stretches of entries are compared.
        files: where they come from, whose names, sizes and times of change are.
        device: where they are; what is computed on a GPU may differ in the last bits.
    """
    try:
        code = _code_of(type(method))
    except (OSError, TypeError):
        return None
    facts = {
        "format": _FORMAT,
        "code": code,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": device.type,
        "options": method.option,
        "seed": method.seed,
        "experts": method.experts,
        "files": [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files],
    }
    found = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for inputs in tensors:
        found.update(inputs.name.encode())
        for tensor in (inputs.base, *inputs.experts):
            found.update(b"none" if tensor is None else _fingerprint(tensor))
    return f"{quote(method.name, safe='')}-{found.hexdigest()[:24]}"


def _code_of(method: type[MergeMethod]) -> str:
    """A hash of the source of kernels and merge methods, and of the modules that the method's own classes come from.

    Versions say less: a method may be still in the making, and where Ray brings the package along it isn't installed.
    """
    files = [file for room in (kernels, methods) for file in sorted(Path(room.__path__[0]).rglob("*.py"))]
    files += [Path(inspect.getfile(kind)) for kind in method.__mro__ if issubclass(kind, MergeMethod)]
    found = hashlib.sha256()
    for file in files:
        found.update(hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()


def _fingerprint(tensor: Tensor) -> bytes:
    """Shape, dtype and some stretches of entries, from the first to the last: any training changes these."""
    flat = tensor.detach().reshape(-1)
    last = max(0, len(flat) - _STRETCH)
    found = hashlib.sha256(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
    for start in sorted({last * part // (_STRETCHES - 1) for part in range(_STRETCHES)}):
        found.update(bytes_of(flat[start : start + _STRETCH].cpu()))
    return found.digest()


def bytes_of(tensor: Tensor) -> Any:
    """A tensor's memory, as bytes."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
