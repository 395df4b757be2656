"""A live model made again of other layers: left out, repeated, reordered or another model's, shared and not copied.

Knows live models and which layer goes where. Does not know recipes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from evomerge.errors import CheckpointError
from evomerge.inference.live import LiveModel, config_of, outline_of
from evomerge.inference.spread import carry
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.stack import StackedCheckpoint
from evomerge.models.transformers_settings import without_remarks


class LayerPool:
    """Live models of one architecture, and one more that has any of their layers in any order.

    Args:
        base: the model that is made again; `model` of it stays the same object whatever layers it has.
        models: all models that layers are taken from, by name, as they are on disk.
        dtype: of the live parameters.
        devices: where they are.

    Raises: CheckpointError for a model that can't be loaded, or whose layers aren't one list of modules.
    """

    def __init__(
        self, base: LiveModel, models: Mapping[str, Checkpoint], *, dtype: torch.dtype, devices: Sequence[torch.device]
    ) -> None:
        self.model = base.model
        self._first = base.device if len(devices) > 1 else None
        # What the model is made of now; the object itself is given other parts.
        whole = _same_parts(base.model)
        self._lives = {
            name: LiveModel(model=whole, targets=base.targets)
            if name == "base"
            else LiveModel.build(model, dtype=dtype, devices=devices)
            for name, model in models.items()
        }
        self._names = {id(model): name for name, model in models.items()}
        self._layers = {name: _layers_of(live.model, models[name]) for name, live in self._lives.items()}
        self._tensors = {name: _tensors_of(live.model) for name, live in self._lives.items()}
        self._stored = _stored_of(self._lives["base"], self._tensors["base"])

    def restack(self, stacked: StackedCheckpoint, own: Sequence[str]) -> dict[str, Tensor]:
        """Give the model the layers of a stack.

        Args:
            stacked: the base as a stack of these models.
            own: stored names of tensors, of the stack, that are to be this model's own and not shared, since they will
                be written to.

        Returns: for each of `own` a view of its shape into the model's parameters.
        Raises: CheckpointError for a stack that transformers can't build a model for.
        """
        layers, shell = self._layers["base"], self.model
        with without_remarks():
            made: Any = outline_of(type(self._lives["base"].model), config_of(stacked), shell.dtype)
        made.generation_config = self._lives["base"].model.generation_config
        homes = dict(made.named_modules(remove_duplicate=False))
        sources = self._sources(stacked)
        for name in _tensors_of(made):
            home, _, leaf = name.rpartition(".")
            inside = _split(name, layers)
            if inside is None:
                stored = self._stored.get(name)
                donor = "base" if stored is None else self._names[id(stacked.origin(stored).model)]
                shared = self._tensors[donor][name]
            else:
                donor, layer = sources[inside[0]]
                shared = self._tensors[donor][f"{self._layers[donor]}.{layer}.{inside[1]}"]
            _put(homes[home], leaf, shared)
        made.eval()
        if self._first is not None:
            carry(made, self._first)
        shell.__dict__ = made.__dict__
        return self._made_own(stacked, own, homes)

    def _sources(self, stacked: StackedCheckpoint) -> list[tuple[str, int]]:
        """The model and the layer there of each layer of a stack."""
        found: dict[int, tuple[str, int]] = {}
        for name in stacked.names:
            inside = stacked.layout.split(name)
            if inside is not None:
                origin = stacked.origin(name)
                there = origin.model.layout.split(origin.name)
                assert there is not None
                found.setdefault(inside[0], (self._names[id(origin.model)], there[0]))
        return [found[layer] for layer in range(len(found))]

    def _made_own(
        self, stacked: StackedCheckpoint, own: Sequence[str], homes: Mapping[str, nn.Module]
    ) -> dict[str, Tensor]:
        """Copy the parameters that hold these tensors, each once."""
        views = {}
        tensors = _tensors_of(self.model)
        copies: dict[str, Tensor] = {}
        by_layer: dict[tuple[str, int], dict[int, str]] = {}
        for name, tensor in tensors.items():
            inside = _split(name, self._layers["base"])
            by_layer.setdefault(("in", inside[0]) if inside else ("out", 0), {})[_memory(tensor)] = name
        for stored in own:
            origin = stacked.origin(stored)
            view = self._lives[self._names[id(origin.model)]].targets[origin.name]
            at = stacked.layout.split(stored)
            name = by_layer[("in", at[0]) if at else ("out", 0)][_memory(view)]
            if name not in copies:
                copies[name] = tensors[name].detach().clone(memory_format=torch.preserve_format)
                home, _, leaf = name.rpartition(".")
                _put(homes[home], leaf, nn.Parameter(copies[name], requires_grad=False))
            offset = view.storage_offset() - tensors[name].storage_offset()
            views[stored] = copies[name].as_strided(view.shape, view.stride(), offset)
        return views


def _same_parts(model: Any) -> Any:
    made = object.__new__(type(model))
    made.__dict__ = dict(model.__dict__)
    return made


def _put(home: nn.Module, leaf: str, tensor: Any) -> None:
    if leaf in home._parameters:
        home._parameters[leaf] = tensor
    else:
        home._buffers[leaf] = tensor


def _tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, tied ones by each of theirs."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _layers_of(model: nn.Module, checkpoint: Checkpoint) -> str:
    """Name of the list of modules that holds the layers. Raises: CheckpointError if that isn't one list."""
    depth = checkpoint.layout.depth
    found = [name for name, part in model.named_modules() if isinstance(part, nn.ModuleList) and len(part) == depth]
    outer = [name for name in found if not any(name.startswith(f"{other}.") for other in found)]
    if len(outer) != 1:
        raise CheckpointError(
            f"{checkpoint.folder}: its {depth} layers aren't one list of modules in transformers ({len(outer)} have "
            "that length), so that they can't be stacked while a search runs"
        )
    return str(outer[0])


def _split(name: str, layers: str) -> tuple[int, str] | None:
    """A layer's number and the rest of a parameter's name; None outside the layers."""
    number, _, rest = name.removeprefix(f"{layers}.").partition(".")
    return (int(number), rest) if name.startswith(f"{layers}.") and number.isdigit() else None


def _stored_of(live: LiveModel, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """For each parameter a stored tensor that lies in it."""
    by_memory = {_memory(view): stored for stored, view in live.targets.items()}
    return {name: by_memory[at] for name, tensor in tensors.items() if (at := _memory(tensor)) in by_memory}
