"""Compressed experts: folders that hold factors of a task vector in place of weights.

A compressed expert is a checkpoint: its tensors are the base's plus what the factors stand for. Knows
model folders and the mathematics of compression. Does not know recipes or search.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import Tensor

from evomerge.errors import CheckpointError, shown
from evomerge.kernels.dtypes import dtype_of
from evomerge.kernels.raw import RawTensor
from evomerge.methods.spectral.compress import Factors, expand
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.headers import TensorInfo, read_header, read_json
from evomerge.models.hub import COMPRESSED, resolve
from evomerge.recipe.sources import ModelReference

FORMAT_VERSION = 1
PARTS = ("left", "values", "right")


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressedTensor:
    """How one tensor is stored: as the base's own, as the expert's whole tensor, or as factors of rank `rank`.

    `error` is the relative error of its task vector, ‖found − τ‖/‖τ‖, as stored.
    """

    kind: Literal["same", "whole", "factors"]
    size_bytes: int = 0
    rank: int | None = None
    error: float = 0.0
    file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """A compressed expert's manifest.

    Attributes:
        base: the model that its task vector starts from.
        fingerprint: of the base's names, shapes and the first numbers of each of its tensors.
        expert: the model that was compressed.
        method: one of `METHODS`.
        kept: the rank, fraction or energy that was asked for, by name.
        size_bytes: of everything that is stored of the weights.
        expert_bytes: of the expert's weights as they were.
        error: relative error of the whole task vector, ‖found − τ‖/‖τ‖ over all tensors.
        tensors: by the base's names.
    """

    base: ModelReference
    fingerprint: str
    expert: str
    method: str
    kept: Mapping[str, float]
    size_bytes: int
    expert_bytes: int
    error: float
    tensors: Mapping[str, CompressedTensor]

    def to_json(self) -> str:
        """As the manifest file holds it."""
        return json.dumps({"evomerge_compressed": FORMAT_VERSION, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, folder: Path) -> Compression:
        """The manifest of a folder. Raises: CheckpointError if there is none or it can't be understood."""
        path = folder / COMPRESSED
        if not path.is_file():
            raise CheckpointError(f"{folder}: no compressed expert ({COMPRESSED} is missing)")
        data = read_json(path)
        try:
            version = data.pop("evomerge_compressed")
            if version != FORMAT_VERSION:
                raise CheckpointError(f"{path}: format {version}; this version reads {FORMAT_VERSION}. Compress anew")
            tensors = {str(name): CompressedTensor(**entry) for name, entry in data.pop("tensors").items()}
            found = cls(base=ModelReference(**data.pop("base")), tensors=tensors, **data)
            _check_forms(found)
            return found
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{path}: can't be read as a compressed expert's manifest ({error})") from error


def _check_forms(manifest: Compression) -> None:
    """Raises: TypeError, ValueError for a value of another form than the manifest's fields have."""
    texts: tuple[Any, ...] = (
        manifest.fingerprint,
        manifest.expert,
        manifest.method,
        manifest.base.path,
        manifest.base.revision or "",
    )
    numbers: tuple[Any, ...] = (manifest.size_bytes, manifest.expert_bytes, manifest.error, *manifest.kept.values())
    for entry in manifest.tensors.values():
        numbers += (entry.size_bytes, entry.error, entry.rank or 0)
        texts += (entry.file or "",)
        if entry.kind not in ("same", "whole", "factors") or not isinstance(entry.rank, int | None):
            raise ValueError(f"{shown(entry)}")
    if not all(isinstance(text, str) for text in texts) or len(manifest.kept) != 1:
        raise TypeError("a text is missing")
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
        raise TypeError("a number is missing")


