"""A tokenizer's tokens and their ids, as its files say them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from evomerge.models.headers import read_json

POSITIONS = re.compile(r"wpe|position|token_type", re.IGNORECASE)


class Vocabulary(NamedTuple):
    """A tokenizer's vocabulary: number of tokens, added ones included, and a hash of all tokens with their ids."""

    size: int
    fingerprint: str


class Tokens(NamedTuple):
    """Ids of a tokenizer's tokens: the regular ones, and those that were added."""

    regular: Mapping[str, int]
    added: Mapping[str, int]


def token_ids(folder: Path) -> Tokens | None:
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
