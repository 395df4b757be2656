"""Models with different vocabularies, seen with one: rows of embedding and head matched by token.

Knows which row a token has in each model. Does not know how models are merged: every other tensor is passed through.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomerge.errors import CheckpointError
from evomerge.kernels.dtypes import dtype_of
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.headers import TensorInfo
from evomerge.models.names import match_outer_names
from evomerge.models.seen import SeenCheckpoint
from evomerge.models.tokenizers import Tokenization, UnionTokenizer, examples, read_tokenization, union
from evomerge.models.tokens import Tokens
from evomerge.models.vocabulary_rows import (
    Gathered,
    Rows,
    Source,
    base_rows,
    copy_rows,
    fill_rows,
    is_in_place,
    num_rows,
    rows_for,
    rows_of,
    source_of,
)
from evomerge.recipe.sources import VocabularyPolicy


@dataclass(frozen=True, kw_only=True)
class MatchedCheckpoint(SeenCheckpoint):
    """A model seen with the vocabulary of a merge. Made by `match_vocabularies`.

    Tensors with a row per token are put together each time they are asked for, in memory of their own; all
    others are the model's. A model's own rows are exact. Config, tokenizer and tokens are those of the merge.

    Attributes:
        source: the model as it is stored.
        base: the base as it is stored, whose tokenizer settings and chat template the merge keeps.
        tokenization: the tokenizer of the merge; None if it is the base's.
        remarks: what was added and what was left out, one sentence each.
    """

    base: Checkpoint
    tokenization: UnionTokenizer | None
    _gathered: Mapping[str, Gathered] = field(repr=False)

    def tensor(self, name: str) -> Tensor:
        """One tensor: new memory where it has a row per token, otherwise as the model gives it. Don't write to it."""
        if name not in self._gathered:
            return self.source.tensor(name)
        info, gathered = self.tensors[name], self._gathered[name]
        out = torch.empty(info.shape, dtype=info.dtype)
        here = gathered.own.rows >= 0
        copy_rows(gathered.own, here, out)
        if bool((~here).any()):
            fill_rows(gathered.others, ~here, out)
        return out

    def computes(self, name: str) -> bool:
        """Whether a tensor is put together from rows, or worked out by the model itself."""
        return name in self._gathered or self.source.computes(name)

    @property
    def size_bytes(self) -> int:
        """Size of the model's tensors in its files."""
        return self.source.size_bytes

    @property
    def has_own_tokenizer(self) -> bool:
        """Whether its tokenizer is the base's, in whose folder that lies."""
        return self.tokenization is None

    def tokens(self) -> Tokens | None:
        """The ids of the merge's tokens."""
        return self.base.tokens() if self.tokenization is None else self.tokenization.tokens()

    def tokenizer(self) -> Any:
        """The tokenizer of the merge, through transformers. Raises: CheckpointError if it can't be made."""
        return self.base.tokenizer() if self.tokenization is None else self.tokenization.load(self.base)

    def write_tokenizer(self, folder: Path) -> None:
        """Put the files of the merge's tokenizer and the base's chat template into a folder."""
        if self.tokenization is None:
            self.base.write_tokenizer(folder)
        else:
            self.tokenization.write(self.base, folder)


