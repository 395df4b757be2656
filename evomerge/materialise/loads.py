"""Whether a written folder loads as the base does: what else than weights transformers reads of it.

Knows transformers' loaders. Does not know weights, and runs no code that comes with a model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from evomerge.errors import ExportError
from evomerge.models.carried import not_carried, with_dtype
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.headers import read_json
from evomerge.models.tokens import load_tokenizer, vocabulary_files


def check_loads(base: Checkpoint, folder: Path) -> None:
    """Load config, tokenizer and processor of a folder, each that loads of the base.

    Args:
        base: the model whose files the folder has.
        folder: with everything but the weights.

    Raises: ExportError if one doesn't load, or the tokenizer is another than the base's without being meant to be.
    """
    if _is_unchanged(base, folder):
        return
    for part, load in _loaders(base):
        try:
            own = load(base.folder)
        except Exception:  # transformers raises whatever a file leads it to
            continue
        try:
            found = load(folder)
        except Exception as error:
            raise ExportError(
                f"{base.folder}: its {part} loads, and that of the merge wouldn't ({type(error).__name__}: {error}). "
                "Files that it needs were left out, such as links to other places; put the files themselves there"
            ) from error
        if part == "tokenizer" and base.has_own_tokenizer and own.get_vocab() != found.get_vocab():
            raise ExportError(
                f"{base.folder}: transformers reads {len(own.get_vocab())} tokens of its tokenizer there and "
                f"{len(found.get_vocab())} from the files that go along with the merge. Files that it needs were left "
                "out, such as links to other places; put the files themselves there"
            )


def _is_unchanged(base: Checkpoint, folder: Path) -> bool:
    """Whether the folder has all that is read of the base's, as it is there, but for the dtype: then it loads alike.

    Asking transformers takes longer than a small merge. Without a model type it goes by the folder's name.
    """
    config = read_json(folder / "config.json")
    return (
        base.has_own_tokenizer
        and "model_type" in config
        and config == with_dtype(base.config, config.get("dtype", ""))
        and not not_carried(base.folder, folder)
    )


def _loaders(base: Checkpoint) -> list[tuple[str, Callable[[Path], Any]]]:
    """What the base has, in words, and what loads it."""
    found: list[tuple[str, Callable[[Path], Any]]] = [("config", _config)]
    if vocabulary_files(base.folder):
        found.append(("tokenizer", load_tokenizer))
    if any(base.folder.glob("*processor_config.json")):
        found.append(("processor", _processor))
    return found


def _config(folder: Path) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _processor(folder: Path) -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
