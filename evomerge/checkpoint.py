"""Checkpoints: model folders in Hugging Face layout, read from their headers and memory-mapped.

Knows files, names, shapes and dtypes. Does not know models as code: nothing is executed or unpickled.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
import shutil
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cached_property
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from evomerge.architecture import Layout, is_computed
from evomerge.errors import CheckpointError, listed
from evomerge.recipe import ModelReference

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "BOOL": torch.bool,
}
"""dtypes as safetensors headers write them."""

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
COMPRESSED = "compressed.json"
TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.tiktoken",
    "spiece.model",
    "sentencepiece*.model",
    "chat_template*",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)
"""Patterns of the files that make up a tokenizer with its chat template, and of those that prepare images or sound."""

_DOWNLOADED = (
    WEIGHTS,
    "model-*.safetensors",
    INDEX,
    "config.json",
    "generation_config.json",
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    COMPRESSED,
    "factors-*.safetensors",
    *TOKENIZER_FILES,
)
_HUB_ID = re.compile(r"^[\w.-]+(/[\w.-]+)?$")
_MAX_HEADER_BYTES = 100_000_000
_POSITIONS = re.compile(r"wpe|position|token_type", re.IGNORECASE)
_ADVICE = (
    "models.vocabulary matches models by token: `union` keeps the tokens of all of them, `base` the base's tokens alone"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """What a header says of one tensor. `size_bytes` is its size in the file."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    size_bytes: int
    file: Path

    @property
    def num_elements(self) -> int:
        """Number of entries."""
        return prod(self.shape)


class Vocabulary(NamedTuple):
    """A tokenizer's vocabulary: number of tokens, added ones included, and a hash of all tokens with their ids."""

    size: int
    fingerprint: str


class Tokens(NamedTuple):
    """Ids of a tokenizer's tokens: the regular ones, and those that were added."""

    regular: Mapping[str, int]
    added: Mapping[str, int]


