"""Writing an expert as the factors of its task vector."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from evomerge.errors import MergeError, unknown
from evomerge.files.atomic import json_text
from evomerge.files.fresh_folder import refuse_taken, written_folder
from evomerge.files.places import is_folder, local
from evomerge.methods.spectral.compress import Truncation, expand, factor_bytes, squared_error
from evomerge.methods.spectral.compress import compress as decompose
from evomerge.methods.spectral.decompose import NOT_LINEAR
from evomerge.models.carried import carry, without_code
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.compatible import check_compatible
from evomerge.models.compressed import PARTS, CompressedTensor, Compression, fingerprint
from evomerge.models.hub import COMPRESSED
from evomerge.models.names import match_names
from evomerge.recipe.sources import ModelReference

METHODS = ("tsv_compress", "svd")
"""Ways to choose how much is kept: a fraction of the directions, or a rank or share of the energy."""

_FILE_BYTES = 2 * 10**9


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
    out = local(out).absolute()
    refuse_taken(out)
    start, end = Checkpoint.open(base), Checkpoint.open(expert)
    check_compatible(start, {end.folder.name: end})
    stored_as = factor_dtype(dtype, torch.float16 if end.dtype.itemsize == 2 else torch.float32)
    names = match_names(start, end)
    with written_folder(out) as folder:
        files = _Files(folder)
        records: dict[str, CompressedTensor] = {}
        error = energy_found = 0.0
        done, total = 0, end.size_bytes
        for name in start.names:
            origin = start.tensor(name).to(device)
            # What the expert lacks and transformers leaves unread stays the base's.
            wanted = end.tensor(names[name]).to(device) if name in names else origin
            as_factors = wanted.dim() in (2, 3) and not (pattern and pattern.search(name))
            record, wrong, size = _store(files, name, origin, wanted, truncation if as_factors else None, stored_as)
            records[name] = record
            error, energy_found = error + wrong, energy_found + size
            done += end.tensors[names[name]].size_bytes if name in names else 0
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
        carry(end.folder, folder)
        if (end.folder / "config.json").is_file():
            (folder / "config.json").write_text(json_text(without_code(end.config)), encoding="utf-8")
        if not end.has_own_tokenizer:
            end.write_tokenizer(folder)
        (folder / COMPRESSED).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


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
            size = files.add(name, {f"{name}.{part}": tensor for part, tensor in zip(PARTS, factors, strict=True)})
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


def factor_dtype(dtype: str, usual: torch.dtype) -> torch.dtype:
    """What factors are stored in: the dtype of a name, or the usual one for "auto". Raises: MergeError."""
    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if dtype == "auto":
        return usual
    if dtype not in known:
        raise MergeError(f"compression: dtype: {unknown('dtype', dtype, ('auto', *known))}")
    return known[dtype]


def _absolute(reference: ModelReference) -> ModelReference:
    folder = local(reference.path)
    return ModelReference(path=str(folder.absolute())) if is_folder(folder) else reference
