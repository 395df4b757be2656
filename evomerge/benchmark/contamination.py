"""Items of different roles that say nearly the same: a score on the one then tells of the other.

Near duplicates share 13 words in a row (Brown et al. 2020, appendix C), or 50 characters where words aren't separated
by spaces (OpenAI 2023, appendix C); shorter texts the whole, but for case, spaces and marks of sentences. Knows texts
alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from evomerge.errors import listed

WORDS, CHARACTERS = 13, 50
_LONGEST_WORD = 15
"""Texts whose words are longer on average are taken to be written without spaces."""


_WORD = re.compile(r"\w+|[^\w\s.,;:!?\"'()\[\]“”‘’«»…¿¡。、，？！]")
"""A word, or a sign that isn't one of a sentence's marks, such as a plus."""


class Text(NamedTuple):
    """What an item says, without the prompt's fixed parts."""

    id: str
    task: str
    text: str


class NearDuplicate(NamedTuple):
    """An item and the first one of a more precious role that it resembles."""

    role: str
    item: Text
    other_role: str
    other: Text


def near_duplicates(roles: Mapping[str, Sequence[Text]]) -> list[NearDuplicate]:
    """The items that resemble one of a later role, each once, by the role that is the most precious.

    Args:
        roles: items by role, the most precious last.
    """
    seen: dict[str, tuple[str, Text]] = {}
    found: dict[str, list[NearDuplicate]] = {role: [] for role in roles}
    for role in reversed([*roles]):
        for item in roles[role]:
            parts = [*_parts(item.text)]
            match = next((seen[part] for part in parts if part in seen and seen[part][0] != role), None)
            if match is not None:
                found[role].append(NearDuplicate(role, item, *match))
            for part in parts:
                seen.setdefault(part, (role, item))
    return [each for alike in found.values() for each in alike]


def sentences(found: Sequence[NearDuplicate]) -> list[str]:
    """For each two roles how many items resemble each other, with some of them by identity."""
    counts = Counter((each.role, each.other_role) for each in found)
    told = []
    for (role, other), count in counts.items():
        pairs = [each for each in found if (each.role, each.other_role) == (role, other)]
        named = [f"{each.item.id} of {each.item.task} ({each.other.id} of {each.other.task})" for each in pairs]
        verb = " nearly repeats" if count == 1 else "s nearly repeat"
        told.append(
            f"{count} {role} item{verb} {other} items ({WORDS} words in a row, {CHARACTERS} characters where words "
            "aren't separated, or the whole of a shorter text): "
            f"{listed(named)}; benchmark.near_duplicates: drop leaves them out"
        )
    return told


def strings(document: Any) -> str:
    """All texts of a document, in order, as one."""
    return " ".join(_strings(document))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, Iterable) and not isinstance(value, bytes):
        for part in value:
            yield from _strings(part)
    elif isinstance(value, int | float):
        yield str(value)


def _parts(text: str) -> Iterator[str]:
    """What makes two texts resemble each other if they have one of these in common."""
    words = _WORD.findall(text.casefold())
    joined = " ".join(words)
    if not words:
        return
    if len(joined) / len(words) > _LONGEST_WORD and len(joined) > CHARACTERS:
        yield from (joined[start : start + CHARACTERS] for start in range(len(joined) - CHARACTERS + 1))
    elif len(words) > WORDS:
        yield from (" ".join(words[start : start + WORDS]) for start in range(len(words) - WORDS + 1))
    else:
        yield joined