class Whereabouts(NamedTuple):
    """Where a model was found without asking the network, and how to say it to a person."""

    kind: Literal["folder", "cache", "unresolved"]
    path: Path | None
    message: str


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model on disk, known by its headers. Made by `Checkpoint.open`; tensors are read when asked for.

    Attributes:
        reference: as it was asked for.
        folder: where its files lie.
        config: config.json.
        tensors: every tensor that belongs to the model, by stored name, in a fixed order. Buffers that
            transformers computes by itself and a head that repeats a tied embedding are left out.
    """

    reference: ModelReference
    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    _files: dict[Path, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, reference: ModelReference | str | Path) -> Checkpoint:
        """Read the headers of a local folder, or of a hub model, which is downloaded if it isn't cached.

        Symbolic links are followed, also out of the folder, since the hub's cache consists of them; names
        inside files may not leave it.

        Raises: CheckpointError if it can't be found, or is damaged, unsafe or incomplete.
        """
        if not isinstance(reference, ModelReference):
            reference = ModelReference(path=str(reference))
        folder = resolve(reference)
        config = _read_config(folder)
        stored = _read_headers(folder)
        tensors = {name: info for name, info in stored.items() if not is_computed(name, info.shape)}
        checkpoint = cls(reference=reference, folder=folder, config=config, tensors=tensors)
        head = checkpoint._redundant_head()
        if head is None:
            return checkpoint
        kept = {name: info for name, info in tensors.items() if name != head}
        return cls(reference=reference, folder=folder, config=config, tensors=kept, _files=checkpoint._files)

    def __reduce__(self) -> tuple[Any, ...]:
        # Open files don't travel between processes: the copy reads the headers where it arrives.
        return (Checkpoint.open, (ModelReference(path=str(self.folder)),))

    @property
    def names(self) -> tuple[str, ...]:
        """Stored names, in the order of `tensors`."""
        return tuple(self.tensors)

    def tensor(self, name: str) -> Tensor:
        """One tensor, memory-mapped and not copied: don't write to it. Raises: CheckpointError if there is none."""
        if name not in self.tensors:
            raise CheckpointError(f"{self.folder}: no tensor {name!r}")
        return self._read(self.tensors[name])

    @cached_property
    def layout(self) -> Layout:
        """Its layers. Raises: CheckpointError if it holds fewer than its config promises."""
        try:
            return Layout.of(self.names, self.config)
        except CheckpointError as error:
            raise CheckpointError(f"{self.folder}: {error}") from error

    @cached_property
    def dtype(self) -> torch.dtype:
        """The floating dtype of most of its numbers. Raises: CheckpointError if it has none."""
        numbers: Counter[torch.dtype] = Counter()
        for info in self.tensors.values():
            if info.dtype.is_floating_point:
                numbers[info.dtype] += info.num_elements
        if not numbers:
            raise CheckpointError(f"{self.folder}: holds no floating-point tensor")
        return numbers.most_common(1)[0][0]

    @property
    def model_type(self) -> str | None:
        """The family that transformers knows it by, such as "llama"."""
        value = self.config.get("model_type")
        return value if isinstance(value, str) else None

    @property
    def architecture(self) -> str | None:
        """The class that transformers loads it with, such as "LlamaForCausalLM"."""
        value = self.config.get("architectures")
        return str(value[0]) if isinstance(value, list) and value else None

    @property
    def size_bytes(self) -> int:
        """Size of its tensors in storage dtype."""
        return sum(info.size_bytes for info in self.tensors.values())

    def computes(self, name: str) -> bool:
        """Whether `tensor` works a tensor out, into memory of its own, instead of mapping it from a file."""
        return False

    @property
    def computed_bytes(self) -> int:
        """Memory that all tensors take together that `tensor` works out."""
        computed = [info for name, info in self.tensors.items() if self.computes(name)]
        return sum(info.num_elements * info.dtype.itemsize for info in computed)

    @property
    def as_stored(self) -> bool:
        """Whether config and tensors are those of its folder, so that transformers can load it from there."""
        return True

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of how it becomes an expert, one sentence each."""
        return ()

    @property
    def num_parameters(self) -> int:
        """Number of entries of all its tensors."""
        return sum(info.num_elements for info in self.tensors.values())

    @cached_property
    def embedding(self) -> TensorInfo | None:
        """The token embedding: of that kind, the tensor with a row per token, or else the largest."""
        found = [self.tensors[name] for name in self.names if self.layout.place(name).kind == "embedding"]
        rows = self.config.get("vocab_size")
        return max(found, key=lambda info: (info.shape[:1] == (rows,), info.num_elements), default=None)

    @cached_property
    def head(self) -> TensorInfo | None:
        """The weight of the output head; None if it is tied to the embedding."""
        found = [self.tensors[name] for name in self.names if self.layout.place(name).kind == "head"]
        return max(found, key=lambda info: info.num_elements, default=None)

    @cached_property
    def token_tensors(self) -> tuple[str, ...]:
        """Names of the tensors whose first side has an entry per token: embedding, head and the head's bias."""
        if self.embedding is None:
            return ()
        rows, width = self.embedding.shape[0], self.embedding.shape[-1]
        # A head's parts can have other names; without a telling one, a side is only known where it isn't the width.
        kinds = {"embedding", "head"} if rows == width else {"embedding", "head", "other"}
        return tuple(
            name
            for name, info in self.tensors.items()
            if info.shape[:1] == (rows,)
            and self.layout.place(name).kind in kinds
            and not (self.layout.stem is not None and name.startswith(f"{self.layout.stem}."))
            and not _POSITIONS.search(name)
        )

    def vocabulary(self) -> Vocabulary | None:
        """Size and fingerprint of the tokenizer's vocabulary; None without tokenizer files that say it."""
        tokens = self.tokens()
        if tokens is None:
            return None
        every = {**tokens.regular, **tokens.added}
        text = json.dumps(sorted(every.items(), key=lambda item: (item[1], item[0])))
        return Vocabulary(len(every), hashlib.sha256(text.encode()).hexdigest()[:16])

    def tokens(self) -> Tokens | None:
        """The ids of its tokens, as the tokenizer's files say them; None if none does."""
        return _token_ids(self.folder)

    def tokenizer(self) -> Any:
        """Its tokenizer, through transformers. Raises: CheckpointError if there is none or it can't be read."""
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:
            raise CheckpointError(
                f"{self.folder}: its tokenizer can't be loaded; copy the tokenizer files of the original model there "
                f"({type(error).__name__}: {error})"
            ) from error

    def write_tokenizer(self, folder: Path) -> None:
        """Put the files of its tokenizer and chat template into a folder."""
        for pattern in TOKENIZER_FILES:
            for path in sorted(self.folder.glob(pattern)):
                if path.is_file():
                    shutil.copyfile(path, folder / path.name)

    def _read(self, info: TensorInfo) -> Tensor:
        if info.file not in self._files:
            self._files[info.file] = safe_open(info.file, framework="pt")
        tensor: Tensor = self._files[info.file].get_tensor(info.name)
        return tensor

    def _redundant_head(self) -> str | None:
        """Name of a stored head that only repeats the embedding it is tied to."""
        head, embedding = self.head, self.embedding
        if head is None or embedding is None or (head.shape, head.dtype) != (embedding.shape, embedding.dtype):
            return None
        tied = self.config.get("tie_word_embeddings")
        # As transformers: a head that differs from the embedding isn't tied, whatever the config says.
        if tied is False or not _equal_bytes(self._read(head), self._read(embedding)):
            return None
        return head.name if tied or _ties_by_default(self.config) else None


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter as PEFT writes it, and no whole model."""
    return (folder / ADAPTER_CONFIG).is_file() and not any((folder / file).is_file() for file in (WEIGHTS, INDEX))


def is_compressed(folder: Path) -> bool:
    """Whether a folder holds an expert as `evomerge compress` writes it."""
    return (folder / COMPRESSED).is_file()


def whereabouts(reference: ModelReference) -> Whereabouts:
    """Where a model is, without network and without raising: a folder, the hub's cache, or unresolved."""
    folder = Path(reference.path).expanduser()
    if folder.is_dir():
        return Whereabouts("folder", folder, f"{reference.path}: local folder")
    if not _is_hub_id(reference.path):
        return Whereabouts("unresolved", None, f"{reference.path}: no such folder")
    try:
        cached = _snapshot(reference, local_files_only=True)
        if is_adapter(cached):
            read_header(cached / ADAPTER_WEIGHTS)
        elif is_compressed(cached):
            for file in cached.glob("factors-*.safetensors"):
                read_header(file)
        else:
            _read_headers(cached)
    except Exception:
        at = f" at revision {reference.revision}" if reference.revision else ""
        return Whereabouts("unresolved", None, f"{reference.path}{at}: not on this machine; downloaded when needed")
    return Whereabouts("cache", cached, f"{reference.path}: in the hub's cache")


