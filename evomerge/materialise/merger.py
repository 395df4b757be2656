"""From a recipe to merged tensors, in place into a live model or streamed one at a time.

Both ways run the same code on the same inputs, so what is exported is what was scored. Does not know
how models are scored or files are written.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import MergeError
from evomerge.files.read_ahead import prefer_large_pages
from evomerge.kernels.dtypes import Dtype, dtype_of
from evomerge.kernels.formulas import Finite
from evomerge.kernels.fuse import gathered, is_finite
from evomerge.kernels.raw import RawTensor
from evomerge.late import Tensor, torch
from evomerge.materialise.account import account_of
from evomerge.materialise.bind import Binder, Bound
from evomerge.materialise.inputs import Inputs
from evomerge.materialise.prepare import Preparer
from evomerge.methods.base import Coefficients, MergeMethod, TensorInputs
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.open import Models
from evomerge.recipe.recipe import Recipe

_READ_AHEAD = 8
"""Tensors that are being read from the files while one is merged."""


_KEPT_PARTS = 8
"""Sets of experts that recipes have alone, for which what binds and prepares is kept."""


class _Part(NamedTuple):
    """What binds recipes of one set of experts, prepares their methods and reads their tensors."""

    inputs: Inputs
    preparer: Preparer
    binder: Binder


class Merger:
    """Realises recipes over one base and its experts: `bind` a recipe, `prepare` its method, and `write` or `stream`.

    Args:
        models: the base and its experts.
        device: where tensors are merged.
        places: of those that are merged elsewhere, by the base's names.
        states: a folder for what methods prepare, shared with other workers; None keeps it in memory.

    Raises: CheckpointError if the models can't be merged with each other.
    """

    def __init__(
        self,
        models: Models,
        *,
        device: torch.device | str = "cpu",
        places: Mapping[str, torch.device] | None = None,
        states: Path | None = None,
    ) -> None:
        self.inputs = Inputs(models, device, places)
        self.preparer = Preparer(self.inputs, states)
        self._folder = states
        self._whole = _Part(self.inputs, self.preparer, Binder(self.inputs))
        self._parts: OrderedDict[tuple[str, ...], _Part] = OrderedDict()

    @property
    def base(self) -> Checkpoint:
        """The model whose names and shapes the merge has."""
        return self.inputs.base

    def bind(self, recipe: Recipe) -> Bound:
        """Check a recipe against its method and the models, without touching a tensor.

        A recipe may have some of the experts alone, in their order.

        Raises: RecipeError with the place in the recipe and what would be right.
        """
        return self._part(tuple(recipe.experts)).binder.bind(recipe)

    def _part(self, experts: tuple[str, ...]) -> _Part:
        """What binds, prepares and reads for some of the experts; for all of them if these aren't some."""
        names = tuple(self.inputs.experts)
        if experts == names or not experts or experts != tuple(name for name in names if name in experts):
            return self._whole
        if experts not in self._parts:
            inputs = self.inputs.of_experts(experts)
            preparer = Preparer(inputs, self._folder, beside=self.preparer)
            self._parts[experts] = _Part(inputs, preparer, Binder(inputs))
            while len(self._parts) > _KEPT_PARTS:
                self._parts.popitem(last=False)
        self._parts.move_to_end(experts)
        return self._parts[experts]

    def _part_of(self, bound: Bound) -> _Part:
        return self._part(tuple(bound.recipe.experts))

    def notes(self, bound: Bound) -> list[str]:
        """What is allowed in a recipe that fits these models, but hardly meant: a sentence each."""
        return self._part_of(bound).binder.notes(bound)

    def account(self) -> list[str]:
        """How many tensors each model has, and what becomes of them: a sentence each."""
        return account_of(self.inputs)

    def prepare(self, bound: Bound) -> str | None:
        """Compute what the method needs whatever the coefficients, unless that is at hand.

        Returns: why that isn't kept in the folder of states, a sentence for people; None if nothing is wrong.
        """
        preparer = self._part_of(bound).preparer
        preparer.prepare(bound)
        return preparer.problem

    def write(self, bound: Bound, targets: Mapping[str, Tensor]) -> None:
        """Write the merged tensors in place.

        Args:
            bound: the merge.
            targets: a view of each tensor by the base's stored name, as in `LiveModel.targets`.

        Raises:
            MergeError: a tensor's result is undefined or not finite. The targets are then partly
                written; the next successful write replaces all of them.
        """
        part = self._part_of(bound)
        method, states = part.preparer.prepare(bound)
        later: dict[str, Tensor] = {}
        # Last come those that are copied once they are merged, for which a GPU's other merges wouldn't wait together.
        names = sorted(
            (name for name in targets if name in bound.group_of),
            key=lambda name: targets[name].dtype != bound.stored[name].torch,
        )
        with gathered(targets.values()):
            for name in names:
                target = targets[name]
                dtype = bound.stored[name].torch
                # Rounded to the stored dtype first, as a model loaded from the exported folder would be.
                out = target if target.dtype == dtype else torch.empty_like(target, dtype=dtype)
                inputs = part.inputs.of(name, method, keep=True, device=target.device)
                finite = self._merge(inputs, method, states[name], bound.coefficients[name], out)
                if isinstance(finite, torch.Tensor):
                    later[name] = finite
                elif not finite:
                    raise _not_finite(inputs, bound)
                if out is not target:
                    target.copy_(out)
        # A GPU goes through all tensors without being waited for.
        flags = [*later.values()]
        known = torch.stack([flag.to(flags[0].device) for flag in flags]).tolist() if flags else []
        for name, is_known_finite in zip(later, known, strict=True):
            if not is_known_finite:
                raise _not_finite(part.inputs.of(name, method, keep=True), bound)

    def stream(self, bound: Bound) -> Iterator[tuple[str, Tensor]]:
        """As `stream_raw`, as torch's tensors, each in memory of its own."""
        return ((name, tensor.torch()) for name, tensor in self._stream(bound, reuse=False))

    def stream_raw(self, bound: Bound) -> Iterator[tuple[str, RawTensor]]:
        """The merged tensors one at a time, in the order of `Bound.stored`, in storage dtype.

        Taking them one by one needs the memory of a few tensors: each has that of the last but one. While one is
        merged, the inputs of the next ones are read. What isn't merged is the base's. States are read from the folder
        of states where they are, and not put there. Torch is loaded for what needs it: methods that compute with it,
        models whose tensors are worked out, other devices than the CPU.

        Raises: as `write`.
        """
        return self._stream(bound, reuse=True)

    def _stream(self, bound: Bound, *, reuse: bool) -> Iterator[tuple[str, RawTensor]]:
        method, stored = bound.method, bound.stored
        part = self._part_of(bound)
        state_of = part.preparer.one_by_one(
            bound, lambda: (part.inputs.once(name, method, stored[name]) for name in part.inputs.floating)
        )
        memories = self._memories(stored) if reuse else None
        with ThreadPoolExecutor(1, thread_name_prefix="read") as reader:
            to_read = iter(stored)
            reading = deque(
                reader.submit(part.inputs.read_ahead, name, method) for name in islice(to_read, _READ_AHEAD)
            )
            for name, dtype in stored.items():
                reading.popleft().result()
                reading.extend(
                    reader.submit(part.inputs.read_ahead, following, method) for following in islice(to_read, 1)
                )
                if name not in bound.group_of:
                    yield name, self._of_base(name, dtype)
                    continue
                inputs, info = part.inputs.once(name, method, dtype), self.base.tensors[name]
                if memories is None:
                    memory = np.empty(info.num_elements * dtype.itemsize, dtype=np.uint8)
                else:
                    memories.rotate()
                    memory = memories[0]
                out = RawTensor.over(memory, dtype, info.shape)
                if part.inputs.on_cpu:
                    target: Any = out if inputs.is_raw else out.torch()
                else:
                    target = torch.empty(info.shape, dtype=dtype.torch, device=part.inputs.device_of(name))
                if not self._merge(inputs, method, state_of(inputs), bound.coefficients[name], target):
                    raise _not_finite(inputs, bound)
                yield name, out if part.inputs.on_cpu else RawTensor.of(target)

    def _of_base(self, name: str, dtype: Dtype) -> RawTensor:
        """A tensor that isn't merged, in storage dtype."""
        if self.base.tensors[name].kind == dtype:
            return self.base.raw(name)
        return RawTensor.of(self.base.tensor(name).to(dtype.torch))

    def _memories(self, stored: Mapping[str, Dtype]) -> deque[NDArray[np.uint8]]:
        """Two pieces of memory that each hold any of the merged tensors."""
        size = max((self.base.tensors[name].num_elements * dtype.itemsize for name, dtype in stored.items()), default=0)
        memories = deque(np.empty(size, dtype=np.uint8) for _ in range(2))
        for memory in memories:
            prefer_large_pages(RawTensor(memory, dtype_of("uint8")))
        return memories

    def _merge(
        self, inputs: TensorInputs, method: MergeMethod, state: Any, coefficients: Coefficients, out: Tensor
    ) -> Finite:
        """Merge one tensor; returns whether all of it is finite."""
        name = inputs.name
        try:
            finite = method.merge(inputs, coefficients, state, out)
        except MergeError as error:
            raise error if name in str(error) else MergeError(f"{name}: {error}") from error
        return is_finite(out) if finite is None else finite


def _not_finite(inputs: TensorInputs, bound: Bound) -> MergeError:
    return MergeError(f"{inputs.name}: {_why_not_finite(inputs, bound)}")


def _why_not_finite(inputs: TensorInputs, bound: Bound) -> str:
    models = dict(zip(bound.recipe.experts, inputs.experts, strict=True))
    if inputs.base is not None:
        models = {"base": inputs.base, **models}
    broken = [model for model, tensor in models.items() if not is_finite(tensor)]
    if broken:
        return f"NaN or Inf in the weights of {', '.join(broken)}; such a model can't be merged"
    coefficients = bound.coefficients[inputs.name]
    values = "; ".join(f"{parameter} = {np.round(value, 6).tolist()}" for parameter, value in coefficients.items())
    return f"the merge isn't finite with {values or 'this method'}"
