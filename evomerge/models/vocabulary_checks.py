"""Whether two models number their tokens alike, and what a person should know where they don't quite.

Knows tokens and the rows they have. Does not know how vocabularies are matched.
"""

from __future__ import annotations

from collections.abc import Mapping
from filecmp import cmp
from typing import NamedTuple

from evomerge.errors import CheckpointError, listed
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.tokens import Tokens, vocabulary_files

VOCABULARY_ADVICE = (
    "models.vocabulary matches models by token: `union` keeps the tokens of all of them, `base` the base's tokens alone"
)


class _Compared(NamedTuple):
    """Two tokenizers: tokens with two ids, and the added tokens that only one of them has."""

    conflicts: list[str]
    of_base: list[str]
    of_expert: list[str]


def token_problems(base: Checkpoint, expert: Checkpoint) -> list[str]:
    """What keeps an expert from being merged with the base row by row, as far as tokens go, a sentence each.

    A token that both have must have one id, and so must the regular ones that only one has; added tokens may be
    renamed, as fine-tunes do with reserved ones. Tokens beyond a model's rows don't count. Models without a tokenizer
    are taken to have the other's, and `token_notes` says so.
    """
    try:
        ours, theirs = base.tokens(), expert.tokens()
    except CheckpointError as error:
        if _same_files(base, expert):
            return []
        return [f"{error}\n  so its tokens can't be compared with the other model's, and rows may stand for others"]
    if ours is None or theirs is None:
        return []
    conflicts = _compare(_with_rows(ours, base), _with_rows(theirs, expert)).conflicts
    if not conflicts:
        return []
    return [
        f"{expert.folder}: its tokenizer numbers tokens otherwise than the base's: {listed(conflicts)}; "
        f"{VOCABULARY_ADVICE}"
    ]


def token_notes(base: Checkpoint, experts: Mapping[str, Checkpoint]) -> list[str]:
    """What a person should know of models that are merged row by row though their tokens aren't all the same."""
    try:
        ours = base.tokens()
    except CheckpointError:
        ours = None
    found = []
    for name, expert in experts.items():
        try:
            theirs = expert.tokens()
        except CheckpointError:
            theirs = None
        if ours is not None and theirs is not None:
            compared = _compare(_with_rows(ours, base), _with_rows(theirs, expert))
            found += [f"expert {name!r}: {note}" for note in _notes(compared)]
        elif (ours is None) != (theirs is None) and expert.is_whole and base.token_tensors:
            lacking = expert if theirs is None else base
            if not vocabulary_files(lacking.folder):
                found.append(
                    f"expert {name!r}: {lacking.folder} holds no tokenizer; its rows are taken to stand for the same "
                    "tokens as the other model's"
                )
    return found


def _notes(compared: _Compared) -> list[str]:
    notes = []
    if compared.of_expert:
        shown = listed(map(repr, compared.of_expert))
        notes.append(
            f"its tokenizer has added tokens that the base's hasn't ({shown}); the merge has the base's tokenizer, "
            "which doesn't make them; models.vocabulary: union keeps them"
        )
    if compared.of_base:
        shown = listed(map(repr, compared.of_base))
        notes.append(
            f"its tokenizer lacks added tokens of the base's ({shown}), and whatever its rows hold there is merged; "
            "models.vocabulary: base takes the base's rows for them"
        )
    return notes


def _compare(ours: Tokens, theirs: Tokens) -> _Compared:
    one, two = ours.every, theirs.every
    added = {*ours.added.values(), *theirs.added.values()}
    conflicts: list[str] = []
    of_base: list[str] = []
    of_expert: list[str] = []
    for token in dict.fromkeys([*one, *two]):
        here, there = one.get(token), two.get(token)
        if here == there:
            continue
        if (here is None or there is None) and {here, there} & added:
            (of_base if there is None else of_expert).append(token)
        else:
            shown = ["absent" if number is None else number for number in (there, here)]
            conflicts.append(f"{token!r} {shown[0]} (base {shown[1]})")
    return _Compared(conflicts, of_base, of_expert)


def _with_rows(tokens: Tokens, model: Checkpoint) -> Tokens:
    """Without tokens that have no row in the model."""
    rows = None if model.embedding is None else model.embedding.shape[0]
    if rows is None or not model.token_tensors:
        return tokens
    return Tokens(*({token: number for token, number in part.items() if number < rows} for part in tokens))


def _same_files(base: Checkpoint, expert: Checkpoint) -> bool:
    """Whether both have the same files of tokens, byte by byte, or the expert none, which then has the base's."""
    ours, theirs = ({path.name: path for path in vocabulary_files(model.folder)} for model in (base, expert))
    same = ours.keys() == theirs.keys() and all(cmp(ours[name], theirs[name], shallow=False) for name in ours)
    return same or (not theirs and not expert.is_whole)