def match_names(base: Checkpoint, other: Checkpoint) -> dict[str, str]:
    """For each tensor of the base, the name of the same tensor in another model of the family.

    Names may differ by the base model's prefix ("h.0..." and "transformer.h.0..."). Where the other
    ties its head to the embedding and the base doesn't, the head is the embedding.

    Raises: CheckpointError naming the tensors that only one of them has.
    """
    return _matched(base, other, base.names, _without_prefix_difference(base, other))


def match_outer_names(base: Checkpoint, other: Checkpoint) -> dict[str, str]:
    """The same for the tensors outside the layers alone, so that their numbers may differ. Raises: CheckpointError."""
    names = tuple(name for name in base.names if base.layout.split(name) is None)
    renamed = _without_prefix_difference(base, other)
    return _matched(base, other, names, {name: own for name, own in renamed.items() if other.layout.split(own) is None})


def _matched(base: Checkpoint, other: Checkpoint, names: tuple[str, ...], renamed: Mapping[str, str]) -> dict[str, str]:
    """The other's name for each of the base's `names`, from its own names as the base would write them."""
    matched = {name: renamed[name] for name in names if name in renamed}
    missing = [name for name in names if name not in renamed]
    extra = [renamed[name] for name in renamed if name not in base.tensors]
    if base.head is not None and other.head is None and missing == [base.head.name] and other.embedding is not None:
        matched[base.head.name] = other.embedding.name
        missing = []
    if base.head is None and other.head is not None and extra == [other.head.name]:
        raise CheckpointError(
            f"{other.folder}: has an output head of its own ({other.head.name}), while the base ties its head to the "
            "embedding; untie the base (store its head and set tie_word_embeddings to false) to merge them"
        )
    problems = []
    if missing:
        problems.append(f"lacks {listed(missing)}")
    if extra:
        problems.append(f"has {listed(extra)}, which the base hasn't")
    if problems:
        raise CheckpointError(f"{other.folder}: {'; '.join(problems)}")
    return {name: matched[name] for name in names}


