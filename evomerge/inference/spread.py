"""A model over several devices: whole layers on each, in the model's order, and tensors carried from one to the next.

Knows modules and memory. Does not know what a device is, nor how models are loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from evomerge.kernels.device_memory import free_bytes

_HALVINGS = 40
"""Steps in which the least load is found, to a millionth of a millionth."""


class Stretch(NamedTuple):
    """Modules that stay together."""

    modules: tuple[str, ...]
    """Their names in the model."""
    size_bytes: int
    """Of their tensors, each counted where it comes first."""


def stretches_of(model: nn.Module) -> list[Stretch]:
    """What may lie on different devices, in the model's order; on the meta device, too.

    A layer is whole, what comes before the first one is together, and modules that share a tensor are: tied weights
    stay tied.
    """
    parts = dict(_parts(model))
    layers = {name for name in parts if _is_layer(model, name)}
    begun: list[list[str]] = [[]]
    owner: dict[int, int] = {}
    for name, part in parts.items():
        shared = {owner[id(tensor)] for tensor in _tensors(part) if id(tensor) in owner}
        if not list(part.parameters()) or not layers:
            place = 0
        elif shared:
            place = min(shared)
        elif name not in layers and len(begun) == 1:
            place = 0
        else:
            begun.append([])
            place = len(begun) - 1
        begun[place].append(name)
        owner.update((id(tensor), owner.get(id(tensor), place)) for tensor in _tensors(part))
    seen: set[int] = set()
    found = []
    for place, names in enumerate(begun):
        held = [tensor for module in _spanning(model) for tensor in _own(module)] if place == 0 else []
        held += chain.from_iterable(_tensors(parts[name]) for name in names)
        fresh = {id(tensor): tensor for tensor in held if id(tensor) not in seen}
        seen |= fresh.keys()
        found.append(Stretch(tuple(names), sum(tensor.numel() * tensor.element_size() for tensor in fresh.values())))
    return [stretch for stretch in found if stretch.modules]


def divided(stretches: Sequence[Stretch], rooms: Sequence[int]) -> list[int] | None:
    """The number of the device of each stretch, in order, so that the fullest is as little full as can be.

    Args:
        stretches: of a model.
        rooms: bytes that each device has for it.

    Returns: None if they don't fit.
    """
    low, high, best = 0.0, 1.0, _filled(stretches, rooms, 1.0)
    for _ in range(_HALVINGS if best is not None and len(rooms) > 1 else 0):
        middle = (low + high) / 2
        found = _filled(stretches, rooms, middle)
        low, high, best = (middle, high, best) if found is None else (low, middle, found)
    return best


def _filled(stretches: Sequence[Stretch], rooms: Sequence[int], share: float) -> list[int] | None:
    """One device after the other filled up to a share of its room; None if stretches are left over."""
    found, device, taken = [], 0, 0
    for stretch in stretches:
        while device < len(rooms) and taken + stretch.size_bytes > share * rooms[device]:
            device, taken = device + 1, 0
        if device == len(rooms):
            return None
        found.append(device)
        taken += stretch.size_bytes
    return found


def spread(model: nn.Module, devices: Sequence[torch.device], rooms: Sequence[int]) -> None:
    """Move a model's stretches to their devices. Its parameters stay where they are from then on."""
    stretches = stretches_of(model)
    places = divided(stretches, rooms)
    assert places is not None, "whoever spreads a model has seen that it fits"
    for module in _spanning(model):
        module._apply(lambda tensor: tensor.to(devices[places[0]]), recurse=False)  # type: ignore[no-untyped-call]
    for stretch, place in zip(stretches, places, strict=True):
        for name in stretch.modules:
            model.get_submodule(name).to(devices[place])
    carry(model, devices[places[0]])


def carry(model: nn.Module, first: torch.device) -> None:
    """Have modules take what they are given to where their tensors are, and the model answer on its first device.

    Args:
        model: whose tensors are where they belong.
        first: the device of what comes before the layers, where inputs are expected and outputs go.
    """
    carrier = _Carrier()
    for _, part in _parts(model):
        home = next((tensor.device for tensor in _tensors(part)), first)
        part.register_forward_pre_hook(carrier.to(home), with_kwargs=True)
    for module in _spanning(model):
        module.register_forward_pre_hook(carrier.to(first), with_kwargs=True)
        module.register_forward_hook(carrier.back_to(first), always_call=True)


def devices_of(model: nn.Module) -> tuple[torch.device, ...]:
    """The devices on which a model's parameters lie, that of the first parameter first."""
    return tuple(dict.fromkeys(parameter.device for parameter in model.parameters()))


def least_free_bytes(model: nn.Module) -> int:
    """Memory that can still be had on every device of a model."""
    return min(map(free_bytes, devices_of(model)))


def free_bytes_over(model: nn.Module) -> int:
    """Memory that can still be had for what is spread over a model's devices as its layers are."""
    return len(devices_of(model)) * least_free_bytes(model)


class _Carrier:
    """Moves tensors between devices. What all layers are given by keyword, as masks are, is moved there once a pass."""

    def __init__(self) -> None:
        self._there: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    def to(self, device: torch.device) -> Any:
        def hook(module: nn.Module, inputs: Any, named: Any) -> tuple[Any, Any]:
            return _moved(inputs, device), {name: self._shared(value, device) for name, value in named.items()}

        return hook

    def back_to(self, device: torch.device) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            self._there.clear()
            return _moved(output, device)

        return hook

    def _shared(self, value: Any, device: torch.device) -> Any:
        if isinstance(value, tuple):
            return tuple(self._shared(one, device) for one in value)
        if isinstance(value, dict):
            return {name: self._shared(one, device) for name, one in value.items()}
        if not isinstance(value, Tensor) or value.device == device:
            return value
        key = id(value), device
        if key not in self._there:
            # With the tensor itself, so that its identity isn't given to another.
            self._there[key] = value, value.to(device)
        return self._there[key][1]


def _moved(value: Any, device: torch.device) -> Any:
    """Tensors and what holds them on a device. Caches stay: each layer's keys and values are where the layer is."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        # Of what transformers' models return only the entries can be changed.
        made = {} if type(value) is dict else value
        for name, one in value.items():
            made[name] = _moved(one, device)
        return made
    if type(value) in (tuple, list):
        return type(value)(_moved(one, device) for one in value)
    return value


def _parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules that are kept whole, with their names: each layer, and what holds none."""
    whole = getattr(model, "_no_split_modules", None) or ()
    below = ""
    for name, module in model.named_modules():
        if not name or (below and name.startswith(f"{below}.")):
            continue
        if _is_layer(model, name) or type(module).__name__ in whole or not _holds_layers(module):
            below = name
            yield name, module


def _spanning(model: nn.Module) -> list[nn.Module]:
    """The modules that hold parts of it, so that they may span devices."""
    inside = {id(module) for _, part in _parts(model) for module in part.modules()}
    return [module for module in model.modules() if id(module) not in inside]


def _is_layer(model: nn.Module, name: str) -> bool:
    return isinstance(model.get_submodule(name.rpartition(".")[0]), nn.ModuleList)


def _holds_layers(module: nn.Module) -> bool:
    return any(isinstance(part, nn.ModuleList) for part in module.modules())


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return chain(module.parameters(), module.buffers())


def _own(module: nn.Module) -> Iterator[Tensor]:
    """The tensors that no module inside has."""
    return chain(module.parameters(recurse=False), module.buffers(recurse=False))
