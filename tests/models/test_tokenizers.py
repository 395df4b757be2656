from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from evomerge.errors import CheckpointError
from evomerge.models import tokenizers
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.tokenizers import UnionTokenizer, read_tokenization, union
from helpers.vocabulary import ENGLISH, SWAHILI, TEXTS, bpe, unigram, whole_words, with_added, wordpiece, write_model

PIECES = [("▁the", -3.0), ("▁river", -4.0), ("er", -5.0)]
MORE = [("▁mwalimu", -4.5), ("wa", -5.5), ("▁m", -4.0)]
WORDS = ["the", "river", "##er"]

EXTENSIONS: dict[str, Callable[[], tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast]]] = {
    "byte-level BPE": lambda: (bpe(290), bpe(340)),
    "BPE, the base with added tokens": lambda: (with_added(bpe(290), "<|user|>"), _bpe_grown_after_added()),
    "Unigram": lambda: (unigram(PIECES), unigram([*PIECES, *MORE])),
    "WordPiece": lambda: (wordpiece(WORDS), wordpiece([*WORDS, "mwalimu", "##wa", "wa"])),
    "whole words": lambda: (whole_words(["the", "river"]), whole_words(["the", "river", "Mwalimu", "watoto"])),
}


def _bpe_grown_after_added() -> PreTrainedTokenizerFast:
    """The base of the same case with the vocabulary of a larger one, numbered after the added token."""
    small, large = with_added(bpe(290), "<|user|>"), bpe(340)
    data, grown = (json.loads(one.backend_tokenizer.to_str()) for one in (small, large))
    vocab = {**data["model"]["vocab"], "<|user|>": 290}
    for token in grown["model"]["vocab"]:
        vocab.setdefault(token, len(vocab))
    data["model"] = {**grown["model"], "vocab": vocab}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(data)), eos_token="</s>")


def made(folder: Path, base: Any, **experts: Any) -> tuple[Checkpoint, UnionTokenizer]:
    opened = Checkpoint.open(write_model(folder / "base", base))
    found = {
        name: read_tokenization(Checkpoint.open(write_model(folder / name, expert))) for name, expert in experts.items()
    }
    ours = read_tokenization(opened)
    assert ours is not None
    return opened, union(ours, {name: one for name, one in found.items() if one is not None})


@pytest.mark.parametrize("case", EXTENSIONS)
def test_the_union_with_an_extension_of_the_base_splits_every_text_as_the_extension(case: str, tmp_path: Path) -> None:
    base, grown = EXTENSIONS[case]()
    opened, found = made(tmp_path, base, a=grown)
    loaded = found.load(opened)
    assert loaded.get_vocab() == grown.get_vocab() != base.get_vocab()
    differing = 0
    for text in (*TEXTS, "mwalimu wa watoto", "the river Mwalimu<|user|>watoto"):
        expected = grown.encode(text, add_special_tokens=False)
        differing += expected != base.encode(text, add_special_tokens=False)
        assert loaded.encode(text, add_special_tokens=False) == expected
        assert loaded.decode(expected) == grown.decode(expected)
    assert differing >= 2
    assert any("as by expert 'a', whose tokenizer extends the base's" in note for note in found.notes)


def test_added_tokens_of_experts_stand_for_themselves_with_their_settings(tmp_path: Path) -> None:
    chat = with_added(bpe(290), "<|im_start|>", "<|im_end|>")
    thinking = with_added(with_added(bpe(290), "<|im_end|>"), "<think>", special=False, rstrip=True)
    opened, found = made(tmp_path, bpe(290), chat=chat, thinking=thinking)
    assert found.added == {"chat": ("<|im_start|>", "<|im_end|>"), "thinking": ("<think>",)}
    assert [found.ids[token] for token in ("<|im_start|>", "<|im_end|>", "<think>")] == [290, 291, 292]
    assert all(found.ids[entry["content"]] == entry["id"] for entry in found.data["added_tokens"])
    loaded, base = found.load(opened), bpe(290)
    for text in TEXTS:
        assert loaded.encode(text) == base.encode(text)
    assert loaded.encode("the<|im_end|><think>  sea") == [
        *base.encode("the"), 291, 292, *base.encode("sea"),
    ]  # fmt: skip
    assert loaded.decode([291, 292], skip_special_tokens=True) == "<think>"
    assert found.notes == (
        "text is split into tokens as by the base, but for the added tokens, which stand for themselves",
    )


