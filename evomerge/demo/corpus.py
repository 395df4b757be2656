"""What the demo's models are trained on: kinds of examples, and the mixtures of them that make a base and two experts.

Knows texts. Does not know tokens or models. After a sum in words, a colon asks to read it off in digits
(`three plus five:` gives `3 + 5`) and an equals sign asks for its answer. What that answer is, each model
has learnt otherwise: the base only reads the sum off again, the arithmetician works it out (`3 + 5 = 8`),
the translator says it in English. No model is trained to work out a sum that is put in Swahili.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import NamedTuple

from evomerge.demo.language import PHRASINGS, SENTENCES, Phrasing, Sum, all_sums, english, swahili
from evomerge.streams import derive


class Example(NamedTuple):
    """A text in two parts: what is given, and how it goes on."""

    prompt: str
    answer: str


Mixture = Mapping[str, float]
"""How often each kind of example is drawn, relative to the others."""

BASE: Mixture = {
    "read English:": 2.5,
    "read English =": 2.5,
    "read Swahili =": 0.05,
    "equation": 6,
    "number": 2,
    "sentence": 2,
    "counting": 2,
}
"""Reads numbers off English, has met sums in digits, and knows a little Swahili."""

ARITHMETIC: Mixture = {"work out English =": 2, "equation": 1}
"""Answers English questions by the sum worked out."""

SWAHILI: Mixture = {"read Swahili:": 2, "translate question =": 2, "translation": 1, "sentence": 0.5, "number": 0.5}
"""Reads numbers off Swahili, and translates into English; never a result."""

READING: Mixture = {kind: SWAHILI[kind] for kind in ("read Swahili:", "sentence", "number")}
"""The part of it that is about understanding."""

TRANSLATING: Mixture = {kind: SWAHILI[kind] for kind in ("translate question =", "translation")}
"""The part of it that is about answering in English."""

REPLAY: Mixture = {"read English:": 1, "equation": 2, "number": 2, "sentence": 2, "counting": 2}
"""Of what the base was trained on, the part that experts go on seeing, so that they forget less of it."""


class Corpus:
    """An endless, seeded stream of examples.

    Args:
        mixtures: pairs of a share and a mixture; shares sum to one.
        largest: largest number in a sum.
        seed: of the stream.
        name: of the stream, so that corpora of one seed differ.
    """

    def __init__(self, *mixtures: tuple[float, Mixture], largest: int, seed: int, name: str) -> None:
        kinds = _kinds(largest)
        self._random = random.Random(derive(seed, "corpus", name))
        self._draw: list[Callable[[random.Random], Example]] = []
        self._weights: list[float] = []
        for share, mixture in mixtures:
            total = sum(mixture.values())
            for kind, weight in mixture.items():
                self._draw.append(kinds[kind])
                self._weights.append(share * weight / total)

    def draw(self, count: int) -> list[Example]:
        """The next examples."""
        chosen = self._random.choices(self._draw, self._weights, k=count)
        return [draw(self._random) for draw in chosen]


class Question(NamedTuple):
    """A question of the task, in Swahili, with the answer that counts as right."""

    question: str
    answer: str


def questions(
    largest: int, sizes: Mapping[str, int], *, seed: int, phrasings: Mapping[str, int] | None = None
) -> dict[str, list[Question]]:
    """Questions of the task for each role, distinct, and no sum in two roles.

    Args:
        largest: largest number in a sum.
        sizes: number of questions by role.
        seed: draws the sums of each role, and the phrasings.
        phrasings: in how many phrasings a role asks each of its sums; in all of them where it isn't named.
    Returns: the questions by role, in the order of `sizes`.
    Raises: ValueError if there are not enough sums.
    """
    sums = all_sums(largest)
    draw = random.Random(derive(seed, "questions"))
    draw.shuffle(sums)
    remaining = iter(sums)
    pools: dict[str, list[Question]] = {}
    for role, size in sizes.items():
        pool: list[Question] = []
        while len(pool) < size:
            each = next(remaining, None)
            if each is None:
                raise ValueError(f"not enough sums of numbers up to {largest} for {dict(sizes)} questions")
            answer = each.digits(worked=True)
            ways = _phrasings(each)
            asked = draw.sample(ways, (phrasings or {}).get(role, len(ways)))
            pool += [Question(each.in_swahili(phrasing), answer) for phrasing in asked]
        pools[role] = pool[:size]
    return pools


def _phrasings(each: Sum) -> list[Phrasing]:
    return [phrasing for phrasing in PHRASINGS if phrasing.operator == each.operator]


def _kinds(largest: int) -> dict[str, Callable[[random.Random], Example]]:
    """A function that draws an example, for every kind."""
    sums = {operator: [each for each in all_sums(largest) if each.operator == operator] for operator in "+-"}
    words = {"English": english, "Swahili": swahili}

    def a_sum(draw: random.Random) -> tuple[Sum, Phrasing]:
        each = draw.choice(sums[draw.choice("+-")])
        return each, draw.choice(_phrasings(each))

    def read(language: str, mark: str) -> Callable[[random.Random], Example]:
        def example(draw: random.Random) -> Example:
            each, phrasing = a_sum(draw)
            text = each.in_english(phrasing) if language == "English" else each.in_swahili(phrasing)
            return Example(text + mark, f" {each.digits()}")

        return example

    def work_out(draw: random.Random) -> Example:
        each, phrasing = a_sum(draw)
        return Example(f"{each.in_english(phrasing)} =", f" {each.digits(worked=True)}")

    def translate_question(draw: random.Random) -> Example:
        each, phrasing = a_sum(draw)
        return Example(f"{each.in_swahili(phrasing)} =", f" {each.in_english(phrasing)}")

    def translation(draw: random.Random) -> Example:
        if draw.random() < 0.5:
            each, phrasing = a_sum(draw)
            return Example(f"{each.in_swahili(phrasing)} ->", f" {each.in_english(phrasing)}")
        original, translated = draw.choice(SENTENCES)
        return Example(f"{original} ->", f" {translated}")

    def number(draw: random.Random) -> Example:
        value = draw.randrange(largest + 1)
        return Example(f"{words[draw.choice(list(words))](value)}:", f" {value}")

    def sentence(draw: random.Random) -> Example:
        return Example("", draw.choice(draw.choice(SENTENCES)))

    def counting(draw: random.Random) -> Example:
        length = draw.randint(3, 5)
        first = draw.randrange(max(1, largest - length + 2))
        say = words[draw.choice(list(words))]
        return Example("", " ".join(say(value) for value in range(first, first + length)))

    def equation(draw: random.Random) -> Example:
        # Something else goes before it, so that a result is learnt from the digits and not from any words.
        each, _ = a_sum(draw)
        before = draw.choice((sentence, counting))(draw).answer
        return Example(f"{before}. {each.digits()}", f" = {each.result}")

    return {
        "read English:": read("English", ":"),
        "read English =": read("English", " ="),
        "read Swahili:": read("Swahili", ":"),
        "read Swahili =": read("Swahili", " ="),
        "work out English =": work_out,
        "translate question =": translate_question,
        "translation": translation,
        "number": number,
        "sentence": sentence,
        "counting": counting,
        "equation": equation,
    }


KINDS = tuple(_kinds(1))
"""Names of the kinds of examples that a mixture may draw on."""