def check_compatible(base: Checkpoint, experts: Mapping[str, Checkpoint], *, vocabulary: bool = True) -> None:
    """Find everything that keeps experts from being merged with the base, from headers and tokenizers alone.

    Args:
        base: the model that the others are to fit.
        experts: by name.
        vocabulary: False leaves out their vocabularies, and the sides that have one entry per token.

    Raises: CheckpointError naming each expert and each difference: architecture, depth, width,
        vocabulary, missing or extra tensors, shapes.
    """
    problems = [
        f"expert {name!r}: {problem}"
        for name, expert in experts.items()
        for problem in _differences(base, expert, vocabulary)
    ]
    if problems:
        raise CheckpointError("\n".join(problems))


def _differences(base: Checkpoint, expert: Checkpoint, vocabulary: bool) -> list[str]:
    where = expert.folder
    if (base.model_type, base.architecture) != (expert.model_type, expert.architecture) and (
        base.model_type != expert.model_type or None not in (base.architecture, expert.architecture)
    ):
        return [
            f"{where}: is a {expert.architecture} ({expert.model_type}), the base is a "
            f"{base.architecture} ({base.model_type}); merge models of one architecture"
        ]
    try:
        expert_depth, base_depth = expert.layout.depth, base.layout.depth
    except CheckpointError as error:
        return [str(error)]
    found = []
    if expert_depth != base_depth:
        found.append(f"{where}: has {expert_depth} layers, the base has {base_depth}")
    if base.embedding is not None and expert.embedding is not None:
        (base_rows, *base_width), (rows, *width) = base.embedding.shape, expert.embedding.shape
        if width != base_width:
            found.append(f"{where}: is {_sides(width)} wide, the base {_sides(base_width)} ({base.embedding.name})")
        if vocabulary and rows != base_rows:
            found.append(
                f"{where}: its embedding has {rows} tokens, the base's has {base_rows} ({base.embedding.name}); "
                f"{_ADVICE}"
            )
    if found:
        return found
    try:
        names = match_names(base, expert)
    except CheckpointError as error:
        return [str(error)]
    exempt = frozenset() if vocabulary else frozenset(base.token_tensors)
    shapes = [
        f"{expert_name} {_sides(expert.tensors[expert_name].shape)} (base {_sides(info.shape)})"
        for name, info in base.tensors.items()
        if expert.tensors[expert_name := names[name]].shape[1 if name in exempt else 0 :]
        != info.shape[1 if name in exempt else 0 :]
    ]
    if shapes:
        found.append(f"{where}: shapes differ from the base's: {listed(shapes)}")
    kinds = [
        name
        for name, info in base.tensors.items()
        if info.dtype.is_floating_point != expert.tensors[names[name]].dtype.is_floating_point
    ]
    if kinds:
        found.append(f"{where}: integers in one model and floating-point numbers in the other: {listed(kinds)}")
    tokens = _different_tokens(base, expert) if vocabulary else []
    if tokens:
        found.append(f"{where}: its tokenizer numbers tokens otherwise than the base's: {listed(tokens)}; {_ADVICE}")
    return found


def _different_tokens(base: Checkpoint, expert: Checkpoint) -> list[str]:
    """Regular tokens whose ids differ. Added tokens may differ: fine-tunes rename and use reserved ones."""
    ours, theirs = base.tokens(), expert.tokens()
    if ours is None or theirs is None:
        return []
    added = set(ours.added.values()) | set(theirs.added.values())
    return [
        f"{token!r} {theirs.regular.get(token, 'absent')} (base {ours.regular.get(token, 'absent')})"
        for token in dict.fromkeys([*ours.regular, *theirs.regular])
        if ours.regular.get(token) != theirs.regular.get(token)
        and not {ours.regular.get(token), theirs.regular.get(token)} & added
    ]


def _without_prefix_difference(base: Checkpoint, other: Checkpoint) -> dict[str, str]:
    """Names of `other` by the name that the base's own prefix would give them."""
    ours, theirs = base.layout.stem, other.layout.stem
    if ours == theirs or ours is None or theirs is None:
        return {name: name for name in other.names}
    if ours.endswith(f".{theirs}"):
        prefix = ours.removesuffix(theirs)
        return {name if name in base.tensors else prefix + name: name for name in other.names}
    if theirs.endswith(f".{ours}"):
        prefix = theirs.removesuffix(ours)
        return {name.removeprefix(prefix): name for name in other.names}
    return {name: name for name in other.names}


