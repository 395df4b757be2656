"""Several devices of one kind on a CPU: tensors really lie on them, and an operation over two of them is an error.

A backend of torch's own for such uses ("privateuseone"), which computes with the CPU tensors that its tensors hold. It
can't be taken back, so use it in a process of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import return_and_correct_aliasing as _aliased
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME, COUNT = "pretend", 3

_CARRIES = {torch.ops.aten.copy_, torch.ops.aten._to_copy, torch.ops.aten.to}
_INDEXES = {torch.ops.aten.index, torch.ops.aten.index_put_, torch.ops.aten.index_put}


class OnDevice(Tensor):
    """A tensor on one of the devices."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, device: torch.device) -> OnDevice:
        made: OnDevice = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=device,
            requires_grad=False,
        )
        assert type(held) is not OnDevice
        made.held = held
        return made

    def __init__(self, held: Tensor, device: torch.device) -> None: ...

    def __tensor_flatten__(self) -> tuple[list[str], torch.device]:
        return ["held"], self.device

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], device: torch.device, size: Any, stride: Any) -> OnDevice:
        return OnDevice(inner["held"], device)

    def tolist(self) -> Any:
        return self.held.tolist()

    def __getitem__(self, places: Any) -> Any:
        # Lists among indices become tensors without asking the device.
        chosen = places if isinstance(places, tuple) else (places,)
        made = tuple(torch.tensor(place).to(self.device) if isinstance(place, list) else place for place in chosen)
        return super().__getitem__(made)

    def __repr__(self, **_: Any) -> str:
        return f"{self.device}: {self.held}"

    @classmethod
    def __torch_dispatch__(cls, work: Any, types: Any, arguments: Any = (), settings: Any = None) -> Any:
        return _compute(work, arguments, settings or {})


def _compute(work: Any, arguments: Any, settings: dict[str, Any]) -> Any:
    values = [*tree_leaves(arguments), *tree_leaves(settings)]
    named = next((value for value in values if isinstance(value, torch.device)), None)
    device = _device_of(work, [value for value in values if isinstance(value, Tensor)], named)
    given, chosen = tree_map(_on_cpu, (arguments, settings))
    found = work(*given, **chosen)
    if device.type == NAME:
        # Plain ones also in inference mode, in which those made before can't be shown in part by others.
        with torch.inference_mode(False):
            found = tree_map(lambda value: OnDevice(value, device) if isinstance(value, Tensor) else value, found)
    # `to` may return what it is given, or what lies elsewhere.
    return found if work.overloadpacket is torch.ops.aten.to else _aliased(work, arguments, settings, found)


def _on_cpu(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value.held if isinstance(value, OnDevice) else value


def _device_of(work: Any, tensors: list[Tensor], named: torch.device | None) -> torch.device:
    """Where the result goes. Raises: RuntimeError for tensors on several devices, as on GPUs."""
    if work.overloadpacket in _CARRIES:
        return named or tensors[0].device
    there = {tensor.device for tensor in tensors if tensor.device.type == NAME}
    # As on GPUs: single numbers and indices may be the CPU's.
    may_stay = work.overloadpacket in _INDEXES
    loose = [tensor for tensor in tensors if tensor.device.type == "cpu" and tensor.ndim and not may_stay]
    if len(there) > 1 or (there and loose):
        raise RuntimeError(f"{work}: expected all tensors to be on the same device: {[t.device for t in tensors]}")
    return there.pop() if there else named or torch.device("cpu")


class _Backend:
    """What torch asks a kind of device for."""

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def _is_in_bad_fork(self) -> bool:
        return False

    def _lazy_init(self) -> None: ...

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return COUNT

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return []


def install() -> None:
    """Let there be the devices pretend:0 to pretend:2."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())  # type: ignore[no-untyped-call]
    install.library = torch.library.Library("_", "IMPL")  # type: ignore[attr-defined]
    install.library.fallback(  # type: ignore[attr-defined]
        lambda work, *arguments, **settings: _compute(work, arguments, settings), "PrivateUse1"
    )
    _Makers().__enter__()  # type: ignore[no-untyped-call]


class _Makers(TorchFunctionMode):
    """torch.tensor doesn't ask the device to make its tensor."""

    def __torch_function__(self, work: Any, types: Any, arguments: Any = (), settings: Any = None) -> Any:
        named = dict(settings or {})
        device = named.get("device")
        if work is not torch.tensor or device is None or torch.device(device).type != NAME:
            return work(*arguments, **named)
        return work(*arguments, **{**named, "device": "cpu"}).to(device)