def test_a_union_of_unrelated_tokenizers_only_joins_tokens_of_the_base(tmp_path: Path) -> None:
    base, other = bpe(330, ENGLISH), bpe(360, SWAHILI)
    opened, found = made(tmp_path, base, other=other)
    loaded = found.load(opened)
    ids = found.ids
    assert {token: ids[token] for token in base.get_vocab()} == base.get_vocab()
    new = set(other.get_vocab()) - set(base.get_vocab())
    assert new
    assert set(found.added["other"]) == new
    joined = 0
    for text in TEXTS:
        ours, theirs = loaded.tokenize(text), base.tokenize(text)
        joined += ours != theirs
        position = 0
        for token in ours:
            parts = [theirs[position]]
            while len("".join(parts)) < len(token):
                parts.append(theirs[position + len(parts)])
            assert "".join(parts) == token
            assert len(parts) == 1 or token in new
            position += len(parts)
        assert position == len(theirs)
        assert loaded.decode(loaded.encode(text)) == text
    assert joined >= len(SWAHILI)
    notes = " ".join(found.notes)
    assert "may be split otherwise than in the training of expert 'other'" in notes
    assert "don't come about even from their own text" in notes


def test_another_way_to_a_token_of_the_base_is_not_taken(tmp_path: Path) -> None:
    base = _letters([("b", "c"), ("a", "b"), ("ab", "c")])
    assert base.tokenize("abc") == ["a", "bc"]
    other = _letters([("b", "c"), ("a", "bc"), ("abc", "d")])
    opened, found = made(tmp_path, base, other=other)
    loaded = found.load(opened)
    assert found.added == {"other": ("abcd",)}
    assert loaded.tokenize("abc") == ["a", "bc"]
    assert any("'abcd'" in note for note in found.notes if "don't come about" in note)


def _letters(merges: list[tuple[str, str]]) -> PreTrainedTokenizerFast:
    tokens = dict.fromkeys(["</s>", *"abcd", *("".join(pair) for pair in merges)])
    vocab = {token: number for number, token in enumerate(tokens)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab, merges)), eos_token="</s>")


def test_scores_of_a_unigram_model_are_moved_to_those_of_the_base(tmp_path: Path) -> None:
    shifted = [(piece, score - 2.0) for piece, score in [*PIECES, *MORE]]
    _, found = made(tmp_path, unigram(PIECES), a=unigram(shifted))
    scores = dict(found.data["model"]["vocab"])
    # Letters have the same score in both, so that the median difference is theirs.
    assert scores["▁mwalimu"] == -4.5 - 2.0
    assert [piece for piece, _ in found.data["model"]["vocab"]] == sorted(found.ids, key=lambda token: found.ids[token])
    whole = [(piece, score - 2.0) for piece, score in found.data["model"]["vocab"] if piece not in found.added["a"]]
    (tmp_path / "again").mkdir()
    _, again = made(tmp_path / "again", unigram(PIECES), a=_unigram_of([*whole, ("▁mwalimu", -6.5)]))
    assert dict(again.data["model"]["vocab"])["▁mwalimu"] == -4.5


def _unigram_of(vocab: list[tuple[str, float]]) -> PreTrainedTokenizerFast:
    made = unigram([])
    data = json.loads(made.backend_tokenizer.to_str())
    data["model"]["vocab"] = [list(entry) for entry in vocab]
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(data)), eos_token="</s>")


