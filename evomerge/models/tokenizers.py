"""Tokenizers of models with different vocabularies, and one tokenizer that has the tokens of all of them.

Knows what tokenizer.json holds. Does not know weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.headers import read_json
from evomerge.models.hub import TOKENIZER_FILES
from evomerge.models.tokens import Tokens, load_tokenizer, vocabulary_files

_Brought = Mapping[str, Sequence[str]]  # the regular tokens that each expert brings
_LITERAL_CLASS = "PreTrainedTokenizerFast"
_ADVICE = "models.vocabulary: base keeps the base's tokenizer and merges what both have"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenization:
    """What one model's tokenizer says.

    Attributes:
        where: the model's folder, for messages.
        ids: every token's id, added ones included, in the order of ids.
        data: the tokenizer as tokenizer.json writes it; None if it isn't a fast one.
    """

    where: str
    ids: Mapping[str, int]
    data: Mapping[str, Any] | None

    @property
    def model(self) -> Mapping[str, Any]:
        """How words are split, with the regular vocabulary."""
        model: Mapping[str, Any] = (self.data or {})["model"]
        return model

    @property
    def added(self) -> dict[str, Mapping[str, Any]]:
        """The added tokens with their settings, by content."""
        return {str(entry["content"]): entry for entry in (self.data or {}).get("added_tokens") or ()}


@dataclass(frozen=True, slots=True, kw_only=True)
class UnionTokenizer:
    """A base's tokenizer with tokens of experts added after its own.

    A word is split as by the base first; then the experts' merges go on from there, so that an added token stands
    for a run of base tokens, and text in which none occurs is split as before. For a Unigram model, added pieces
    compete with their own scores, and for whole words and WordPiece the longest entry wins, as always.

    Attributes:
        data: as tokenizer.json writes it.
        ids: every token's id; the base's tokens have kept theirs.
        added: the new tokens by the expert that brought them.
        notes: what a person should know of it, one sentence each.
    """

    data: Mapping[str, Any]
    ids: Mapping[str, int]
    added: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...]

    def tokens(self) -> Tokens:
        """Its regular and its added tokens with their ids."""
        outside = {str(entry["content"]) for entry in self.data["added_tokens"]}
        return Tokens(
            {token: number for token, number in self.ids.items() if token not in outside},
            {token: number for token, number in self.ids.items() if token in outside},
        )

    def load(self, base: Checkpoint) -> Any:
        """The tokenizer through transformers, with the settings and the chat template of the base's.

        Raises: CheckpointError if transformers makes another one of it.
        """
        with TemporaryDirectory() as folder:
            return self._write_and_load(base, Path(folder))

    def write(self, base: Checkpoint, folder: Path) -> None:
        """Put its files into a folder, with the other tokenizer files of the base. Raises: as `load`."""
        with TemporaryDirectory() as made:
            self._write_and_load(base, Path(made))
            for path in vocabulary_files(folder):
                path.unlink()
            for pattern in TOKENIZER_FILES:
                for path in sorted(Path(made).glob(pattern)):
                    (folder / path.name).write_bytes(path.read_bytes())

    def _write_and_load(self, base: Checkpoint, folder: Path) -> Any:
        base.write_tokenizer(folder)
        for path in vocabulary_files(folder):
            path.unlink()
        _write_json(folder / "config.json", base.config)
        _write_json(folder / "tokenizer.json", self.data)
        path = folder / "tokenizer_config.json"
        settings = read_json(path) if path.is_file() else {}
        if "added_tokens_decoder" in settings:
            entries = {str(entry["id"]): dict(entry) for entry in self.data["added_tokens"]}
            for entry in entries.values():
                del entry["id"]
            settings["added_tokens_decoder"] = {**settings["added_tokens_decoder"], **entries}
        # Some classes of transformers build a tokenizer of their own from the file's vocabulary, mostly the same one.
        for name in (settings.get("tokenizer_class", _LITERAL_CLASS), _LITERAL_CLASS):
            _write_json(path, {**settings, "tokenizer_class": name})
            try:
                loaded = load_tokenizer(folder)
            except CheckpointError as error:
                raise CheckpointError(f"the union of the tokenizers can't be loaded: {error}; {_ADVICE}") from error
            if loaded.get_vocab() == self.ids and _same_model(loaded, self.data["model"]):
                loaded.name_or_path = str(base.folder)
                return loaded
        raise CheckpointError(
            f"{base.folder}: transformers doesn't read the union of the tokenizers as it was written; {_ADVICE}"
        )


def read_tokenization(checkpoint: Checkpoint) -> Tokenization | None:
    """What a model's tokenizer says, through transformers; None if the model has no tokenizer files.

    Raises: CheckpointError if there are files that can't be read.
    """
    if not vocabulary_files(checkpoint.folder) and not (checkpoint.folder / "tokenizer_config.json").is_file():
        return None
    tokenizer = checkpoint.tokenizer()
    backend = getattr(tokenizer, "backend_tokenizer", None)
    data = json.loads(backend.to_str()) if backend is not None else None
    # transformers gives them in an order that changes from run to run.
    ids = dict(sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0])))
    return Tokenization(where=str(checkpoint.folder), ids=ids, data=data)


def union(base: Tokenization, experts: Mapping[str, Tokenization]) -> UnionTokenizer:
    """One tokenizer with the tokens of all.

    The base's tokens keep their ids; those of the experts follow after the highest, expert by expert in the order
    given, in the order of their own ids.

    Raises: CheckpointError if the tokenizers are of different kinds, so that a token's spelling means another text.
    """
    for expert in experts.values():
        _refuse_other_kind(base, expert)
    ids = dict(base.ids)
    added: dict[str, tuple[str, ...]] = {}
    number = max(ids.values()) + 1
    for name, expert in experts.items():
        new = [token for token in expert.ids if token not in ids]
        ids.update({token: number + position for position, token in enumerate(new)})
        number += len(new)
        added[name] = tuple(new)
    entries = list((base.data or {})["added_tokens"])
    regular: dict[str, list[str]] = {}
    for name, tokens in added.items():
        settings = experts[name].added
        entries += [{**settings[token], "id": ids[token]} for token in tokens if token in settings]
        regular[name] = [token for token in tokens if token not in settings]
    data = {**(base.data or {}), "added_tokens": entries}
    if any(regular.values()):
        data["model"] = _union_model(base, experts, regular, ids)
    notes = _notes(base, experts, regular, data)
    return UnionTokenizer(data=data, ids=ids, added=added, notes=tuple(notes))


def _refuse_other_kind(base: Tokenization, expert: Tokenization) -> None:
    for one in (base, expert):
        if one.data is None:
            raise CheckpointError(
                f"{one.where}: its tokenizer isn't of the kind that tokenizer.json holds, so that no union with it can "
                f"be made; {_ADVICE}"
            )
    ours, theirs = _kind(base), _kind(expert)
    if ours != theirs:
        raise CheckpointError(
            f"{expert.where}: its tokenizer is a {theirs}, the base's is a {ours}; they spell the same text in other "
            f"ways, so that no union can be made; {_ADVICE}"
        )


def _kind(tokenization: Tokenization) -> str:
    """What decides how tokens are spelled, in words."""
    data, model = tokenization.data or {}, tokenization.model
    steps = json.dumps([data.get("pre_tokenizer"), data.get("normalizer"), data.get("decoder")], ensure_ascii=False)
    spelling = "bytes" if '"ByteLevel"' in steps else "▁ for spaces" if "▁" in steps else ""
    marks = [str(model[key]) for key in ("continuing_subword_prefix", "end_of_word_suffix") if model.get(key)]
    return " with ".join(str(part) for part in (model["type"], spelling, *marks) if part)


def _union_model(
    base: Tokenization,
    experts: Mapping[str, Tokenization],
    regular: _Brought,
    ids: Mapping[str, int],
) -> dict[str, Any]:
    """The base's model with more tokens.

    The added tokens are in its vocabulary too: without that, a tokenizer that is read from a file numbers them anew.
    """
    if base.model["type"] == "Unigram":
        return {**base.model, "vocab": _scored(base, experts, regular, ids)}
    known = base.model["vocab"]
    model = {**base.model, "vocab": {**known, **{token: ids[token] for token in ids if token not in known}}}
    if model["type"] != "BPE":
        return model
    merges = dict.fromkeys(_merges(base.model))
    for name, tokens in regular.items():
        new = set(tokens)
        for left, right in _merges(experts[name].model):
            result = left + right.removeprefix(str(model.get("continuing_subword_prefix") or ""))
            # Others could change how the base splits text without any new token.
            if not new.isdisjoint((left, right, result)) and {left, right, result} <= ids.keys():
                merges.setdefault((left, right))
    return {**model, "merges": [list(pair) for pair in merges]}


def _merges(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model.get("merges") or ())
    return [(left, right) for left, right in pairs]


def _scored(
    base: Tokenization,
    experts: Mapping[str, Tokenization],
    regular: _Brought,
    ids: Mapping[str, int],
) -> list[list[Any]]:
    """Pieces with log-probabilities, by id.

    An expert's scores are moved by the median difference of the pieces that both have, which is 0 where an expert
    has extended the base's vocabulary. Added tokens, which are found before words are split, score lowest.
    """
    scores = {str(piece): float(score) for piece, score in base.model["vocab"]}
    lowest = min(scores.values(), default=0.0)
    special = base.added.keys()
    for name, tokens in regular.items():
        theirs = {str(piece): float(score) for piece, score in experts[name].model["vocab"]}
        common = [
            scores[piece] - score
            for piece, score in theirs.items()
            if piece in base.ids and piece in scores and piece not in special
        ]
        shift = median(common) if common else 0.0
        scores.update({token: theirs[token] + shift for token in tokens})
    by_id = {number: token for token, number in ids.items()}
    if missing := [number for number in range(max(by_id) + 1) if number not in by_id]:
        raise CheckpointError(
            f"{base.where}: its tokenizer leaves out the id {missing[0]}, which a Unigram model can't; {_ADVICE}"
        )
    return [[by_id[number], scores.get(by_id[number], lowest)] for number in range(len(by_id))]


def _notes(
    base: Tokenization,
    experts: Mapping[str, Tokenization],
    regular: _Brought,
    data: Mapping[str, Any],
) -> list[str]:
    """What is kept of how base and experts split text."""
    sources = [name for name, tokens in regular.items() if tokens]
    if not sources:
        return ["text is split into tokens as by the base, but for the added tokens, which stand for themselves"]
    found = ["text in which no added token occurs is split into tokens as by the base"]
    for name in sources:
        extends = _extends(base, experts[name])
        if extends and len(sources) == 1:
            found.append(f"other text is split as by expert {name!r}, whose tokenizer extends the base's")
        else:
            reason = "several experts add tokens" if extends else "its tokenizer doesn't extend the base's"
            found.append(f"other text may be split otherwise than in the training of expert {name!r}, since {reason}")
        if unused := _never_made(regular[name], data):
            found.append(
                f"{len(unused)} of the {len(regular[name])} tokens that {name!r} adds don't come about even from their "
                f"own text, since the base's parts don't lead there: {examples(unused, base)}"
            )
    return found


def _extends(base: Tokenization, expert: Tokenization) -> bool:
    """Whether the expert's tokenizer is the base's with more tokens at the end."""
    ours, theirs = base.data or {}, expert.data or {}
    if any(ours.get(part) != theirs.get(part) for part in ("normalizer", "pre_tokenizer")):
        return False
    if any(expert.ids.get(token) != number for token, number in base.ids.items()):
        return False
    if base.model["type"] == "BPE":
        merges = _merges(base.model)
        return merges == _merges(expert.model)[: len(merges)]
    if base.model["type"] == "Unigram":
        scores = [list(entry) for entry in base.model["vocab"]]
        return scores == [list(entry) for entry in expert.model["vocab"]][: len(scores)]
    return True


def _never_made(tokens: Iterable[str], data: Mapping[str, Any]) -> list[str]:
    """Of new tokens in a BPE or Unigram model, those that their own text isn't split into."""
    if data["model"]["type"] not in {"BPE", "Unigram"}:
        return []
    from tokenizers import Tokenizer

    model = Tokenizer.from_str(json.dumps(data)).model
    return [token for token in tokens if [part.value for part in model.tokenize(token)] != [token]]


def examples(tokens: Sequence[str], tokenization: Tokenization | UnionTokenizer, most: int = 5) -> str:
    """A few tokens for a person to read: as the text that they stand for, where that can be told."""
    from tokenizers import Tokenizer

    data = tokenization.data or {}
    if data:
        # The decoder is all that is needed, and an empty model is made at once.
        data = {**data, "model": {"type": "BPE", "vocab": {}, "merges": []}, "added_tokens": [], "post_processor": None}
    decoder = Tokenizer.from_str(json.dumps(data)).decoder if data else None
    texts = [token if decoder is None else decoder.decode([token]) for token in tokens[:most]]
    shown = [repr(token if "\ufffd" in text or not text else text) for token, text in zip(tokens, texts, strict=False)]
    return ", ".join([*shown, "..."] if len(tokens) > most else shown)


def _same_model(loaded: Any, model: Mapping[str, Any]) -> bool:
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None:
        return False
    found = json.loads(backend.to_str())["model"]
    return bool(found["vocab"] == model["vocab"] and _merges(found) == _merges(model))


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
