"""Tokens of a model folder, read without loading its tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from evomerge.models.checkpoint import Checkpoint


def test_the_vocabulary_is_counted_and_fingerprinted(
    copy_of: Callable[[Path], Path], tiny_llama: dict[str, Path]
) -> None:
    base, expert = (Checkpoint.open(tiny_llama[name]).vocabulary() for name in ("base", "a"))
    assert base is not None
    assert base == expert
    assert base.size == len(Checkpoint.open(tiny_llama["base"]).tokenizer())
    folder = copy_of(tiny_llama["base"])
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    other = Checkpoint.open(folder).vocabulary()
    assert other is not None
    assert (other.size, other.fingerprint == base.fingerprint) == (base.size, False)
    (folder / "tokenizer.json").unlink()
    assert Checkpoint.open(folder).vocabulary() is None
