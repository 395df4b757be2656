"""GGUF files as model folders, through transformers' reader of them.

Knows the file's own account of itself and what is lost on the way. Does not know llama.cpp.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from evomerge.errors import CheckpointError, MergeError, MissingPackageError, first_line, listed, shown, unknown
from evomerge.files.fresh_folder import refuse_taken, written_folder
from evomerge.files.places import local

PLAIN = ("F64", "F32", "F16", "BF16")
"""Types of numbers that are no quantisation."""

DTYPES = ("auto", "float32", "float16", "bfloat16")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedModel:
    """What was made of a GGUF file.

    Attributes:
        architecture: as the file names it, such as "llama".
        types: how many numbers the file stores in each type, such as "Q4_K", the most frequent first.
        dtype: of the folder's weights.
        notes: what isn't in the folder as it was in the original model, one sentence each.
    """

    architecture: str
    types: Mapping[str, int]
    dtype: str
    notes: tuple[str, ...]


def import_gguf(file: str | Path, out: str | Path, *, dtype: str = "auto") -> ImportedModel:
    """Write a causal language model in a GGUF file as a model folder in Hugging Face layout, with its tokenizer.

    Args:
        file: the .gguf file.
        out: the folder to make; it must not exist, or be empty.
        dtype: of the weights: float32, float16, bfloat16, or "auto": the type of most of the file's numbers, and
            bfloat16 where these are quantised.

    Raises:
        MissingPackageError: the package gguf isn't installed.
        MergeError: an unknown dtype.
        CheckpointError: the file isn't there, is damaged or incomplete, or transformers can't read its architecture.
        ExportError: `out` is taken or can't be written.
    """
    if dtype not in DTYPES:
        raise MergeError(f"dtype: {unknown('dtype', dtype, DTYPES)}")
    if find_spec("gguf") is None:
        raise MissingPackageError(
            "GGUF files need the package gguf, which isn't installed: pip install 'evomerge[gguf]'"
        )
    file, out = local(file).absolute(), local(out).absolute()
    refuse_taken(out)
    if not file.is_file():
        found = "is a folder" if file.is_dir() else "no such file"
        raise CheckpointError(f"{file}: {found}; give a .gguf file on this machine")
    header = _Header(file)
    if dtype == "auto":
        dtype = {"F64": "float32", "F32": "float32", "F16": "float16"}.get(next(iter(header.types)), "bfloat16")
    model, tokenizer = _load(file, header.architecture, dtype)
    with written_folder(out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return ImportedModel(
        architecture=header.architecture,
        types=header.types,
        dtype=dtype,
        notes=tuple(header.notes(model.config, tokenizer, dtype)),
    )


class _Header:
    """What a file says of itself. Raises: CheckpointError if it can't be read, or is one of several parts."""

    def __init__(self, file: Path) -> None:
        from gguf import GGUFReader

        try:
            reader = GGUFReader(file)
            self.fields: dict[str, Any] = {
                key: reader.fields[key].contents()
                for key in reader.fields
                if key in ("general.architecture", "split.count", "tokenizer.chat_template") or ".rope.scaling." in key
            }
            numbers: Counter[str] = Counter()
            for tensor in reader.tensors:
                numbers[tensor.tensor_type.name] += int(tensor.n_elements)
            self.tensors = {tensor.name for tensor in reader.tensors}
        except Exception as error:  # the reader trusts the file's offsets and counts
            raise CheckpointError(
                f"{file}: can't be read as GGUF ({first_line(error)}); the file is damaged, cut short or of another "
                "kind: fetch it again"
            ) from error
        self.types = dict(numbers.most_common())
        self.architecture = str(self.fields.get("general.architecture", ""))
        if int(self.fields.get("split.count", 1)) > 1:
            raise CheckpointError(
                f"{file}: is one of {self.fields['split.count']} parts; join them first: llama-gguf-split --merge"
            )
        if not self.types or not self.architecture:
            raise CheckpointError(f"{file}: holds no model: {'no tensors' if self.architecture else 'no architecture'}")

    def notes(self, config: Any, tokenizer: Any, dtype: str) -> list[str]:
        """What isn't in the folder as it was in the original model."""
        total = sum(self.types.values())
        quantised = {name: count for name, count in self.types.items() if name not in PLAIN}
        found = []
        if quantised:
            shares = ", ".join(f"{name} {count / total:.1%}" for name, count in quantised.items())
            found.append(
                f"the file is quantised (of its numbers: {shares}): these weights are what the quantiser kept, not the "
                "original model's"
            )
        wide = {"float16": ("F64", "F32", "BF16"), "bfloat16": ("F64", "F32", "F16"), "float32": ("F64",)}[dtype]
        rounded = [name for name in self.types if name in wide or (name in quantised and dtype != "float32")]
        if rounded:
            found.append(f"numbers of type {listed(rounded, 6)} are rounded to {dtype}")
        rope = getattr(config, "rope_parameters", None) or {}
        scaled = any(key.endswith(".type") and value != "none" for key, value in self.fields.items() if ".rope." in key)
        if (scaled or "rope_freqs.weight" in self.tensors) and rope.get("rope_type", "default") == "default":
            found.append(
                "the file scales its rotary positions, which isn't carried over: put rope_parameters of the original "
                "model into config.json, or long texts will suffer"
            )
        if "tokenizer.chat_template" in self.fields and not getattr(tokenizer, "chat_template", None):
            found.append("the file's chat template isn't carried over")
        return found


def _load(file: Path, architecture: str, dtype: str) -> tuple[Any, Any]:
    """Model and tokenizer, ready to be saved. Raises: CheckpointError."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # Releases that can compute with packed weights would otherwise keep them so.
    packing = getattr(transformers, "GgufConfig", None)
    settings: dict[str, Any] = {} if packing is None else {"quantization_config": packing(dequantize=True)}
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            dtype=getattr(torch, dtype),
            output_loading_info=True,
            local_files_only=True,
            **settings,
        )
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
    except Exception as error:  # whatever transformers' reader makes of a file
        raise CheckpointError(
            f"{file}: transformers can't read it (architecture {shown(architecture)}): {first_line(error)}"
        ) from error
    read, told = loaded
    lacking = sorted({*told["missing_keys"], *(str(key) for key in told["mismatched_keys"])})
    if lacking:
        raise CheckpointError(
            f"{file}: lacks {listed(lacking)}, or holds them in other shapes, so that transformers would draw them at "
            "random; the file is incomplete, or of a variant that transformers doesn't read"
        )
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    # A model that was read from a GGUF refuses to be saved; another takes its tensors over, without a copy.
    with torch.device("meta"):
        model = type(read)(config)
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    return model, tokenizer
