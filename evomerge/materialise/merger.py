"""From a recipe to merged tensors, in place into a live model or streamed one at a time.

Both ways run the same code on the same inputs, so what is exported is what was scored. Does not know
how models are scored or files are written.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomerge.errors import CheckpointError, MergeError, RecipeError, listed, unknown
from evomerge.files.read_ahead import prefer_large_pages, read_ahead
from evomerge.kernels.formulas import Finite
from evomerge.kernels.fuse import is_finite
from evomerge.materialise.state_key import key_of
from evomerge.materialise.states import KeptStates
from evomerge.methods.base import Coefficients, MergeMethod, Parameter, TensorInputs
from evomerge.methods.declared import FLOATING, check_range, checked_options, method_of
from evomerge.models.architecture import Place
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.compatible import check_compatible
from evomerge.models.names import match_names
from evomerge.recipe.group import Coefficient, Group
from evomerge.recipe.recipe import Recipe

_KEPT_PREPARATIONS = 2

_READ_AHEAD = 8
"""Tensors that are being read from the files while one is merged."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A method with its checked options and what it computed before coefficients were known, by tensor name."""

    method: MergeMethod
    states: dict[str, Any] = field(default_factory=dict)


class Materialiser:
    """Realises recipes over one base and its experts.

    Args:
        base: gives names, shapes, order and default dtype.
        experts: by name, in config order.
        device: where tensors are merged. Inputs are copied there once if they take no more than half
            of its free memory, otherwise for each candidate. Tensors of adapters are computed once, and
            kept while half of the machine's memory is free.
        states: a folder for what methods prepare, shared with other workers; None keeps it in memory.

    Raises: CheckpointError if the models can't be merged with each other.
    """

    def __init__(
        self,
        base: Checkpoint,
        experts: Mapping[str, Checkpoint],
        *,
        device: torch.device | str = "cpu",
        states: Path | None = None,
    ) -> None:
        check_compatible(base, experts)
        self.base = base
        self.experts = dict(experts)
        self.device = torch.device(device)
        self.problem: str | None = None
        """Why states aren't kept in their folder, a sentence for people."""
        self._folder = states
        self._names = {name: match_names(base, expert) for name, expert in experts.items()}
        self._places: dict[str, Place] = {name: base.layout.place(name) for name in base.names}
        self._last_layer = max((place.layer for place in self._places.values()), default=0)
        self._prepared: OrderedDict[tuple[Any, ...], Prepared] = OrderedDict()
        self._keeps_inputs = self._inputs_fit()
        self._kept: dict[tuple[str, str], Tensor] = {}
        self._check_integers()

    def check(self, recipe: Recipe) -> None:
        """Find everything wrong with a recipe for these models, without touching a tensor.

        Raises: RecipeError with the place in the recipe and what would be right.
        """
        self._checked(recipe)

    def notes(self, recipe: Recipe) -> list[str]:
        """What is allowed in a recipe that fits these models, but hardly meant: a sentence each."""
        homes = set(self._homes(recipe).values())
        empty = [group.name for index, group in enumerate(recipe.groups) if index not in homes]
        notes = [
            f"group {name!r} contains no tensor that no earlier group contains; it has no effect" for name in empty
        ]
        if method_of(recipe).base == "required" and not recipe.slices:
            notes += [
                f"expert {name!r} is the base itself; its task vector is zero"
                for name, expert in self.experts.items()
                if expert.folder == self.base.folder
            ]
        return notes

    def dtype(self, recipe: Recipe) -> torch.dtype:
        """The dtype in which a recipe's floating-point tensors are stored. Raises: RecipeError if unknown."""
        if recipe.dtype == "auto":
            return self.base.dtype
        if recipe.dtype not in FLOATING:
            raise RecipeError(f"recipe: dtype: {unknown('dtype', recipe.dtype, ('auto', *FLOATING))}")
        dtype: torch.dtype = getattr(torch, recipe.dtype)
        return dtype

    def storage_dtype(self, name: str, recipe: Recipe) -> torch.dtype:
        """The dtype in which one tensor of a recipe is stored.

        A merge in the base's own dtype keeps the dtypes of a mixed checkpoint; integers stay as they are.
        """
        stored, wanted = self.base.tensors[name].dtype, self.dtype(recipe)
        return stored if not stored.is_floating_point or wanted == self.base.dtype else wanted

    def stored(self, recipe: Recipe) -> dict[str, torch.dtype]:
        """The merged tensors' names with the dtypes they are stored in, in the order of `stream`.

        Wide dtypes come first, so that in a file each tensor starts at a multiple of its item size.
        """
        dtypes = {name: self.storage_dtype(name, recipe) for name in self.base.names}
        return dict(sorted(dtypes.items(), key=lambda item: -item[1].itemsize))

    def size_bytes(self, recipe: Recipe) -> int:
        """Size of the merged tensors as they are stored."""
        return sum(self.base.tensors[name].num_elements * dtype.itemsize for name, dtype in self.stored(recipe).items())

    def prepare(self, recipe: Recipe) -> Prepared:
        """Compute what the method needs whatever the coefficients; kept for the two latest sets of options.

        Each tensor's state is read from the folder of states if there is one, and computed and put there if it is
        missing. What a method surveys is found again by each worker: that takes a pass over the models at most.

        Raises: RecipeError for an unknown method or wrong options.
        """
        options = checked_options(recipe)
        key = (recipe.method, tuple(sorted(options.items())), recipe.seed)
        if key not in self._prepared:
            method = self._new_method(recipe)
            self._survey(method, keep=True)
            self._prepared[key] = Prepared(method, self._states(method))
            while len(self._prepared) > _KEPT_PREPARATIONS:
                self._prepared.popitem(last=False)
        self._prepared.move_to_end(key)
        return self._prepared[key]

    def prepared_bytes(self, recipe: Recipe) -> int:
        """Bytes that `prepare` keeps for a recipe: states, what is surveyed, and the models' computed tensors."""
        surveyed = self._new_method(recipe).surveyed_bytes(len(self.experts))
        computed = sum(model.computed_bytes for model in (self.base, *self.experts.values()))
        return self.state_bytes(recipe) + surveyed + computed

    def state_bytes(self, recipe: Recipe) -> int:
        """Bytes of the states of all tensors, which workers share where there is a folder for them."""
        return sum(self._state_sizes(self._new_method(recipe)).values())

    def time_preparing(self, recipe: Recipe, limit_s: float) -> float:
        """An estimate of the seconds that all states take to compute, from a few of them.

        Args:
            recipe: the merge.
            limit_s: no tensor is begun after as many seconds. One of each shape is computed at most, the shape with
                the most entries in all first; other shapes are taken to cost as much by entry.
        """
        method = self._new_method(recipe)
        sizes = self._state_sizes(method)
        shapes: dict[tuple[int, ...], list[str]] = {}
        for name in sizes:
            shapes.setdefault(self.base.tensors[name].shape, []).append(name)
        entries = {shape: math.prod(shape) * len(names) for shape, names in shapes.items()}
        started = time.perf_counter()
        seconds: dict[tuple[int, ...], float] = {}
        for shape in sorted(shapes, key=lambda shape: -entries[shape]):
            begun = time.perf_counter()
            if begun - started > limit_s:
                break
            # A tensor in the middle of the model: the first ones tend to be embeddings.
            names = shapes[shape]
            method.prepare(self._inputs(names[len(names) // 2], method, keep=False))
            self._wait()
            seconds[shape] = (time.perf_counter() - begun) * len(names)
        known = sum(entries[shape] for shape in seconds)
        return sum(seconds.values()) * sum(entries.values()) / max(1, known)

    def write(self, recipe: Recipe, targets: Mapping[str, Tensor]) -> None:
        """Write the merged tensors in place.

        Args:
            recipe: the merge.
            targets: a view of each tensor by the base's stored name, as in `LiveModel.targets`.

        Raises:
            RecipeError: the recipe doesn't fit the models or the method.
            MergeError: a tensor's result is undefined or not finite. The targets are then partly
                written; the next successful write replaces all of them.
        """
        coefficients = self._checked(recipe)
        prepared = self.prepare(recipe)
        later: dict[str, Tensor] = {}
        for name, target in targets.items():
            dtype = self.storage_dtype(name, recipe)
            # Rounded to the stored dtype first, as a model loaded from the exported folder would be.
            out = target if target.dtype == dtype else torch.empty_like(target, dtype=dtype)
            inputs = self._inputs(name, prepared.method, keep=True)
            finite = self._merge(inputs, prepared.method, prepared.states[name], coefficients[name], out)
            if isinstance(finite, Tensor):
                later[name] = finite
            elif not finite:
                raise self._not_finite(inputs, coefficients[name])
            if out is not target:
                target.copy_(out)
        # A GPU goes through all tensors without being waited for.
        known = torch.stack([*later.values()]).tolist() if later else []
        for name, is_known_finite in zip(later, known, strict=True):
            if not is_known_finite:
                raise self._not_finite(self._inputs(name, prepared.method, keep=True), coefficients[name])

    def stream(self, recipe: Recipe, *, reuse: bool = False) -> Iterator[tuple[str, Tensor]]:
        """The merged tensors one at a time, in the order of `stored`, on the CPU, in storage dtype.

        Taking them one by one needs the memory of a few tensors. While one is merged, the inputs of the next ones are
        read. Integers are the base's. States are read from the folder of states where they are, and not put there.

        Args:
            recipe: the merge.
            reuse: whether each tensor has the memory of the last but one, rather than new memory.

        Raises: as `write`.
        """
        coefficients = self._checked(recipe)
        method = self._new_method(recipe)
        self._survey(method, keep=False)
        kept = self._kept_states(method, keep=False) if self._folder and self._folder.is_dir() else None
        stored = self.stored(recipe)
        rooms = self._rooms(stored) if reuse and self.device.type == "cpu" else None
        with ThreadPoolExecutor(1, thread_name_prefix="read") as reader:
            to_read = iter(stored)
            reading = deque(reader.submit(self._read_ahead, name, method) for name in islice(to_read, _READ_AHEAD))
            for name, dtype in stored.items():
                reading.popleft().result()
                reading.extend(reader.submit(self._read_ahead, following, method) for following in islice(to_read, 1))
                if not dtype.is_floating_point:
                    yield name, self.base.tensor(name)
                    continue
                inputs = self._inputs(name, method, keep=False)
                shape = self.base.tensors[name].shape
                if rooms is None:
                    out = torch.empty(shape, dtype=dtype, device=self.device)
                else:
                    rooms.rotate()
                    out = rooms[0][: math.prod(shape) * dtype.itemsize].view(dtype).view(shape)
                if not self._merge(inputs, method, self._state(inputs, method, kept), coefficients[name], out):
                    raise self._not_finite(inputs, coefficients[name])
                yield name, out.cpu()

    def _rooms(self, stored: Mapping[str, torch.dtype]) -> deque[Tensor]:
        """Two pieces of memory that each hold any of the merged tensors."""
        size = max((self.base.tensors[name].num_elements * dtype.itemsize for name, dtype in stored.items()), default=0)
        rooms = deque(torch.empty(size, dtype=torch.uint8) for _ in range(2))
        for room in rooms:
            prefer_large_pages(room)
        return rooms

    def _read_ahead(self, name: str, method: MergeMethod) -> None:
        """Have one tensor's inputs in memory, as far as they lie in files as they are."""
        models = {"base": self.base} if method.base == "required" else {}
        for model, checkpoint in {**models, **self.experts}.items():
            stored = name if model == "base" else self._names[model][name]
            if not checkpoint.computes(stored):
                read_ahead(checkpoint.tensor(stored))

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

    def _not_finite(self, inputs: TensorInputs, coefficients: Coefficients) -> MergeError:
        return MergeError(f"{inputs.name}: {self._why_not_finite(inputs, coefficients)}")

    def _why_not_finite(self, inputs: TensorInputs, coefficients: Coefficients) -> str:
        models = dict(zip(self.experts, inputs.experts, strict=True))
        if inputs.base is not None:
            models = {"base": inputs.base, **models}
        broken = [model for model, tensor in models.items() if not bool(torch.isfinite(tensor).all())]
        if broken:
            return f"NaN or Inf in the weights of {', '.join(broken)}; such a model can't be merged"
        values = "; ".join(f"{parameter} = {np.round(value, 6).tolist()}" for parameter, value in coefficients.items())
        return f"the merge isn't finite with {values or 'this method'}"

    def _floating(self) -> list[str]:
        return [name for name, info in self.base.tensors.items() if info.dtype.is_floating_point]

    def _states(self, method: MergeMethod) -> dict[str, Any]:
        """The state of every tensor, from the folder of states as far as there is one."""

        def compute(name: str) -> Any:
            return method.prepare(self._inputs(name, method, keep=True))

        found: dict[str, Any] = {}
        if (kept := self._kept_states(method, keep=True)) is not None:
            found = kept.collect(list(self._state_sizes(method)), compute)
            self.problem = self.problem or kept.problem
        return {name: found[name] if name in found else compute(name) for name in self._floating()}

    def _state(self, inputs: TensorInputs, method: MergeMethod, kept: KeptStates | None) -> Any:
        """The state of one tensor, from its file if there is one."""
        return method.prepare(inputs) if kept is None else kept.state(inputs.name, lambda _: method.prepare(inputs))

    def _kept_states(self, method: MergeMethod, *, keep: bool) -> KeptStates | None:
        """Where the method's states are kept; None if it has none, or there is no folder for them."""
        if self._folder is None or not self._state_sizes(method):
            return None
        inputs = (self._inputs(name, method, keep=keep) for name in self._floating())
        models = (self.base, *self.experts.values())
        files = [file for model in models for file in sorted(model.folder.glob("*.safetensors"))]
        key = key_of(method, inputs, files, self.device)
        return None if key is None else KeptStates(self._folder, key, self.device)

    def _state_sizes(self, method: MergeMethod) -> dict[str, int]:
        """Bytes of the state of each tensor that has one."""
        sizes = {
            name: method.prepared_bytes(self.base.tensors[name].shape, len(self.experts)) for name in self._floating()
        }
        return {name: size for name, size in sizes.items() if size}

    def _wait(self) -> None:
        """Until a GPU has done what it was asked for."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _survey(self, method: MergeMethod, *, keep: bool) -> None:
        method.survey(lambda: (self._inputs(name, method, keep=keep) for name in self._floating()))

    def _new_method(self, recipe: Recipe) -> MergeMethod:
        method = method_of(recipe)
        return method(checked_options(recipe), experts=tuple(self.experts), seed=recipe.seed)

    def _inputs(self, name: str, method: MergeMethod, *, keep: bool) -> TensorInputs:
        return TensorInputs(
            name=name,
            base=self._input("base", self.base, name, keep=keep) if method.base == "required" else None,
            experts=tuple(
                self._input(expert, checkpoint, self._names[expert][name], keep=keep)
                for expert, checkpoint in self.experts.items()
            ),
        )

    def _input(self, model: str, checkpoint: Checkpoint, name: str, *, keep: bool) -> Tensor:
        """One tensor on the device. With `keep`, one that had to be computed stays for the next candidate."""
        if checkpoint.tensors[name] is self.base.tensors.get(name):
            # What an adapter leaves alone is the base's, and is on the device once.
            model, checkpoint = "base", self.base
        computed = checkpoint.computes(name)
        if (model, name) in self._kept:
            return self._kept[model, name]
        tensor = checkpoint.tensor(name).to(self.device)
        if self._keeps_inputs and (not computed or (keep and self._has_room())):
            self._kept[model, name] = tensor
        return tensor

    def _inputs_fit(self) -> bool:
        """Whether all inputs may stay on the device; on the CPU they are memory-mapped and take nothing."""
        if self.device.type != "cuda":
            return True
        needed = sum(model.size_bytes + model.computed_bytes for model in (self.base, *self.experts.values()))
        free, _ = torch.cuda.mem_get_info(self.device)
        return needed <= free // 2

    def _has_room(self) -> bool:
        """Whether computed tensors may still be kept: half of the machine's memory stays free for everything else."""
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
            if info.dtype.is_floating_point or name.endswith("num_batches_tracked"):
                continue
            for expert, checkpoint in self.experts.items():
                if not torch.equal(self.base.tensor(name), checkpoint.tensor(self._names[expert][name])):
                    raise CheckpointError(
                        f"{checkpoint.folder}: {name}: integers that differ from the base's can't be merged"
                    )

    def _checked(self, recipe: Recipe) -> dict[str, Coefficients]:
        """Check a recipe; for each floating-point tensor the coefficients of its group, with defaults filled in."""
        method = method_of(recipe)
        checked_options(recipe)
        self.dtype(recipe)
        if tuple(recipe.experts) != tuple(self.experts):
            raise RecipeError(
                f"recipe: models.experts: names {', '.join(recipe.experts)}, but the models at hand are "
                f"{', '.join(self.experts)}, in this order"
            )
        groups = [
            self._checked_group(f"recipe: groups[{index}] ({group.name})", group, method)
            for index, group in enumerate(recipe.groups)
        ]
        homes = self._homes(recipe)
        homeless = [name for name, home in homes.items() if home is None]
        if homeless and method.parameters:
            raise RecipeError(
                f"recipe: groups: no group contains {listed(homeless)}; add a last group without "
                "layers and kinds to give every other tensor its coefficients"
            )
        return {name: {} if home is None else groups[home] for name, home in homes.items()}

    def _homes(self, recipe: Recipe) -> dict[str, int | None]:
        """For each floating-point tensor the index of the first group that contains it, or None."""
        by_name = any(group.names is not None for group in recipe.groups)
        found: dict[tuple[Place, str], int | None] = {}
        homes = {}
        for name in self._floating():
            place = self._places[name]
            key = (place, name if by_name else "")
            if key not in found:
                containing = (i for i, group in enumerate(recipe.groups) if group.contains(*place, name))
                found[key] = next(containing, None)
            homes[name] = found[key]
        return homes

    def _checked_group(self, where: str, group: Group, method: type[MergeMethod]) -> dict[str, NDArray[np.float64]]:
        if group.layers is not None and group.layers[1] > self._last_layer:
            raise RecipeError(
                f"{where}: layers: {list(group.layers)} goes beyond the models' last layer, {self._last_layer}; both "
                "ends are included, and the first layer is 0"
            )
        declared = {parameter.name: parameter for parameter in method.parameters}
        for name in group.coefficients:
            if name not in declared:
                raise RecipeError(f"{where}: coefficients: {unknown('coefficient', name, declared)}")
        return {
            name: self._checked_coefficient(
                f"{where}: coefficients.{name}", group.coefficients.get(name, parameter.default), parameter
            )
            for name, parameter in declared.items()
        }

    def _checked_coefficient(self, where: str, value: Coefficient, parameter: Parameter) -> NDArray[np.float64]:
        if isinstance(value, Mapping):
            if not parameter.per_expert:
                raise RecipeError(f"{where}: one number for all experts, got one per expert")
            if set(value) != set(self.experts):
                raise RecipeError(f"{where}: expected one value for each of {', '.join(self.experts)}")
            values = np.array([value[expert] for expert in self.experts], dtype=np.float64)
        elif np.ndim(value) or isinstance(value, str):
            raise RecipeError(
                f"{where}: expected one number, or one for each expert by its name ({', '.join(self.experts)}), "
                f"got {value!r}"
            )
        else:
            values = np.full((len(self.experts),) if parameter.per_expert else (), value, dtype=np.float64)
        for number in values.flat:
            check_range(where, float(number), parameter)
        return values