def resolve(reference: ModelReference) -> Path:
    """The folder of a model, downloaded if need be. Raises: CheckpointError if it can't be had."""
    folder = Path(reference.path).expanduser()
    if folder.is_dir():
        _refuse_broken_links(folder)
        return folder
    if folder.is_symlink() and not folder.exists():
        raise CheckpointError(f"{reference.path}: {_where_it_leads(folder)}; give the model folder itself")
    if folder.exists():
        raise CheckpointError(f"{reference.path}: is a file; give the folder that holds it")
    if not _is_hub_id(reference.path):
        raise CheckpointError(f"{reference.path}: no such folder; give a model folder or a hub id such as org/name")
    from huggingface_hub import errors as hub

    at = f" at revision {reference.revision!r}" if reference.revision else ""
    try:
        return _snapshot(reference, local_files_only=False)
    except hub.GatedRepoError as error:
        raise CheckpointError(
            f"{reference.path}: access is granted on request; accept its terms on the hub, then run `hf auth login`"
        ) from error
    except (hub.RepositoryNotFoundError, hub.RevisionNotFoundError) as error:
        raise CheckpointError(
            f"{reference.path}{at}: neither a folder here nor a model on the hub that you may read; check the "
            "spelling, or run `hf auth login` for a private one"
        ) from error
    except Exception as error:
        raise CheckpointError(
            f"{reference.path}{at}: no such folder, not in the hub's cache, and the hub can't be reached "
            f"({type(error).__name__}); connect, unset HF_HUB_OFFLINE, or give a local folder"
        ) from error


def _refuse_broken_links(folder: Path) -> None:
    """A missing file may be meant to be missing; one whose link is broken isn't, such as a tokenizer."""
    # Not by glob, which passes over broken links where a pattern is a plain name.
    for path in sorted(folder.iterdir()):
        if path.is_symlink() and not path.exists() and any(fnmatch(path.name, pattern) for pattern in _DOWNLOADED):
            raise CheckpointError(f"{path}: {_where_it_leads(path)}; put the file itself there")


def _where_it_leads(link: Path) -> str:
    """What is wrong with a symbolic link that can't be followed."""
    try:
        link.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "is a symbolic link that leads in a circle"
    return f"is a symbolic link to {link.readlink()}, which isn't there"


def _snapshot(reference: ModelReference, *, local_files_only: bool) -> Path:
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            reference.path,
            revision=reference.revision,
            allow_patterns=list(_DOWNLOADED),
            local_files_only=local_files_only,
        )
    )


def _is_hub_id(path: str) -> bool:
    return bool(_HUB_ID.match(path)) and not path.startswith(".")


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if is_adapter(folder):
        raise CheckpointError(f"{folder}: is a LoRA adapter, not a whole model; it can be an expert, but no base")
    if is_compressed(folder):
        raise CheckpointError(f"{folder}: is a compressed expert, not a whole model; it can be an expert, but no base")
    if not path.is_file():
        raise CheckpointError(f"{folder}: config.json is missing; is this a model folder in Hugging Face layout?")
    config = read_json(path)
    if "quantization_config" in config:
        raise CheckpointError(f"{folder}: its weights are quantised, which can't be merged; use the original weights")
    return config


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a file. Raises: CheckpointError if it can't be read or is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: can't be read as JSON: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return data


def _read_headers(folder: Path) -> dict[str, TensorInfo]:
    """Every stored tensor by name, from one file or from the shards of an index."""
    if (folder / WEIGHTS).is_file():
        return read_header(folder / WEIGHTS)
    if (folder / INDEX).is_file():
        return _read_shards(folder)
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if pickles:
        raise CheckpointError(
            f"{folder}: holds only pickled weights ({listed(pickles)}), which can run code when read; load the model "
            "in an environment that you trust and write it with save_pretrained, which stores safetensors"
        )
    raise CheckpointError(f"{folder}: holds no weights: neither {WEIGHTS} nor {INDEX}")


