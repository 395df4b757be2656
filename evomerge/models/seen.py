"""A model seen otherwise than it lies on disk: what all ways to see one have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from evomerge.kernels.raw import RawTensor
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class SeenCheckpoint(Checkpoint):
    """A model seen otherwise than it lies in its folder: with other tensors, its tokenizer its own.

    Attributes:
        source: the model that is seen.
        remarks: what is other about it, a sentence each.
    """

    source: Checkpoint
    remarks: tuple[str, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        # Open files don't travel between processes.
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "_files"}
        return (_again, (type(self), values))

    @property
    def original(self) -> Checkpoint:
        """The model as it is on disk."""
        return self.source.original

    @property
    def as_stored(self) -> bool:
        """False: its folder holds other tensors."""
        return False

    @property
    def has_own_tokenizer(self) -> bool:
        """Whether the model's tokenizer is the one in its folder."""
        return self.source.has_own_tokenizer

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be known of the model itself, then what is other about it."""
        return (*self.source.notes, *self.remarks)

    def raw(self, name: str) -> RawTensor:
        """The same as `tensor` has it."""
        return RawTensor.of(self.tensor(name))

    def tokens(self) -> Tokens | None:
        """The ids of the model's own tokens."""
        return self.source.tokens()

    def tokenizer(self) -> Any:
        """The model's own tokenizer."""
        return self.source.tokenizer()

    def write_tokenizer(self, folder: Path) -> None:
        """Put the files of the model's own tokenizer into a folder."""
        self.source.write_tokenizer(folder)


def _again(kind: type[SeenCheckpoint], values: Mapping[str, Any]) -> SeenCheckpoint:
    return kind(**values)
