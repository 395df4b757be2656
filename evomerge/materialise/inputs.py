"""The tensors of a base and its experts, on the device where they are merged.

Knows models and devices. Does not know recipes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from evomerge.errors import CheckpointError
from evomerge.files.read_ahead import read_ahead
from evomerge.kernels.device_memory import free_bytes
from evomerge.kernels.dtypes import Dtype, code_of
from evomerge.kernels.engines import compiled_for
from evomerge.late import Tensor, torch
from evomerge.methods.base import MergeMethod, TensorInputs
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.compatible import check_compatible
from evomerge.models.names import match_names
from evomerge.models.open import Models


class Inputs:
    """What is merged: each tensor of the base, with the same tensor of every expert.

    On GPUs inputs are copied there once if they take no more than half of the free memory of each, otherwise for each
    candidate. Tensors of adapters are computed once, and cached while half of the machine's memory is free.

    Attributes:
        base: gives names, shapes, order and default dtype.
        experts: by name, in config order.
        floating: names of the tensors that are merged, which all models have; integers, and what transformers leaves
            unread and only some models have, are the base's.

    Raises: CheckpointError if the models can't be merged with each other.
    """

    def __init__(
        self,
        models: Models,
        device: torch.device | str = "cpu",
        places: Mapping[str, torch.device] | None = None,
    ) -> None:
        check_compatible(models.base, models.experts)
        self.base = models.base
        self.experts = dict(models.experts)
        self._device = device
        self._places = places or {}
        self._names = {name: match_names(self.base, expert) for name, expert in self.experts.items()}
        self.floating = self._found_in_all()
        self._caches_all = self._fit_on_device()
        self._cache: dict[tuple[str, str, torch.device], Tensor] = {}
        self._check_integers()

    def of_experts(self, names: Sequence[str]) -> Inputs:
        """The same with some of the experts alone; what is kept of tensors is kept for both."""
        found = Inputs.__new__(Inputs)
        found.base, found._device, found._places = self.base, self._device, self._places
        found.experts = {name: self.experts[name] for name in names}
        found._names = {name: self._names[name] for name in names}
        found.floating = found._found_in_all()
        found._caches_all, found._cache = self._caches_all, self._cache
        return found

    @cached_property
    def device(self) -> torch.device:
        """Where tensors are merged, but for those that have a place of their own."""
        return torch.device(self._device)

    @property
    def on_cpu(self) -> bool:
        """Whether all tensors are merged on the CPU."""
        return not self._places and str(self._device) == "cpu"

    @property
    def models(self) -> tuple[Checkpoint, ...]:
        """The base and the experts."""
        return (self.base, *self.experts.values())

    def device_of(self, name: str) -> torch.device:
        """Where one of the base's tensors is merged."""
        return self._places.get(name, self.device)

    def of(self, name: str, method: MergeMethod, *, keep: bool, device: torch.device | None = None) -> TensorInputs:
        """One tensor of every model.

        Args:
            name: the base's.
            method: says whether it needs the base.
            keep: whether a tensor that had to be computed stays for the next candidate.
            device: where they are to be; None: where the tensor is merged.
        """
        device = device or self.device_of(name)
        return TensorInputs(
            name=name,
            base=self._tensor("base", self.base, name, device, keep=keep) if method.base == "required" else None,
            experts=tuple(
                self._tensor(expert, checkpoint, self._names[expert][name], device, keep=keep)
                for expert, checkpoint in self.experts.items()
            ),
        )

    def once(self, name: str, method: MergeMethod, dtype: Dtype) -> TensorInputs:
        """As `of`, and nothing is kept. On the CPU, without torch where neither the method nor a model needs it.

        Args:
            name: the base's.
            method: says what it takes.
            dtype: of what is to be merged of it.
        """
        if not self.on_cpu:
            return self.of(name, method, keep=False)
        base = self.base.raw(name) if method.base == "required" else None
        experts = [checkpoint.raw(self._names[expert][name]) for expert, checkpoint in self.experts.items()]
        raw: Any = TensorInputs
        found: TensorInputs = raw(name=name, base=base, experts=tuple(experts))
        tensors: Any = (*experts, *([] if base is None else [base]))
        reads_raw = method.takes_raw and code_of(dtype) is not None and compiled_for(*tensors) is not None
        return found if reads_raw else found.torch()

    def all(self, method: MergeMethod, *, keep: bool) -> Iterator[TensorInputs]:
        """Every floating-point tensor of every model, one after the other."""
        return (self.of(name, method, keep=keep) for name in self.floating)

    def read_ahead(self, name: str, method: MergeMethod) -> None:
        """Have one tensor in memory, as far as it lies in files as it is."""
        if method.base == "required" and not self.base.computes(name):
            read_ahead(self.base.raw(name))
        for expert, checkpoint in self.experts.items():
            stored = self._names[expert].get(name)
            if stored is not None and not checkpoint.computes(stored):
                read_ahead(checkpoint.raw(stored))

    def lacks(self, name: str) -> tuple[str, ...]:
        """The experts that haven't one of the base's tensors, which transformers then leaves unread."""
        return tuple(expert for expert, names in self._names.items() if name not in names)

    def left_out(self, expert: str) -> tuple[str, ...]:
        """The tensors of an expert that the base hasn't, which transformers leaves unread."""
        taken = set(self._names[expert].values())
        return tuple(name for name in self.experts[expert].names if name not in taken)

    def wait(self) -> None:
        """Until GPUs have done what they were asked for."""
        for device in {self.device, *self._places.values()}:
            if device.type == "cuda":
                torch.cuda.synchronize(device)

    def _found_in_all(self) -> tuple[str, ...]:
        return tuple(
            name
            for name, info in self.base.tensors.items()
            if info.kind.is_floating_point and all(name in names for names in self._names.values())
        )

    def _tensor(self, model: str, checkpoint: Checkpoint, name: str, device: torch.device, *, keep: bool) -> Tensor:
        if checkpoint.tensors[name] is self.base.tensors.get(name):
            # What an adapter leaves alone is the base's, and is on the device once.
            model, checkpoint = "base", self.base
        computed = checkpoint.computes(name)
        key = model, name, device
        if key in self._cache:
            return self._cache[key]
        tensor = checkpoint.tensor(name).to(device)
        if self._caches_all and (not computed or (keep and self._has_room())):
            self._cache[key] = tensor
        return tensor

    def _fit_on_device(self) -> bool:
        """Whether all inputs may stay on their devices; on the CPU they are memory-mapped and take nothing."""
        if self.on_cpu or self.device.type != "cuda":
            return True
        needed = sum(model.size_bytes + model.computed_bytes for model in self.models)
        entries: Counter[torch.device] = Counter()
        for name, info in self.base.tensors.items():
            entries[self.device_of(name)] += info.num_elements
        return all(needed * count <= entries.total() * (free_bytes(device) // 2) for device, count in entries.items())

    def _has_room(self) -> bool:
        """Whether computed tensors may still be cached: half of the machine's memory stays free for all else."""
        if self.device.type == "cuda":
            return True
        try:
            stated = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
            available, total = (int(stated[key].split()[0]) for key in ("MemAvailable", "MemTotal"))
        except (OSError, KeyError, ValueError):
            return True
        return 2 * available > total

    def _check_integers(self) -> None:
        for name, info in self.base.tensors.items():
            # Batch normalisation counts its training steps, which say nothing about the weights.
            if info.kind.is_floating_point or name.endswith("num_batches_tracked"):
                continue
            for expert, checkpoint in self.experts.items():
                stored = self._names[expert].get(name)
                if stored is not None and not self.base.raw(name).equals(checkpoint.raw(stored)):
                    raise CheckpointError(
                        f"{checkpoint.folder}: {name}: integers that differ from the base's can't be merged"
                    )