@dataclass(frozen=True, kw_only=True)
class CompressedExpert(Checkpoint):
    """A compressed expert as a checkpoint: base plus task vector, computed when a tensor is asked for.

    Restored tensors are float32, whatever the expert's dtype was: rounding the sum to 16 bits would
    lose changes smaller than half a unit of the base's weights.
    """

    base: Checkpoint
    manifest: Compression
    _kept: dict[str, Tensor] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def open(
        cls, reference: ModelReference | str | Path, *, base: Checkpoint | None = None, keep: bool = False
    ) -> CompressedExpert:
        """Read a compressed expert's manifest and open its base.

        Args:
            reference: the folder.
            base: its base, if that is open or lies elsewhere by now; None: as the manifest says.
            keep: keep restored tensors in memory, rather than restore them each time; costs
                four bytes for each number of those stored as factors.

        Raises: CheckpointError if it is no compressed expert, is damaged, or its base is another model.
        """
        if not isinstance(reference, ModelReference):
            reference = ModelReference(path=str(reference))
        folder = resolve(reference)
        manifest = Compression.read(folder)
        base = Checkpoint.open(manifest.base) if base is None else base
        if set(base.names) != set(manifest.tensors) or fingerprint(base) != manifest.fingerprint:
            raise CheckpointError(
                f"{folder}: was compressed over another base than {base.folder}; give the one that "
                f"{manifest.expert} was compressed with ({manifest.base.path})"
            )
        for file in sorted({entry.file for entry in manifest.tensors.values() if entry.file}):
            if Path(file).name != file or not (folder / file).is_file():
                raise CheckpointError(f"{folder}: {file} is missing; copy the whole folder again")
        _check_stored(folder, manifest, base)
        config = read_json(folder / "config.json")
        found = cls(
            reference=reference,
            folder=folder,
            config=config,
            tensors={},
            base=base,
            manifest=manifest,
            _kept={} if keep else None,
        )
        tensors = {name: found._info(name, entry) for name, entry in manifest.tensors.items()}
        object.__setattr__(found, "tensors", tensors)
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        # As a checkpoint's, with the base found where it is now.
        return (_reopen, (str(self.folder), str(self.base.folder), self._kept is not None))

    def raw(self, name: str) -> RawTensor:
        """The same as `tensor` has it."""
        return RawTensor.of(self.tensor(name))

    def computes(self, name: str) -> bool:
        """Whether `tensor` works a tensor out, into memory of its own, instead of mapping it from a file."""
        return self.manifest.tensors[name].kind == "factors"

    @property
    def size_bytes(self) -> int:
        """Size of what is stored of it, without the base."""
        return self.manifest.size_bytes

    @property
    def is_whole(self) -> bool:
        """False: its folder holds factors of a base."""
        return False

    @property
    def notes(self) -> tuple[str, ...]:
        """How it was compressed, and how far it is from the expert that it stands for."""
        (kept,) = self.manifest.kept.items()
        return (
            f"{self.folder}: compressed by {self.manifest.method} ({kept[0]} {kept[1]:g}); its task vector is "
            f"{100 * self.manifest.error:.2g}% off that of {self.manifest.expert}",
        )

    def task_vector(self, name: str) -> Tensor:
        """One tensor's task vector as stored, float64. Raises: CheckpointError if there is none of that name."""
        if name not in self.manifest.tensors:
            raise CheckpointError(f"{self.folder}: no tensor {name!r}")
        entry, origin = self.manifest.tensors[name], self.base.tensor(name)
        if entry.kind == "factors":
            return expand(self._factors(name))
        if entry.kind == "same":
            return torch.zeros(origin.shape, dtype=torch.float64)
        return self.tensor(name).to(torch.float64) - origin.to(torch.float64)

    def _read(self, info: TensorInfo) -> Tensor:
        entry = self.manifest.tensors[info.name]
        if entry.kind == "same":
            return self.base.tensor(info.name)
        if entry.kind == "whole":
            return self._stored(info.name, info.name)
        if self._kept is not None and info.name in self._kept:
            return self._kept[info.name]
        restored = (self.base.tensor(info.name).to(torch.float64) + expand(self._factors(info.name))).to(torch.float32)
        if self._kept is not None:
            self._kept[info.name] = restored
        return restored

    def _factors(self, name: str) -> Factors:
        return Factors(*(self._stored(name, f"{name}.{part}") for part in PARTS))

    def _stored(self, name: str, key: str) -> Tensor:
        path = self.folder / str(self.manifest.tensors[name].file)
        try:
            if path not in self._files:
                self._files[path] = safe_open(path, framework="pt")
            tensor: Tensor = self._files[path].get_tensor(key)
        except Exception as error:
            raise CheckpointError(f"{path}: {key} can't be read ({error}); copy the folder again") from error
        return tensor

    def _info(self, name: str, entry: CompressedTensor) -> TensorInfo:
        info = self.base.tensors[name]
        if entry.kind == "same":
            return info
        kind = dtype_of("float32" if entry.kind == "factors" else self._stored(name, name).dtype)
        return TensorInfo(
            name=name,
            shape=info.shape,
            kind=kind,
            size_bytes=entry.size_bytes,
            file=self.folder / str(entry.file),
        )


def fingerprint(checkpoint: Checkpoint) -> str:
    """A hash of a model's names, shapes, dtypes and the first few thousand bytes of each tensor."""
    found = hashlib.sha256()
    for name in sorted(checkpoint.names):
        tensor = checkpoint.tensor(name)
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        found.update(tensor.reshape(-1)[:1024].contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:32]


def _check_stored(folder: Path, manifest: Compression, base: Checkpoint) -> None:
    """Check the headers of the stored tensors: names, shapes and files that aren't cut short."""
    headers = {
        file: read_header(folder / file)
        for file in sorted({entry.file for entry in manifest.tensors.values() if entry.file})
    }
    for name, entry in manifest.tensors.items():
        if entry.kind == "same":
            continue
        shape = base.tensors[name].shape
        wanted = {name: shape}
        if entry.kind == "factors":
            if entry.rank is None or entry.rank < 1 or len(shape) not in (2, 3):
                raise CheckpointError(f"{folder}: {name}: factors of rank {entry.rank}; copy the whole folder again")
            *stack, height, width = shape
            shapes = ((*stack, height, entry.rank), (*stack, entry.rank), (*stack, entry.rank, width))
            wanted = {f"{name}.{part}": side for part, side in zip(PARTS, shapes, strict=True)}
        stored = headers.get(entry.file or "", {})
        for key, expected in wanted.items():
            if key not in stored or stored[key].shape != expected:
                found = "missing" if key not in stored else f"of shape {list(stored[key].shape)}"
                raise CheckpointError(
                    f"{folder}: {entry.file}: {key} is {found}, should be of shape {list(expected)}; copy the whole "
                    "folder again"
                )


def _reopen(folder: str, base: str, keep: bool) -> CompressedExpert:
    return CompressedExpert.open(folder, base=Checkpoint.open(base), keep=keep)
