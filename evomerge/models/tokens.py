"""A tokenizer's tokens and their ids: from tokenizer.json where that says them all, otherwise through transformers.

Knows files. Does not know weights, and runs no code that comes with a model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from evomerge.errors import CheckpointError
from evomerge.models.headers import read_json
from evomerge.models.hub import VOCABULARY_FILES

_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "config.json")
POSITIONS = re.compile(r"wpe|position|token_type", re.IGNORECASE)


class Vocabulary(NamedTuple):
    """A tokenizer's vocabulary: number of tokens, added ones included, and a hash of all tokens with their ids."""

    size: int
    fingerprint: str


class Tokens(NamedTuple):
    """Ids of a tokenizer's tokens: the regular ones, and those that were added."""

    regular: Mapping[str, int]
    added: Mapping[str, int]

    @property
    def every(self) -> dict[str, int]:
        """All of them."""
        return {**self.regular, **self.added}


def vocabulary_files(folder: Path) -> list[Path]:
    """The files of a folder that hold a tokenizer's tokens, by name."""
    return sorted({path for pattern in VOCABULARY_FILES for path in folder.glob(pattern) if path.is_file()})


def token_ids(folder: Path) -> Tokens | None:
    """Token ids, the regular and the added ones; None if the folder holds no tokenizer.

    Raises: CheckpointError if it holds one that neither this reader nor transformers can read.
    """
    files = [*vocabulary_files(folder), *(folder / name for name in _SETTINGS if (folder / name).is_file())]
    return _read(folder, tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files))


@lru_cache(maxsize=2)  # a base, and the expert that it is compared with
def _read(folder: Path, files: tuple[tuple[str, int, int], ...]) -> Tokens | None:
    """The tokens of a folder with these files, by name, size and time of change."""
    written = _written(folder)
    if written is not None and _named(folder) <= written.every.keys():
        return written
    has_settings = (folder / "tokenizer_config.json").is_file()
    if not has_settings and not vocabulary_files(folder):
        return None
    try:
        tokenizer = load_tokenizer(folder)
    except CheckpointError:
        written = written or _mapped(folder)
        if written is None and vocabulary_files(folder):
            raise
        return written
    added = {str(token): int(number) for token, number in tokenizer.get_added_vocab().items()}
    every = {str(token): int(number) for token, number in tokenizer.get_vocab().items()}
    return Tokens({token: number for token, number in every.items() if token not in added}, added)


def load_tokenizer(folder: Path) -> Any:
    """A folder's tokenizer, through transformers. Raises: CheckpointError if there is none or it can't be read."""
    from transformers import AutoTokenizer

    _refuse_control_characters(folder)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        is_empty = _is_empty(tokenizer, folder)
    except Exception as error:
        raise CheckpointError(
            f"{folder}: its tokenizer can't be loaded; copy the tokenizer files of the original model there "
            f"({type(error).__name__}: {error})"
        ) from error
    if is_empty:
        expected = ", ".join(sorted(set(tokenizer.vocab_files_names.values())))
        raise CheckpointError(
            f"{folder}: its tokenizer has special tokens alone: transformers reads it with {type(tokenizer).__name__}, "
            f"which finds none of its files ({expected}); copy those of the original model there"
        )
    return tokenizer


def _is_empty(tokenizer: Any, folder: Path) -> bool:
    """Whether transformers found no vocabulary and went on with a class's special tokens, which it says nowhere."""
    names = set(tokenizer.vocab_files_names.values())
    # A class that reads no file, such as one of bytes, needs none.
    if not names or any((folder / name).is_file() for name in names):
        return False
    special = {*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens}
    # Some classes bring "▁" or the like by themselves.
    return len(tokenizer.get_vocab().keys() - special) < 2


def _written(folder: Path) -> Tokens | None:
    """What tokenizer.json says; None if there is none, or it is of a form that isn't known here."""
    if not (folder / "tokenizer.json").is_file():
        return None
    data = read_json(folder / "tokenizer.json")
    try:
        vocab = (data.get("model") or {})["vocab"]
        if isinstance(vocab, list):
            regular = {str(entry[0]): position for position, entry in enumerate(vocab)}
        else:
            regular = {str(token): int(number) for token, number in vocab.items()}
        added = {str(entry["content"]): int(entry["id"]) for entry in data.get("added_tokens") or ()}
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, OverflowError):
        return None
    return Tokens(regular, added)


def _mapped(folder: Path) -> Tokens | None:
    """What vocab.json and added_tokens.json say; None if they don't map tokens to ids."""
    found: list[dict[str, int]] = []
    for name in ("vocab.json", "added_tokens.json"):
        data = read_json(folder / name) if (folder / name).is_file() else {}
        if not all(isinstance(number, int) for number in data.values()):
            return None
        found.append({str(token): int(number) for token, number in data.items()})
    return Tokens(found[0], found[1]) if found[0] else None


def _named(folder: Path) -> set[str]:
    """Tokens that the files beside tokenizer.json name, which transformers adds where they are missing there."""
    found: set[str] = set()
    for name in _SETTINGS[:2]:
        if (folder / name).is_file():
            found.update(_special(read_json(folder / name)))
    if (folder / "added_tokens.json").is_file():
        found.update(read_json(folder / "added_tokens.json"))
    return found


def _refuse_control_characters(folder: Path) -> None:
    """Added tokens' keys, which the tokenizers library prints as they are where it doesn't know them."""
    for name in ("tokenizer.json", *_SETTINGS[:2]):
        path = folder / name
        for entry in _entries(read_json(path)) if path.is_file() else ():
            for key in entry if isinstance(entry, Mapping) else ():
                if not key.isprintable():
                    raise CheckpointError(f"{path}: an added token has the key {key!r}, with control characters in it")


def _special(settings: Mapping[str, Any]) -> Iterator[str]:
    """Contents of all tokens that a tokenizer's settings name."""
    for entry in _entries(settings):
        content = entry.get("content") if isinstance(entry, Mapping) else entry
        if isinstance(content, str):
            yield content


def _entries(settings: Mapping[str, Any]) -> Iterator[Any]:
    """All tokens that a tokenizer's settings name, each as written there: a text, or a mapping with its content."""
    for key, value in settings.items():
        if key.endswith("_token") or key in {"additional_special_tokens", "extra_special_tokens"}:
            entries = value if isinstance(value, list) else [value]
            if key == "extra_special_tokens" and isinstance(value, Mapping):
                entries = list(value.values())
        elif key == "added_tokens_decoder" and isinstance(value, Mapping):
            entries = list(value.values())
        elif key == "added_tokens" and isinstance(value, list):
            entries = value
        else:
            continue
        yield from entries
