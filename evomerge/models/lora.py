"""Adapters as experts: LoRA, DoRA and LoHa, worked out tensor by tensor as PEFT merges them.

Knows PEFT's folders. No fused copy is written; what PEFT would merge otherwise is refused by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from evomerge.errors import CheckpointError, listed
from evomerge.kernels.dtypes import dtype_of
from evomerge.kernels.raw import RawTensor
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.headers import TensorInfo, read_header, read_json, sides
from evomerge.models.hub import ADAPTER_CONFIG, ADAPTER_WEIGHTS, resolve
from evomerge.models.lora_names import Names
from evomerge.models.lora_settings import kind_of, refuse_settings, scale_of
from evomerge.models.lora_updates import Hadamard, LowRank, Update
from evomerge.recipe.sources import ModelReference

_PREFIX = "base_model.model."
_FACTOR = re.compile(
    r"^(?P<module>.+)\.(?P<factor>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector"
    r"|hada_w[12]_[ab]|hada_t[12])(\.weight)?$"
)


@dataclass(frozen=True, kw_only=True)
class Adapter(Checkpoint):
    """An expert given as a LoRA adapter, which offers what a checkpoint offers. Made by `Adapter.open`.

    An adapted tensor is worked out each time it is asked for: base + scale · B · A in float64, rounded
    once to float32 (not at all for a base in float64), so that a 16-bit base costs the task vector no
    precision. That takes 2 · rank operations an entry and 4 bytes an entry while it is kept.

    Attributes:
        base: the model that it adapts.
        settings: adapter_config.json.
        rank: the largest rank of its updates; 0 if it only replaces tensors.
        resized: whether it may replace tensors that have a row per token by ones with other rows.
    """

    base: Checkpoint
    settings: Mapping[str, Any]
    rank: int
    resized: bool
    _updates: Mapping[str, Update] = field(repr=False)
    _replaced: Mapping[str, TensorInfo] = field(repr=False)

    @classmethod
    def open(  # type: ignore[override]
        cls, reference: ModelReference | str | Path, base: Checkpoint, *, resized: bool = False
    ) -> Adapter:
        """Read an adapter's config and header, and find the base's tensor for each of its own.

        Args:
            reference: its folder, or a hub id, which is downloaded if it isn't cached.
            base: the model that it adapts.
            resized: accept an adapter with a vocabulary of its own, whose embedding and head have other rows.

        Raises: CheckpointError if it isn't a LoRA adapter, asks for what isn't a plain sum of base and product,
        or doesn't fit the base.
        """
        if not isinstance(reference, ModelReference):
            reference = ModelReference(path=str(reference))
        folder = resolve(reference)
        settings = read_json(folder / ADAPTER_CONFIG)
        refuse_settings(folder, settings)
        if not (folder / ADAPTER_WEIGHTS).is_file():
            raise CheckpointError(
                f"{folder}: holds no {ADAPTER_WEIGHTS}; pickled adapters can run code when read, so load it where you "
                "trust it and write it with save_pretrained"
            )
        updates, replaced = _match(folder, settings, read_header(folder / ADAPTER_WEIGHTS), base, resized)
        kind = dtype_of("float64" if base.kind.name == "float64" else "float32")
        tensors = dict(base.tensors)
        for name, info in replaced.items():
            tensors[name] = replace(info, name=name)
        for name in updates:
            info = tensors[name]
            tensors[name] = replace(info, kind=kind, size_bytes=info.num_elements * kind.itemsize)
        return cls(
            reference=reference,
            folder=folder,
            config=base.config,
            tensors=tensors,
            base=base,
            settings=settings,
            rank=max((update.rank for update in updates.values()), default=0),
            resized=resized,
            _updates=updates,
            _replaced=replaced,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return (partial(Adapter.open, resized=self.resized), (ModelReference(path=str(self.folder)), self.base))

    def tensor(self, name: str) -> Tensor:
        """One tensor of the adapted model: new memory where it is adapted, otherwise mapped. Don't write to it."""
        start = self._read(self._replaced[name]) if name in self._replaced else self.base.tensor(name)
        if name not in self._updates:
            return start
        out = torch.empty(start.shape, dtype=self.tensors[name].dtype)
        self._updates[name].apply(start, self._read, out)
        return out

    def raw(self, name: str) -> RawTensor:
        """The same as `tensor` has it."""
        return RawTensor.of(self.tensor(name))

    def computes(self, name: str) -> bool:
        """Whether the adapter has an update for a tensor."""
        return name in self._updates

    @property
    def size_bytes(self) -> int:
        """Size of the adapter's own tensors in storage dtype."""
        factors = [part for update in self._updates.values() for part in update.parts]
        return sum(info.size_bytes for info in (*self._replaced.values(), *factors))

    @property
    def is_whole(self) -> bool:
        """False: its folder holds an adapter of a base."""
        return False

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of it: what it changes, and whether it names another base."""
        changed, kind = len(self._updates.keys() | self._replaced.keys()), kind_of(self.settings)
        found = [
            f"{self.folder}: a {kind} adapter of rank {self.rank} that changes {changed} of {len(self.tensors)} tensors"
        ]
        named = self.settings.get("base_model_name_or_path")
        if named and not _same_model(str(named), self.base):
            found.append(
                f"{self.folder}: was trained for {named}, by its {ADAPTER_CONFIG}, and is applied to "
                f"{self.base.reference.path}; its shapes fit"
            )
        return tuple(found)


def _match(
    folder: Path, settings: Mapping[str, Any], stored: Mapping[str, TensorInfo], base: Checkpoint, resized: bool
) -> tuple[dict[str, Update], dict[str, TensorInfo]]:
    """Updates and replacements by the base's tensor names."""
    factors: dict[str, dict[str, TensorInfo]] = {}
    modules: dict[str, str] = {}
    replaced: dict[str, TensorInfo] = {}
    unknown: list[str] = []
    heads: list[TensorInfo] = []
    names = Names(base)
    for key, info in _as_trained(stored).items():
        path = key.removeprefix(_PREFIX)
        found = _FACTOR.match(path)
        name = names.find(f"{found['module']}.weight" if found else path.replace(".base_layer.", "."))
        if name is None and base.head is None and not found and base.layout.place(path).kind == "head":
            heads.append(info)
        elif name is None:
            unknown.append(path)
        elif found:
            factors.setdefault(name, {})[found["factor"]] = info
            modules[name] = found["module"]
        else:
            replaced[name] = info
    stays_tied = _repeat_embedding(heads, base, replaced)
    if not stays_tied:
        unknown += [info.name.removeprefix(_PREFIX) for info in heads]
    if unknown:
        raise CheckpointError(
            f"{folder}: changes tensors that the base {base.folder} hasn't: {listed(unknown)}; an adapter belongs to "
            "the model that it was trained for"
        )
    _refuse_tied(folder, base, [*factors, *(() if stays_tied else replaced)])
    problems = [
        f"{name} {sides(info.shape)} (base {sides(base.tensors[name].shape)})"
        for name, info in replaced.items()
        if info.shape != base.tensors[name].shape
        and not (resized and name in base.token_tensors and info.shape[1:] == base.tensors[name].shape[1:])
    ]
    updates = {}
    for name, parts in factors.items():
        shape = replaced.get(name, base.tensors[name]).shape
        update = _update(folder, settings, name, modules[name], parts, base, shape)
        if update is None:
            shapes = " and ".join(sides(info.shape) for info in parts.values())
            problems.append(f"{name} {shapes} (base {sides(base.tensors[name].shape)})")
        else:
            updates[name] = update
    if problems:
        raise CheckpointError(
            f"{folder}: doesn't fit the base {base.folder}: {listed(problems)}; an adapter belongs to the model "
            "that it was trained for, with its vocabulary; models.vocabulary: union or base takes one with other tokens"
        )
    if not updates and not replaced:
        raise CheckpointError(f"{folder}: {ADAPTER_WEIGHTS} holds no tensors")
    return updates, replaced


