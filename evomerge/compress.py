"""Compressed experts: folders that hold factors of a task vector in place of weights.

A compressed expert is a checkpoint: its tensors are the base's plus what the factors stand for. Knows
model folders and the mathematics of compression. Does not know recipes or search.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from evomerge.checkpoint import (
    COMPRESSED,
    Checkpoint,
    TensorInfo,
    check_compatible,
    match_names,
    read_header,
    resolve,
)
from evomerge.errors import CheckpointError, ExportError, MergeError, unknown
from evomerge.fresh import fresh_folder
from evomerge.merge.compress import Factors, Truncation, expand, factor_bytes, squared_error
from evomerge.merge.compress import compress as decompose
from evomerge.merge.matrices import NOT_LINEAR
from evomerge.recipe import ModelReference

METHODS = ("tsv_compress", "svd")
"""Ways to choose how much is kept: a fraction of the directions, or a rank or share of the energy."""

FORMAT_VERSION = 1

_FILE_BYTES = 2 * 10**9
_PARTS = ("left", "values", "right")


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
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            version = data.pop("evomerge_compressed")
            if version != FORMAT_VERSION:
                raise CheckpointError(f"{path}: format {version}; this version reads {FORMAT_VERSION}. Compress anew")
            tensors = {str(name): CompressedTensor(**entry) for name, entry in data.pop("tensors").items()}
            return cls(base=ModelReference(**data.pop("base")), tensors=tensors, **data)
        except FileNotFoundError as error:
            raise CheckpointError(f"{folder}: no compressed expert ({COMPRESSED} is missing)") from error
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{path}: can't be read as a compressed expert's manifest ({error})") from error


def compress(
    base: ModelReference | str | Path,
    expert: ModelReference | str | Path,
    out: str | Path,
    *,
    method: str = "tsv_compress",
    num_experts: int | None = None,
    fraction: float | None = None,
    rank: int | None = None,
    energy: float | None = None,
    dtype: str = "auto",
    whole: str = NOT_LINEAR,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Compression:
    """Write an expert's task vector as factors. Tensors are read, decomposed and written one after another.

    Matrices, and stacks of matrices, become factors where these are smaller than the matrix. Other
    tensors are stored as they are, those equal to the base's not at all.

    Args:
        base: the model that the expert was tuned from.
        expert: the model to compress.
        out: the folder to make; it must not exist, or be empty.
        method: "tsv_compress" keeps `fraction` of the directions, by default 1/`num_experts`, the number
            of experts that will be kept together; "svd" keeps `rank` of them, or those that make up
            `energy` of the sum of squares.
        num_experts: see `method`.
        fraction: see `method`.
        rank: see `method`.
        energy: see `method`.
        dtype: of the singular vectors: float32, float16, bfloat16, or "auto", which is float16 for a
            16-bit expert (they lie in [−1, 1], where float16 is the more exact) and else float32.
        whole: matrices whose name matches this regular expression are stored as they are: by default
            embeddings, output heads and convolutions; empty: none.
        device: where the decompositions are computed.
        progress: called with the expert's bytes done and in all.

    Returns: what was written, with sizes and errors.

    Raises:
        MergeError: arguments that don't fit, or NaN or Inf in the weights.
        CheckpointError: models that don't fit each other.
        ExportError: `out` is taken or can't be written.
    """
    truncation = _truncation(method, num_experts, fraction, rank, energy)
    pattern = _pattern(whole)
    out = Path(out).expanduser().absolute()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ExportError(f"{out}: is there already; choose another folder or empty this one")
    start, end = Checkpoint.open(base), Checkpoint.open(expert)
    check_compatible(start, {end.folder.name: end})
    stored_as = _factor_dtype(dtype, end)
    names = match_names(start, end)
    try:
        with fresh_folder(out) as folder:
            files = _Files(folder)
            records: dict[str, CompressedTensor] = {}
            error = energy_found = 0.0
            done, total = 0, end.size_bytes
            for name in start.names:
                origin, wanted = start.tensor(name).to(device), end.tensor(names[name]).to(device)
                as_factors = wanted.dim() in (2, 3) and not (pattern and pattern.search(name))
                record, wrong, size = _store(files, name, origin, wanted, truncation if as_factors else None, stored_as)
                records[name] = record
                error, energy_found = error + wrong, energy_found + size
                done += end.tensors[names[name]].size_bytes
                if progress is not None:
                    progress(done, total)
            files.close()
            manifest = Compression(
                base=_absolute(start.reference),
                fingerprint=fingerprint(start),
                expert=end.reference.path,
                method=method,
                kept={key: value for key, value in asdict(truncation).items() if value is not None},
                size_bytes=sum(record.size_bytes for record in records.values()),
                expert_bytes=end.size_bytes,
                error=(error / energy_found) ** 0.5 if energy_found else 0.0,
                tensors={name: files.placed(name, record) for name, record in records.items()},
            )
            for file in ("config.json", "generation_config.json"):
                if (end.folder / file).is_file():
                    shutil.copyfile(end.folder / file, folder / file)
            end.write_tokenizer(folder)
            (folder / COMPRESSED).write_text(manifest.to_json(), encoding="utf-8")
    except OSError as problem:
        raise ExportError(
            f"{out}: can't be written: {problem.strerror or problem}. Nothing was left there"
        ) from problem
    return manifest


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
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{folder}: config.json can't be read ({error})") from error
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

    def computes(self, name: str) -> bool:
        """Whether `tensor` works a tensor out, into memory of its own, instead of mapping it from a file."""
        return self.manifest.tensors[name].kind == "factors"

    @property
    def size_bytes(self) -> int:
        """Size of what is stored of it, without the base."""
        return self.manifest.size_bytes

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
        return Factors(*(self._stored(name, f"{name}.{part}") for part in _PARTS))

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
        dtype = torch.float32 if entry.kind == "factors" else self._stored(name, name).dtype
        return TensorInfo(
            name=name,
            shape=info.shape,
            dtype=dtype,
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


class _Files:
    """Writes tensors into files of a few gigabytes, so that few are in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._waiting: dict[str, Tensor] = {}
        self._bytes = 0
        self._number = 1
        self._file: dict[str, str] = {}

    def add(self, name: str, tensors: Mapping[str, Tensor]) -> int:
        """Store the tensors of one weight; return their size in bytes."""
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        if self._waiting and self._bytes + size > _FILE_BYTES:
            self.close()
        self._waiting.update({key: tensor.cpu().contiguous() for key, tensor in tensors.items()})
        self._bytes += size
        self._file[name] = f"factors-{self._number:05d}.safetensors"
        return size

    def close(self) -> None:
        """Write what waits."""
        if self._waiting:
            save_file(self._waiting, self.folder / f"factors-{self._number:05d}.safetensors", metadata={"format": "pt"})
            self._waiting, self._bytes, self._number = {}, 0, self._number + 1

    def placed(self, name: str, record: CompressedTensor) -> CompressedTensor:
        """The record with the file that its tensors are in."""
        return CompressedTensor(**{**asdict(record), "file": self._file.get(name)})


