"""Checkpoints: model folders in Hugging Face layout, read from their headers and memory-mapped.

Knows files, names, shapes and dtypes. Does not know models as code: nothing is executed or unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from evomerge.errors import CheckpointError
from evomerge.kernels.dtypes import Dtype
from evomerge.kernels.raw import RawTensor
from evomerge.late import Tensor, torch
from evomerge.models.architecture import Layout
from evomerge.models.carried import carry
from evomerge.models.headers import TensorInfo, mapped, read_headers, read_json
from evomerge.models.hub import TOKENIZER_FILES, is_adapter, is_compressed, resolve
from evomerge.models.ignored import COMPUTED, is_computed, left_unread
from evomerge.models.tokens import POSITIONS, Tokens, Vocabulary, load_tokenizer, token_ids
from evomerge.models.tying import missing_head, ties
from evomerge.recipe.sources import ModelReference


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model on disk, known by its headers. Made by `Checkpoint.open`; tensors are read when asked for.

    Attributes:
        reference: as it was asked for.
        folder: where its files lie.
        config: config.json.
        tensors: every tensor that belongs to the model, by stored name, in a fixed order. Buffers that
            transformers computes by itself and a head that repeats a tied embedding are left out.
        ignored: the stored tensors that are left out, each with the rule that says so.
    """

    reference: ModelReference
    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    ignored: Mapping[str, str] = field(default_factory=dict, repr=False)
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
        stored = read_headers(folder)
        ignored = {name: COMPUTED for name, info in stored.items() if is_computed(name, info.shape)}
        tensors = {name: info for name, info in stored.items() if name not in ignored}
        checkpoint = cls(reference=reference, folder=folder, config=config, tensors=tensors, ignored=ignored)
        checkpoint._refuse_missing_head()
        head = checkpoint._redundant_head()
        if head is None:
            return checkpoint
        kept = {name: info for name, info in tensors.items() if name != head}
        ignored[head] = "repeats the tied embedding"
        return replace(checkpoint, tensors=kept, ignored=ignored)

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

    def raw(self, name: str) -> RawTensor:
        """The same as `tensor` has it, without torch where nothing is worked out. Raises: as `tensor`."""
        if name not in self.tensors:
            raise CheckpointError(f"{self.folder}: no tensor {name!r}")
        return self._map(self.tensors[name])

    @cached_property
    def layout(self) -> Layout:
        """Its layers. Raises: CheckpointError if it holds fewer than its config promises."""
        try:
            return Layout.of(self.names, self.config)
        except CheckpointError as error:
            raise CheckpointError(f"{self.folder}: {error}") from error

    @cached_property
    def unread(self) -> Mapping[str, str]:
        """Those of its tensors that transformers leaves unread on purpose, each with the rule that says so."""
        return left_unread(self.names, self.config, self.architecture)

    @property
    def dtype(self) -> torch.dtype:
        """Its `kind`, as torch knows it."""
        return self.kind.torch

    @cached_property
    def kind(self) -> Dtype:
        """The floating dtype of most of its numbers. Raises: CheckpointError if it has none."""
        numbers: Counter[Dtype] = Counter()
        for info in self.tensors.values():
            if info.kind.is_floating_point:
                numbers[info.kind] += info.num_elements
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
    def positions(self) -> int | None:
        """The most tokens that it takes at a time, if its config says so."""
        value = self.config.get("max_position_embeddings") or self.config.get("n_positions")
        return value if isinstance(value, int) and value > 0 else None

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
        return sum(info.num_elements * info.kind.itemsize for info in computed)

    @property
    def as_stored(self) -> bool:
        """Whether config and tensors are those of its folder, so that transformers can load it from there."""
        return True

    @property
    def has_own_tokenizer(self) -> bool:
        """Whether its tokenizer is the one in its folder."""
        return True

    @property
    def is_whole(self) -> bool:
        """Whether its folder holds every tensor, rather than what another model is to be changed by."""
        return True

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of how it becomes an expert, one sentence each."""
        head, embedding = self.head, self.embedding
        if head is None or embedding is None or head.shape != embedding.shape or not ties(self.config):
            return ()
        return (
            f"{self.folder}: config.json ties the output head to the embedding, but the stored {head.name} differs "
            f"from {embedding.name}, so they stay two tensors, as in transformers",
        )

    @property
    def original(self) -> Checkpoint:
        """The model as it is on disk, without what shows it with other tokens or layers."""
        return self

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
            and not POSITIONS.search(name)
        )

    def vocabulary(self) -> Vocabulary | None:
        """Size and fingerprint of the tokenizer's vocabulary; None if it has none. Raises: as `tokens`."""
        tokens = self.tokens()
        if tokens is None:
            return None
        every = tokens.every
        text = json.dumps(sorted(every.items(), key=lambda item: (item[1], item[0])))
        return Vocabulary(len(every), hashlib.sha256(text.encode()).hexdigest()[:16])

    def tokens(self) -> Tokens | None:
        """The ids of its tokens; None if it has no tokenizer. Raises: CheckpointError if that can't be read."""
        return token_ids(self.folder)

    def tokenizer(self) -> Any:
        """Its tokenizer, through transformers. Raises: CheckpointError if there is none or it can't be read."""
        return load_tokenizer(self.folder)

    def write_tokenizer(self, folder: Path) -> None:
        """Put the files of its tokenizer and chat template into a folder, without code or what names it."""
        carry(self.folder, folder, only=TOKENIZER_FILES)

    def _read(self, info: TensorInfo) -> Tensor:
        return self._map(info).torch()

    def _map(self, info: TensorInfo) -> RawTensor:
        if info.file not in self._files:
            self._files[info.file] = mapped(info.file)
        return RawTensor.over(self._files[info.file][info.start :], info.kind, info.shape)

    def _refuse_missing_head(self) -> None:
        table = self.embedding
        if table is None or self.head is not None:
            return
        if any(info.shape == table.shape and info.name != table.name for info in self.tensors.values()):
            # It may be the head by a name of an earlier release, which transformers knows.
            return
        if (missing := missing_head(self.config, self.architecture, self.names)) is not None:
            said = "config.json says" if "tie_word_embeddings" in self.config else "its model type's default is"
            raise CheckpointError(
                f"{self.folder}: holds no {missing}, the output head, and {said} that it isn't tied to "
                "the embedding (tie_word_embeddings: false), so transformers would draw one at random; restore the "
                "tensor, or set tie_word_embeddings to true if the model was trained so"
            )

    def _redundant_head(self) -> str | None:
        """Name of a stored head that only repeats the embedding it is tied to."""
        head, embedding = self.head, self.embedding
        if head is None or embedding is None or (head.shape, head.kind) != (embedding.shape, embedding.kind):
            return None
        # As transformers: a head that differs from the embedding isn't tied, whatever the config says.
        if self.config.get("tie_word_embeddings") is False or not self._map(head).equals(self._map(embedding)):
            return None
        return head.name if ties(self.config) else None


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if is_adapter(folder):
        raise CheckpointError(f"{folder}: is a LoRA adapter, not a whole model; it can be an expert, but no base")
    if is_compressed(folder):
        raise CheckpointError(f"{folder}: is a compressed expert, not a whole model; it can be an expert, but no base")
    if not path.is_file():
        raise CheckpointError(f"{folder}: config.json is missing; is this a model folder in Hugging Face layout?")
    config = read_json(path)
    if config.get("quantization_config"):
        raise CheckpointError(f"{folder}: its weights are quantised, which can't be merged; use the original weights")
    return config
