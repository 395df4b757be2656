"""Models that are merged row by row: their tokens are compared however their files say them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.compatible import check_compatible
from evomerge.models.open import Models, notes_of
from evomerge.models.vocabulary import match_vocabularies
from evomerge.models.vocabulary_checks import token_notes
from evomerge.testing.models import tiny_checkpoint, tiny_tokenizer
from helpers.vocabulary import ENGLISH, SWAHILI, with_added

Writer = Callable[[Path, Sequence[str]], None]


def sentencepiece(name: str, kind: str, model_type: str) -> Writer:
    def write(folder: Path, texts: Sequence[str]) -> None:
        trainer = pytest.importorskip("sentencepiece").SentencePieceTrainer
        buffer = io.BytesIO()
        trainer.train(
            sentence_iterator=iter([*texts] * 20),
            model_writer=buffer,
            vocab_size=300,
            model_type=kind,
            byte_fallback=kind == "bpe",
            hard_vocab_limit=False,
            num_threads=1,
            minloglevel=2,
        )
        (folder / name).write_bytes(buffer.getvalue())
        as_model_type(folder, model_type)

    return write


def lines(folder: Path, texts: Sequence[str]) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(" ".join(texts).lower().split())]
    (folder / "vocab.txt").write_text("\n".join(words))
    as_model_type(folder, "bert")


def codes(folder: Path, texts: Sequence[str]) -> None:
    words = dict.fromkeys(" ".join(texts).lower().split())
    (folder / "vocab.txt").write_text("".join(f"{word} 1\n" for word in words))
    (folder / "bpe.codes").write_text("#version: 0.2\nt h\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PhobertTokenizer"}))


def tekken(folder: Path, texts: Sequence[str]) -> None:
    words = [*map(bytes, ([byte] for byte in range(256))), *(word.encode() for word in " ".join(texts).split())]
    entries = [
        {"rank": rank, "token_bytes": base64.b64encode(word).decode(), "token_str": word.decode(errors="replace")}
        for rank, word in enumerate(dict.fromkeys(words))
    ]
    special = [{"rank": rank, "token_str": token, "is_control": True} for rank, token in enumerate(("<unk>", "<s>"))]
    config = {"pattern": r"\S+|\s+", "default_vocab_size": len(entries) + 2, "default_num_special_tokens": 2}
    (folder / "tekken.json").write_text(
        json.dumps({"config": {**config, "version": "v3"}, "vocab": entries, "special_tokens": special})
    )
    as_model_type(folder, "mistral")


def merged_pairs(folder: Path, texts: Sequence[str]) -> None:
    model = json.loads(tiny_tokenizer(300 if len(texts) == 2 else 310).backend_tokenizer.to_str())["model"]
    vocab = dict(
        zip(model["vocab"], range(len(model["vocab"]), 0, -1) if len(texts) == 2 else range(1000), strict=False)
    )
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"]))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))


def as_model_type(folder: Path, model_type: str) -> None:
    """Have transformers choose the tokenizer's class of another family."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": model_type}))


FORMS: dict[str, Writer] = {
    "tokenizer.model": sentencepiece("tokenizer.model", "bpe", "llama"),
    "spm.model": sentencepiece("spm.model", "unigram", "deberta-v2"),
    "sentencepiece.bpe.model": sentencepiece("sentencepiece.bpe.model", "unigram", "xlm-roberta"),
    "spiece.model": sentencepiece("spiece.model", "unigram", "t5"),
    "vocab.txt": lines,
    "bpe.codes": codes,
    "tekken.json": tekken,
    "vocab.json": merged_pairs,
}


def bare(folder: Path, seed: int = 0, **settings: Any) -> Path:
    """A model without any file of a tokenizer."""
    tiny_checkpoint(folder, seed=seed, **settings)
    for path in [*folder.glob("*token*"), *folder.glob("chat_template*")]:
        path.unlink()
    return folder


def opened(base: Path, expert: Path) -> tuple[Checkpoint, dict[str, Checkpoint]]:
    return Checkpoint.open(base), {"e": Checkpoint.open(expert)}


@pytest.mark.parametrize("form", FORMS)
def test_tokens_of_every_form_are_those_that_transformers_reads_and_are_compared(tmp_path: Path, form: str) -> None:
    folders = [bare(tmp_path / name, seed) for seed, name in enumerate(("base", "same", "other"))]
    for folder, texts in zip(folders, (ENGLISH, ENGLISH, SWAHILI), strict=True):
        FORMS[form](folder, texts)
    base, same, other = map(Checkpoint.open, folders)
    tokens = base.tokens()
    assert tokens is not None
    assert tokens.every == AutoTokenizer.from_pretrained(base.folder).get_vocab()
    check_compatible(base, {"same": same})
    assert token_notes(base, {"same": same}) == []
    with pytest.raises(CheckpointError, match=r"expert 'other': .*numbers tokens otherwise than the base's"):
        check_compatible(base, {"other": other})