def _store(
    files: _Files,
    name: str,
    origin: Tensor,
    wanted: Tensor,
    truncation: Truncation | None,
    dtype: torch.dtype,
) -> tuple[CompressedTensor, float, float]:
    """Store one tensor; return its record, squared error and squared length."""
    if origin.dtype == wanted.dtype and torch.equal(origin, wanted):
        return CompressedTensor(kind="same"), 0.0, 0.0
    if not wanted.dtype.is_floating_point:
        return CompressedTensor(kind="whole", size_bytes=files.add(name, {name: wanted})), 0.0, 0.0
    tau = wanted.to(torch.float64) - origin.to(torch.float64)
    if not bool(torch.isfinite(tau).all()):
        raise MergeError(f"{name}: NaN or Inf in the weights; such a model can't be compressed")
    if not bool(tau.any()):
        return CompressedTensor(kind="same"), 0.0, 0.0
    length = float(tau.square().sum())
    whole_bytes = wanted.numel() * wanted.element_size()
    if truncation is not None and factor_bytes(tuple(tau.shape), 1, dtype) < whole_bytes:
        try:
            factors = decompose(tau, truncation, dtype=dtype)
        except MergeError as error:
            raise MergeError(f"{name}: {error}") from error
        if factors.size_bytes < whole_bytes:
            wrong, _ = squared_error(tau, expand(factors))
            size = files.add(name, {f"{name}.{part}": tensor for part, tensor in zip(_PARTS, factors, strict=True)})
            relative = (wrong / length) ** 0.5
            return CompressedTensor(kind="factors", size_bytes=size, rank=factors.rank, error=relative), wrong, length
    return CompressedTensor(kind="whole", size_bytes=files.add(name, {name: wanted})), 0.0, length


def _truncation(
    method: str, num_experts: int | None, fraction: float | None, rank: int | None, energy: float | None
) -> Truncation:
    if method not in METHODS:
        raise MergeError(f"compression: {unknown('method', method, METHODS)}")
    if method == "svd":
        if fraction is not None or num_experts is not None:
            raise MergeError("compression: svd takes rank or energy; fraction and num_experts belong to tsv_compress")
        return Truncation(rank=rank, energy=energy)
    if rank is not None or energy is not None:
        raise MergeError("compression: tsv_compress takes fraction or num_experts; rank and energy belong to svd")
    if (fraction is None) == (num_experts is None):
        raise MergeError("compression: give either fraction, or num_experts, of which one over is kept")
    if num_experts is not None and num_experts < 1:
        raise MergeError(f"compression: num_experts {num_experts}: at least 1")
    return Truncation(fraction=1.0 / num_experts if num_experts is not None else fraction)


def _pattern(whole: str) -> re.Pattern[str] | None:
    try:
        return re.compile(whole) if whole else None
    except re.error as error:
        raise MergeError(f"compression: whole: no regular expression ({error})") from error


def _factor_dtype(dtype: str, expert: Checkpoint) -> torch.dtype:
    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if dtype == "auto":
        return torch.float16 if expert.dtype.itemsize == 2 else torch.float32
    if dtype not in known:
        raise MergeError(f"compression: dtype: {unknown('dtype', dtype, ('auto', *known))}")
    return known[dtype]


def _absolute(reference: ModelReference) -> ModelReference:
    folder = Path(reference.path).expanduser()
    return ModelReference(path=str(folder.absolute())) if folder.is_dir() else reference


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
            wanted = {f"{name}.{part}": side for part, side in zip(_PARTS, shapes, strict=True)}
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


__all__ = ["CompressedExpert", "CompressedTensor", "Compression", "compress", "fingerprint"]