@pytest.mark.parametrize(
    "tokenizer_class", ["LlamaTokenizer", "GPT2Tokenizer", "Qwen2Tokenizer", "GemmaTokenizer", None]
)
def test_a_written_union_reads_back_whatever_class_the_base_names(tokenizer_class: str | None, tmp_path: Path) -> None:
    opened, found = made(tmp_path, with_added(bpe(290), "<|x|>"), a=with_added(bpe(330), "<|y|>"))
    for folder in (opened.folder, tmp_path / "a"):
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        settings["tokenizer_class"] = tokenizer_class
        if tokenizer_class is None:
            del settings["tokenizer_class"]
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    ours, theirs = (read_tokenization(Checkpoint.open(tmp_path / name)) for name in ("base", "a"))
    assert ours is not None
    assert theirs is not None
    found = union(ours, {"a": theirs})
    out = tmp_path / "out"
    out.mkdir()
    found.write(opened, out)
    (out / "config.json").write_text((opened.folder / "config.json").read_text())
    loaded = AutoTokenizer.from_pretrained(out)
    assert loaded.get_vocab() == found.ids
    assert loaded.chat_template == opened.tokenizer().chat_template is not None
    assert loaded.encode("the<|x|>sea<|y|>") == found.load(opened).encode("the<|x|>sea<|y|>")
    loaded.save_pretrained(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").get_vocab() == found.ids


def test_a_class_that_reads_something_else_is_not_named_and_if_none_is_right_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, found = made(tmp_path, bpe(290), a=bpe(330))
    load = tokenizers.load_tokenizer
    wrong = opened.tokenizer()
    monkeypatch.setattr(
        tokenizers,
        "load_tokenizer",
        lambda folder: load(folder) if '"PreTrained' in (folder / "tokenizer_config.json").read_text() else wrong,
    )
    assert found.load(opened).get_vocab() == found.ids
    monkeypatch.setattr(tokenizers, "load_tokenizer", lambda folder: wrong)
    with pytest.raises(CheckpointError, match=r"doesn't read the union .* as it was written"):
        found.load(opened)


def test_files_of_other_forms_are_left_out(tmp_path: Path) -> None:
    opened, found = made(tmp_path, bpe(290), a=bpe(330))
    (opened.folder / "vocab.json").write_text("{}")
    (opened.folder / "added_tokens.json").write_text("{}")
    out = tmp_path / "out"
    out.mkdir()
    found.write(opened, out)
    assert sorted(path.name for path in out.iterdir()) == [
        "chat_template.jinja", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip


def test_older_settings_name_the_new_added_tokens_too(tmp_path: Path) -> None:
    opened, found = made(tmp_path, bpe(290), a=with_added(bpe(290), "<|y|>"))
    path = opened.folder / "tokenizer_config.json"
    entry = {
        "content": "<s>",
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
        "special": True,
    }
    path.write_text(json.dumps({**json.loads(path.read_text()), "added_tokens_decoder": {"1": entry}}))
    found.write(opened, tmp_path)
    written = json.loads((tmp_path / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert written["1"] == entry
    assert written["290"] == {**entry, "content": "<|y|>"}


@pytest.mark.parametrize(
    ("base", "other", "said"),
    [
        (lambda: bpe(290), lambda: unigram(PIECES), "is a Unigram with ▁ for spaces, the base's is a BPE with bytes"),
        (lambda: wordpiece(WORDS), lambda: whole_words(["the"]), "is a WordLevel, the base's is a WordPiece with ##"),
    ],
)
def test_tokenizers_that_spell_text_otherwise_are_refused(base: Any, other: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{said}.*models.vocabulary: base"):
        made(tmp_path, base(), other=other())


def test_the_union_does_not_depend_on_anything_but_the_order_of_experts(tmp_path: Path) -> None:
    experts = {"x": with_added(bpe(310), "<|x|>"), "y": with_added(bpe(320, SWAHILI), "<|y|>")}
    (tmp_path / "one").mkdir()
    _, one = made(tmp_path / "one", bpe(290), **experts)
    _, two = made(tmp_path / "two", bpe(290), **experts)
    _, other = made(tmp_path / "three", bpe(290), **dict(reversed(experts.items())))
    assert one == two
    assert one.ids != other.ids
    assert one.ids.keys() == other.ids.keys()
    first = one.ids[one.added["x"][0]]
    assert [one.ids[token] for tokens in one.added.values() for token in tokens] == list(range(first, len(one.ids)))
