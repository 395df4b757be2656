"""Tokens of a model folder, read without loading its tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.tokens import load_tokenizer


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


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_control_characters_in_keys_of_added_tokens_reach_no_terminal(
    file: str, copy_of: Callable[[Path], Path], tiny_llama: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = copy_of(tiny_llama["base"])
    settings = json.loads((folder / file).read_text())
    token = {"content": "<new>", "\x1b[2J": True}
    if file == "tokenizer.json":
        settings["added_tokens"].append({"id": 5, **token})
    else:
        settings["added_tokens_decoder"] = {"5": token}
    (folder / file).write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=r"added token has the key '\\x1b\[2J'"):
        load_tokenizer(folder)
    assert "\x1b" not in "".join(capfd.readouterr())
