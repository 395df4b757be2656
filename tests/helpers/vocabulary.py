"""Small models with vocabularies of their own, for the tests of tokenizers and vocabularies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from evomerge.testing.models import SPECIAL_TOKENS, tiny_model, tiny_tokenizer

SWAHILI = (
    "Mwalimu anafundisha watoto kusoma na kuandika shuleni kila siku.",
    "Wakulima walipanda mahindi na maharagwe kabla ya mvua za masika.",
    "Ngoma zilipigwa usiku kucha katika kijiji kilicho karibu na mto.",
)
ENGLISH = (
    "The river rises in the hills and runs past the market town down to the sea.",
    "A farmer has twelve goats and sells five of them; how many goats are left?",
)
TEXTS = (*SWAHILI, *ENGLISH, "Ọmọ náà ń ka ìwé <s> 12 + 30 = 42?", "", "  two  spaces\n\nand lines")


def bpe(size: int, texts: Sequence[str] | None = None) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer; without texts, larger ones extend smaller ones."""
    if texts is None:
        return tiny_tokenizer(size)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL_TOKENS.values()),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS)


def unigram(pieces: Iterable[tuple[str, float]]) -> PreTrainedTokenizerFast:
    """A Unigram tokenizer over the given pieces, after the special ones and single letters."""
    letters = [(letter, -8.0) for letter in "▁abcdefghijklmnopqrstuvwxyz"]
    vocab = [*((token, 0.0) for token in SPECIAL_TOKENS.values()), *letters, *pieces]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS)


def wordpiece(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer over the given words and parts of words, after single letters."""
    letters = [form for letter in "abcdefghijklmnopqrstuvwxyz?." for form in (letter, f"##{letter}")]
    vocab = {token: number for number, token in enumerate([*SPECIAL_TOKENS.values(), *letters, *words])}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS)


def whole_words(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words."""
    vocab = {token: number for number, token in enumerate([*SPECIAL_TOKENS.values(), *words])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS)


def with_added(
    tokenizer: PreTrainedTokenizerFast, *contents: str, special: bool = True, **flags: Any
) -> PreTrainedTokenizerFast:
    """The tokenizer with added tokens."""
    tokenizer.add_tokens([AddedToken(content, special=special, normalized=False, **flags) for content in contents])
    return tokenizer


def write_model(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    architecture: str = "llama",
    rows: int | None = None,
    **settings: Any,
) -> Path:
    """A random model with a tokenizer, and a row per token unless `rows` says more."""
    tiny_model(architecture, vocab_size=rows or len(tokenizer), **settings).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