def match_vocabularies(
    base: Checkpoint, experts: Mapping[str, Checkpoint], policy: VocabularyPolicy
) -> tuple[Checkpoint, dict[str, Checkpoint]]:
    """See every model with one vocabulary, matched by token.

    With `base`, tokens are the base's; with `union`, those of the experts are added after them, expert by expert.
    A model that lacks a token has for it

    - an expert: the base's row, so that its task vector is 0 there and the token is merged from those that have it;
    - the base: the mean of the experts' rows, since one expert's token then has that expert's row whatever its
      coefficient, and task vectors of several are measured from their middle. (A row of zeros would scale every
      added token by its coefficient.)

    Rows without any token are kept as the base has them, where task vectors are 0. If tokens are added beyond a
    padded embedding, it is padded again to the same power of two (at most 128) with the base's last row.

    Args:
        base: as opened.
        experts: as opened, by name, in config order; they fit the base but for their vocabularies.
        policy: "same" changes nothing.

    Returns: the models to merge; those that have the vocabulary already, as they are.

    Raises: CheckpointError if a tokenizer is missing, or their union can't be made.
    """
    if policy == "same":
        return base, dict(experts)
    known = _read(base, experts)
    theirs = {name: _stored(known[name], expert) for name, expert in experts.items()}
    ids, merged = known[""].ids, None
    stored = rows_of(base)
    if policy == "union" and any(
        ids.get(token, stored) >= stored for tokens in theirs.values() for token in tokens.ids
    ):
        merged = union(known[""], theirs)
        ids = merged.ids
    rows = rows_of(base) if merged is None else num_rows(base, known[""].ids, ids)
    has = {name: rows_for(tokens.ids, ids, rows) for name, tokens in theirs.items()}
    names = {name: match_outer_names(base, expert) for name, expert in experts.items()}
    seen_base = base
    if merged is not None:
        others = {
            tensor: tuple(source_of(experts[name], names[name][tensor], has[name]) for name in experts)
            for tensor in base.token_tensors
        }
        seen_base = _seen_base(base, others, merged, rows)
    seen: dict[str, Checkpoint] = {}
    for name, expert in experts.items():
        sizes = {expert.tensors[names[name][tensor]].shape[0] for tensor in base.token_tensors}
        fits = seen_base is base and sizes == {rows} and theirs[name].ids.keys() <= ids.keys()
        if fits and is_in_place(has[name], ids):
            seen[name] = expert
        else:
            remarks = _remarks(theirs[name], merged or known[""], has[name])
            seen[name] = _seen_expert(seen_base, base, expert, names[name], has[name], merged, remarks)
    return seen_base, seen


def _read(base: Checkpoint, experts: Mapping[str, Checkpoint]) -> dict[str, Tokenization]:
    """The models' tokenizers by name, the base's under "". An expert without files of its own has the base's."""
    if not base.token_tensors:
        raise CheckpointError(f"{base.folder}: no tensor has a row per token, so vocabularies can't be matched")
    ours = read_tokenization(base)
    if ours is None:
        raise CheckpointError(
            f"{base.folder}: holds no tokenizer, so tokens can't be matched; copy the tokenizer files of the original "
            "model there"
        )
    found = {"": ours}
    for name, expert in experts.items():
        theirs = read_tokenization(expert)
        if theirs is None and rows_of(expert) != rows_of(base):
            raise CheckpointError(
                f"expert {name!r}: {expert.folder}: holds no tokenizer, and its embedding has {rows_of(expert)} rows, "
                f"the base's {rows_of(base)}, so its tokens aren't known; copy its tokenizer files there"
            )
        found[name] = ours if theirs is None else theirs
    return found


def _stored(tokenization: Tokenization, model: Checkpoint) -> Tokenization:
    """Without the tokens that have no row in the model."""
    rows = rows_of(model)
    ids = {token: number for token, number in tokenization.ids.items() if number < rows}
    return Tokenization(where=tokenization.where, ids=ids, data=tokenization.data)


def _seen_base(
    base: Checkpoint, others: Mapping[str, tuple[Source, ...]], merged: UnionTokenizer, rows: int
) -> MatchedCheckpoint:
    """The base with rows for the experts' tokens."""
    gathered = {}
    for name, sources in others.items():
        own = base_rows(base, merged, name, rows, sources)
        gathered[name] = Gathered(own=Source(model=base, name=name, rows=own), others=sources)
    tensors = {name: _resized(base, name, name, rows, base.tensors[name].dtype) for name in gathered}
    return MatchedCheckpoint(
        reference=base.reference,
        folder=base.folder,
        config=_with_rows(base.config, rows_of(base), rows),
        tensors={**base.tensors, **tensors},
        ignored=base.ignored,
        source=base,
        base=base,
        tokenization=merged,
        remarks=_base_remarks(merged, rows),
        _gathered=gathered,
    )