def test_the_same_tokens_in_two_forms_are_the_same(tmp_path: Path) -> None:
    base, expert = bare(tmp_path / "base"), bare(tmp_path / "expert", 1)
    FORMS["tokenizer.model"](base, ENGLISH)
    FORMS["tokenizer.model"](expert, ENGLISH)
    AutoTokenizer.from_pretrained(expert).save_pretrained(expert)
    (expert / "tokenizer.model").unlink()
    assert (expert / "tokenizer.json").is_file()
    check_compatible(*opened(base, expert))


def test_files_that_cannot_be_read_are_refused_unless_they_are_the_bases_own(tmp_path: Path) -> None:
    base, expert = bare(tmp_path / "base"), bare(tmp_path / "expert", 1)
    for folder in (base, expert):
        (folder / "tokenizer.model").write_bytes(b"not really")
    check_compatible(*opened(base, expert))
    (expert / "tokenizer.model").write_bytes(b"not really.")
    with pytest.raises(CheckpointError, match=r"expert 'e': .*base: its tokenizer can't be loaded(.|\n)*be compared"):
        check_compatible(*opened(base, expert))


def test_a_class_that_finds_no_file_and_goes_on_with_special_tokens_is_no_tokenizer(tmp_path: Path) -> None:
    folder = bare(tmp_path / "model")
    (folder / "spm.model").write_bytes(b"read by another class")
    as_model_type(folder, "bert")
    assert len(AutoTokenizer.from_pretrained(folder).get_vocab()) == 5
    with pytest.raises(CheckpointError, match=r"special tokens alone: .*BertTokenizer.*vocab\.txt"):
        Checkpoint.open(folder).tokens()


def test_added_tokens_inside_the_padding_are_said_and_with_the_bases_vocabulary_left_to_the_base(
    tmp_path: Path,
) -> None:
    base, expert = bare(tmp_path / "base", vocab_size=448), bare(tmp_path / "expert", 1, vocab_size=448)
    tiny_tokenizer(380).save_pretrained(base)
    with_added(tiny_tokenizer(380), "<|im_start|>", "<|im_end|>").save_pretrained(expert)
    base_, experts = opened(base, expert)
    check_compatible(base_, experts)
    assert token_notes(base_, experts) == [
        "expert 'e': its tokenizer has added tokens that the base's hasn't ('<|im_start|>', '<|im_end|>'); the merge "
        "has the base's tokenizer, which doesn't make them; models.vocabulary: union keeps them"
    ]
    assert any("'<|im_start|>'" in note for note in notes_of(Models(base_, experts)))
    (back,) = token_notes(experts["e"], {"b": base_})
    assert "lacks added tokens of the base's ('<|im_start|>', '<|im_end|>')" in back
    seen = match_vocabularies(base_, experts, "base")[1]["e"]
    name = base_.token_tensors[0]
    own = experts["e"].tensor(name)
    assert seen.tensor(name)[:380].equal(own[:380])
    assert seen.tensor(name)[380:].equal(base_.tensor(name)[380:])


def test_special_tokens_that_only_the_settings_name_count_as_transformers_adds_them(tmp_path: Path) -> None:
    base, expert = bare(tmp_path / "base"), bare(tmp_path / "expert", 1)
    for folder, extra in ((base, ["<|a|>", "<|b|>"]), (expert, ["<|b|>", "<|a|>"])):
        tiny_tokenizer(380).save_pretrained(folder)
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        settings["additional_special_tokens"] = extra
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokens = Checkpoint.open(base).tokens()
    assert tokens is not None
    assert tokens.every == AutoTokenizer.from_pretrained(base).get_vocab()
    with pytest.raises(CheckpointError, match=r"'<\|a\|>' 381 \(base 380\), '<\|b\|>' 380 \(base 381\)"):
        check_compatible(*opened(base, expert))


def test_a_whole_model_without_a_tokenizer_is_said_to_be_taken_for_the_bases(tmp_path: Path) -> None:
    base, expert = tiny_checkpoint(tmp_path / "base"), bare(tmp_path / "expert", 1)
    (note,) = token_notes(*opened(base, expert))
    assert "expert holds no tokenizer; its rows are taken to stand for the same tokens" in note
