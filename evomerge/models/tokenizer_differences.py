"""What two models' tokenizers differ in: how they cut text, which tokens they add, and how they write a chat."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.hub import TOKENIZER_FILES, VOCABULARY_FILES

_BEHAVIOUR = (
    "bos_token", "eos_token", "unk_token", "sep_token", "cls_token", "mask_token", "add_bos_token", "add_eos_token",
    "model_max_length", "clean_up_tokenization_spaces", "chat_template",
)  # fmt: skip
# Padding is masked, and lm-eval cuts texts by itself.
_WITHOUT_EFFECT = frozenset({"padding", "truncation", "version"})


def has_tokenizer(model: Checkpoint) -> bool:
    """Whether a model's folder holds files of a tokenizer."""
    patterns = (*VOCABULARY_FILES, "tokenizer*")
    return any(path.is_file() for pattern in patterns for path in model.folder.glob(pattern))


def tokenizer_differences(base: Checkpoint, other: Checkpoint) -> tuple[str, ...]:
    """Parts of the tokenizers that can change what a model is asked, as "tokenizer.chat_template"; empty if none does.

    A model without a tokenizer is asked with the base's, and one without a chat template with the base's template.

    Args:
        base: as the merge sees it.
        other: as it is on disk.

    Raises: CheckpointError for a tokenizer that can't be read.
    """
    if not has_tokenizer(other) or (base.as_stored and _contents(base.folder) == _contents(other.folder)):
        return ()
    try:
        ours = base.tokenizer()
    except CheckpointError:
        # Then nothing can be asked that needs one.
        return ()
    theirs = other.tokenizer()
    found = []
    if _cutting(ours) != _cutting(theirs):
        found.append("tokenizer.json")
    for name in _BEHAVIOUR:
        mine, its = getattr(ours, name, None), getattr(theirs, name, None)
        if mine != its and not (name == "chat_template" and its is None):
            found.append(f"tokenizer.{name}")
    return tuple(found)


def _files(folder: Path) -> dict[str, Path]:
    return {path.name: path for pattern in TOKENIZER_FILES for path in sorted(folder.glob(pattern)) if path.is_file()}


def _contents(folder: Path) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in _files(folder).items()}


def _cutting(tokenizer: Any) -> Any:
    """All that decides how text becomes tokens and tokens become text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return tokenizer.get_vocab()
    rules = json.loads(backend.to_str())
    return {key: value for key, value in rules.items() if key not in _WITHOUT_EFFECT}