def _seen_expert(
    seen_base: Checkpoint,
    base: Checkpoint,
    expert: Checkpoint,
    names: Mapping[str, str],
    has: Rows,
    merged: UnionTokenizer | None,
    remarks: tuple[str, ...],
) -> MatchedCheckpoint:
    """An expert with the base's rows, as they are seen, where it has none of its own."""
    tensors = dict(expert.tensors)
    gathered: dict[str, Gathered] = {}
    identity = np.arange(len(has))
    for tensor in base.token_tensors:
        # An expert that ties its head has one tensor for two of the base's, and needs two: the rows it lacks differ.
        is_tied = base.head is not None and tensor == base.head.name and expert.head is None
        name = tensor if is_tied else names[tensor]
        own = source_of(expert, names[tensor], has)
        gathered[name] = Gathered(own=own, others=(Source(model=seen_base, name=tensor, rows=identity),))
        # Wide enough for both, so that filled rows equal the base's and have no task vector.
        dtype = torch.promote_types(expert.tensors[names[tensor]].dtype, seen_base.tensors[tensor].dtype)
        tensors[name] = _resized(expert, names[tensor], name, len(has), dtype)
    return MatchedCheckpoint(
        reference=expert.reference,
        folder=expert.folder,
        config=_with_rows(expert.config, rows_of(expert), len(has)),
        tensors=tensors,
        ignored=expert.ignored,
        source=expert,
        base=base,
        tokenization=merged,
        remarks=remarks,
        _gathered=gathered,
    )


def _resized(model: Checkpoint, name: str, new_name: str, rows: int, dtype: torch.dtype) -> TensorInfo:
    info = model.tensors[name]
    shape = (rows, *info.shape[1:])
    size = torch.Size(shape).numel() * dtype.itemsize
    return TensorInfo(name=new_name, shape=shape, kind=dtype_of(dtype), size_bytes=size, file=info.file)


def _with_rows(config: Mapping[str, Any], old: int, new: int) -> dict[str, Any]:
    """A config with another number of rows, wherever it states it: at the top or in the text model's own section."""
    changed, found = _replaced_rows(config, old, new)
    return changed if found else {**changed, "vocab_size": new}


def _replaced_rows(config: Mapping[str, Any], old: int, new: int) -> tuple[dict[str, Any], bool]:
    changed, found = dict(config), False
    for key, value in config.items():
        if key == "vocab_size" and value == old:
            changed[key], found = new, True
        elif isinstance(value, Mapping):
            changed[key], inside = _replaced_rows(value, old, new)
            found = found or inside
    return changed, found


def _base_remarks(merged: UnionTokenizer, rows: int) -> tuple[str, ...]:
    brought = [
        f"{len(tokens)} of expert {name!r} ({examples(tokens, merged)})"
        for name, tokens in merged.added.items()
        if tokens
    ]
    total = sum(map(len, merged.added.values()))
    counts = f"{total} added to the base's {len(merged.ids) - total} tokens: {'; '.join(brought) or 'none'}"
    kept = "special tokens, chat template and generation settings stay the base's"
    return tuple(f"vocabulary: {text}" for text in (f"{counts}; its embedding has {rows} rows", kept, *merged.notes))


def _remarks(own: Tokenization, merged: Tokenization | UnionTokenizer, has: Rows) -> tuple[str, ...]:
    ids = merged.ids
    lacking = [token for token, number in ids.items() if number < len(has) and has[number] < 0]
    dropped = [token for token in own.ids if token not in ids]
    found = []
    if lacking:
        shown = examples(lacking, merged)
        found.append(f"vocabulary: lacks {len(lacking)} of {len(ids)} tokens, which have the base's rows: {shown}")
    if dropped:
        shown = examples(dropped, own)
        found.append(
            f"vocabulary: {len(dropped)} of its {len(own.ids)} tokens are left out, also where it is scored by itself: "
            f"{shown}"
        )
    return tuple(found) or ("vocabulary: has every token, in other rows or with other padding",)