def _as_trained(stored: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Without what PEFT stores beside a resized module: its state before training, and the trained one once more."""
    found: dict[str, TensorInfo] = {}
    for key, info in stored.items():
        plain = key.replace(".modules_to_save.", ".")
        if ".original_module." not in key and (plain == key or plain not in stored):
            found[plain] = info
    return found


def _repeat_embedding(heads: list[TensorInfo], base: Checkpoint, replaced: Mapping[str, TensorInfo]) -> bool:
    """Whether heads are stored, and are the new embedding again, as with a base that ties them."""
    embedding = None if base.embedding is None else replaced.get(base.embedding.name)
    if embedding is None or not heads:
        return False
    new = _tensor(embedding)
    return all(info.shape == embedding.shape and torch.equal(_tensor(info), new) for info in heads)


def _tensor(info: TensorInfo) -> Tensor:
    file: Any = safe_open(info.file, framework="pt")
    tensor: Tensor = file.get_tensor(info.name)
    return tensor


def _update(
    folder: Path,
    settings: Mapping[str, Any],
    name: str,
    module: str,
    parts: Mapping[str, TensorInfo],
    base: Checkpoint,
    shape: tuple[int, ...],
) -> Update | None:
    """The update of one tensor of this shape; None if its factors don't fit."""
    kind = kind_of(settings)
    embeds = "lora_embedding_A" in parts
    needed: tuple[str, ...] = ("lora_embedding_A", "lora_embedding_B") if embeds else ("lora_A", "lora_B")
    if kind == "LoHa":
        needed = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    wanted = (*needed, "lora_magnitude_vector") if kind == "DoRA" else needed
    if parts.keys() != set(wanted):
        here = "only one of them is" if len(parts.keys() & set(wanted)) == 1 else f"{' and '.join(sorted(parts))} are"
        raise CheckpointError(f"{folder}: {name}: {' and '.join(wanted)} belong together, and {here} stored ({kind})")
    if len(shape) != 2 or any(len(parts[part].shape) != 2 for part in needed):
        return None
    if kind == "LoHa":
        update: LowRank | Hadamard | None = _hadamard([parts[part] for part in needed], shape)
    else:
        outputs_last = embeds or bool(settings.get("fan_in_fan_out")) or _stores_inputs_first(base)
        right, left = (parts[part] for part in needed)
        update = _low_rank(left, right, parts.get("lora_magnitude_vector"), shape, outputs_last)
    if update is None:
        return None
    scale = scale_of(folder, settings, name, module, update.rank)
    return replace(update, factor=scale)


def _low_rank(
    left: TensorInfo, right: TensorInfo, magnitude: TensorInfo | None, shape: tuple[int, ...], outputs_last: bool
) -> LowRank | None:
    product = (left.shape[0], right.shape[1])
    if left.shape[1] != right.shape[0] or product not in (shape, shape[::-1]):
        return None
    if magnitude is not None and math.prod(magnitude.shape) != product[0]:
        return None
    transposed = outputs_last if shape == shape[::-1] else product != shape
    return LowRank(left=left, right=right, transposed=transposed, factor=1.0, magnitude=magnitude)


def _hadamard(factors: Sequence[TensorInfo], shape: tuple[int, ...]) -> Hadamard | None:
    one, two, three, four = factors
    fits = all((left.shape[0], right.shape[1]) == shape for left, right in ((one, two), (three, four)))
    if not fits or len({one.shape[1], two.shape[0], three.shape[1], four.shape[0]}) != 1:
        return None
    return Hadamard(pairs=((one, two), (three, four)), factor=1.0)


def _stores_inputs_first(base: Checkpoint) -> bool:
    """Whether the layers' weights are stored as (inputs, outputs), as GPT-2 does; biases have the outputs' length."""
    for name, info in base.tensors.items():
        bias = base.tensors.get(f"{name.removesuffix('weight')}bias")
        if name.endswith(".weight") and bias is not None and len(info.shape) == 2 and info.shape[0] != info.shape[1]:
            return bias.shape == info.shape[1:]
    return False


def _refuse_tied(folder: Path, base: Checkpoint, changed: list[str]) -> None:
    if base.head is None and base.embedding is not None and base.embedding.name in changed:
        raise CheckpointError(
            f"{folder}: changes {base.embedding.name}, to which the base ties its head, so that a merge would change "
            "the head too, which the adapter didn't; untie the base (store its head, set tie_word_embeddings to false)"
        )


def _same_model(named: str, base: Checkpoint) -> bool:
    return Path(named).name == Path(base.reference.path).name