def _read_shards(folder: Path) -> dict[str, TensorInfo]:
    index = folder / INDEX
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: weight_map is missing or empty")
    files: dict[str, None] = {}
    for file in weight_map.values():
        if not isinstance(file, str) or not _stays_inside(file):
            raise CheckpointError(f"{index}: refers to {file!r}, outside its folder, which isn't safe to follow")
        files[file] = None
    absent = [file for file in files if not (folder / file).is_file()]
    if absent:
        raise CheckpointError(f"{folder}: shards named by {INDEX} are missing: {listed(absent)}; download them again")
    shards = {file: read_header(folder / file) for file in files}
    tensors: dict[str, TensorInfo] = {}
    for file, header in shards.items():
        for name, info in header.items():
            if name in tensors:
                raise CheckpointError(f"{folder}: {name!r} is stored twice, in {tensors[name].file.name} and {file}")
            tensors[name] = info
    lost = [f"{name} ({file})" for name, file in weight_map.items() if name not in shards[file]]
    if lost:
        raise CheckpointError(f"{folder}: tensors named by {INDEX} aren't in their shards: {listed(lost)}")
    return tensors


def _stays_inside(file: str) -> bool:
    path = PurePosixPath(file.replace("\\", "/"))
    return bool(file) and not path.is_absolute() and ".." not in path.parts and ":" not in file


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of one safetensors file, checked against the file's size. Raises: CheckpointError."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= _MAX_HEADER_BYTES:
            raise CheckpointError(f"{path}: is not a safetensors file, or was cut short; download it again")
        header = file.read(length)
    try:
        entries = json.loads(header)
    except ValueError as error:
        raise CheckpointError(f"{path}: its header can't be read; the file is damaged or was cut short") from error
    tensors = {}
    end = 0
    for name, entry in entries.items():
        if name == "__metadata__":
            continue
        try:
            shape, dtype = tuple(int(side) for side in entry["shape"]), DTYPES[entry["dtype"]]
            start, stop = entry["data_offsets"]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: {name}: its header entry can't be read ({error})") from error
        if stop - start != prod(shape) * dtype.itemsize:
            raise CheckpointError(f"{path}: {name}: {stop - start} bytes don't hold shape {_sides(shape)} of {dtype}")
        tensors[name] = TensorInfo(name=name, shape=shape, dtype=dtype, size_bytes=stop - start, file=path)
        end = max(end, stop)
    if 8 + length + end > size:
        cut = [name for name in tensors if 8 + length + entries[name]["data_offsets"][1] > size]
        raise CheckpointError(
            f"{path}: was cut short: {size:,} of {8 + length + end:,} bytes are there, so {listed(cut)} can't be "
            "read; download it again"
        )
    try:
        safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: is damaged: {error}") from error
    return tensors


def _token_ids(folder: Path) -> Tokens | None:
    """Token ids, the regular and the added ones, from the tokenizer's files; None if none says them."""
    if (folder / "tokenizer.json").is_file():
        data = read_json(folder / "tokenizer.json")
        vocab = (data.get("model") or {}).get("vocab") or {}
        if isinstance(vocab, list):
            regular = {str(entry[0]): position for position, entry in enumerate(vocab)}
        else:
            regular = {str(token): int(number) for token, number in vocab.items()}
        added = {str(entry["content"]): int(entry["id"]) for entry in data.get("added_tokens") or ()}
        return Tokens(regular, added)
    if (folder / "vocab.json").is_file():
        regular = {str(token): int(number) for token, number in read_json(folder / "vocab.json").items()}
        extra = read_json(folder / "added_tokens.json") if (folder / "added_tokens.json").is_file() else {}
        return Tokens(regular, {str(token): int(number) for token, number in extra.items()})
    return None


def _ties_by_default(config: Mapping[str, Any]) -> bool:
    """Whether an architecture ties head and embedding when its config.json doesn't say."""
    from transformers import AutoConfig

    try:
        settings = AutoConfig.for_model(**config)
    except Exception:
        return True
    return bool(getattr(settings, "tie_word_embeddings", True))


def _equal_bytes(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and torch.equal(one, two)


def _sides(shape: tuple[int, ...] | list[int]) -> str:
    return "×".join(map(str, shape)) or "scalar"


__all__ = [
    "Checkpoint",
    "TensorInfo",
    "Tokens",
    "Vocabulary",
    "Whereabouts",
    "check_compatible",
    "is_adapter",
    "is_compressed",
    "match_names",
    "match_outer_names",
    "read_header",
    "read_json",
    "resolve",
    "whereabouts",
]
