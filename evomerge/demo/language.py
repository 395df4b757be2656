"""The demo's language: Swahili number words, the questions asked of them, and plain sentences, with their English.

Knows words, not models. What it states of Swahili (Kiswahili, the Bantu lingua franca of East Africa):

- The numbers one to ten are moja, mbili, tatu, nne, tano, sita, saba, nane, tisa, kumi; zero is sifuri.
  The tens from twenty are loans from Arabic: ishirini, thelathini, arobaini, hamsini, sitini, sabini,
  themanini, tisini.
- Tens and units are joined by *na*, "and": 12 is kumi na mbili, 47 is arobaini na saba.
- In counting and reckoning the words are invariable, as they stand here; one to five and eight agree with
  a noun's class when they qualify one (vitabu viwili, "two books"), so no number here qualifies a noun.
- Sums are put with imperatives: jumlisha (sum up), ongeza (increase), toa (take out), ondoa (remove),
  punguza (reduce); jumla ya A na B is "the sum of A and B".
- A verb carries its subject and tense as prefixes: a-na-soma, "(s)he is reading"; every person below takes
  a-, whatever the class of the noun. Word order is subject, verb, object. The ending -ni makes a place of
  a noun: shule, "school"; shuleni, "at school". There are no articles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Operator = Literal["+", "-"]

_UNITS = ("sifuri", "moja", "mbili", "tatu", "nne", "tano", "sita", "saba", "nane", "tisa")
_TENS = ("kumi", "ishirini", "thelathini", "arobaini", "hamsini", "sitini", "sabini", "themanini", "tisini")

_ENGLISH_UNITS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_ENGLISH_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def swahili(number: int) -> str:
    """The number in Swahili words, as used in counting. Raises: ValueError outside 0 to 99."""
    _check(number)
    tens, units = divmod(number, 10)
    if tens == 0:
        return _UNITS[units]
    return _TENS[tens - 1] if units == 0 else f"{_TENS[tens - 1]} na {_UNITS[units]}"


def english(number: int) -> str:
    """The number in English words. Raises: ValueError outside 0 to 99."""
    _check(number)
    if number < 20:
        return _ENGLISH_UNITS[number]
    tens, units = divmod(number, 10)
    return _ENGLISH_TENS[tens - 2] + (f"-{_ENGLISH_UNITS[units]}" if units else "")


def read_swahili(words: str) -> int:
    """The number that Swahili words name: the inverse of `swahili`. Raises: ValueError for anything else."""
    tens, joined, units = words.partition(" na ")
    if not joined and words in _UNITS:
        return _UNITS.index(words)
    if tens in _TENS and (not joined or units in _UNITS[1:]):
        return 10 * (1 + _TENS.index(tens)) + (_UNITS.index(units) if joined else 0)
    raise ValueError(f"{words!r} is not a Swahili number from 0 to 99 as this module writes them")


@dataclass(frozen=True, slots=True)
class Phrasing:
    """One way to put a sum in words, in both languages; `{}` stands for the first and the second number."""

    operator: Operator
    swahili: str
    english: str


PHRASINGS = (
    Phrasing("+", "{} jumlisha {}", "{} plus {}"),
    Phrasing("+", "jumla ya {} na {}", "the sum of {} and {}"),
    Phrasing("+", "{} ongeza {}", "{} increased by {}"),
    Phrasing("-", "{} toa {}", "{} minus {}"),
    Phrasing("-", "{} ondoa {}", "{} take away {}"),
    Phrasing("-", "{} punguza {}", "{} reduced by {}"),
)
"""The ways to put an addition and a subtraction; those of one line say the same."""


class Sum(NamedTuple):
    """An addition, or a subtraction that doesn't go below zero."""

    operator: Operator
    first: int
    second: int

    @property
    def result(self) -> int:
        """What it comes to."""
        return self.first + self.second if self.operator == "+" else self.first - self.second

    def digits(self, *, worked: bool = False) -> str:
        """The sum in digits (`7 + 5`), with its result if `worked` (`7 + 5 = 12`)."""
        text = f"{self.first} {self.operator} {self.second}"
        return f"{text} = {self.result}" if worked else text

    def in_swahili(self, phrasing: Phrasing) -> str:
        """The sum in Swahili words."""
        return phrasing.swahili.format(swahili(self.first), swahili(self.second))

    def in_english(self, phrasing: Phrasing) -> str:
        """The sum in English words."""
        return phrasing.english.format(english(self.first), english(self.second))


def all_sums(largest: int) -> list[Sum]:
    """Every addition of two numbers up to `largest`, then every subtraction of a smaller from a larger or equal one."""
    numbers = range(largest + 1)
    return [Sum("+", first, second) for first in numbers for second in numbers] + [
        Sum("-", first, second) for first in numbers for second in range(first + 1)
    ]


_SUBJECTS = (
    *(("mtoto", "the child"), ("mama", "the mother"), ("baba", "the father"), ("mwalimu", "the teacher")),
    *(("mkulima", "the farmer"), ("daktari", "the doctor"), ("rafiki", "the friend"), ("mgeni", "the guest")),
)
_VERBS = (
    *(("ananunua", "buys"), ("anauza", "sells"), ("anapenda", "likes"), ("anataka", "wants")),
    *(("anaona", "sees"), ("analeta", "brings"), ("anatafuta", "looks for")),
)
_OBJECTS = (
    *(("kitabu", "a book"), ("chakula", "food"), ("maji", "water"), ("matunda", "fruit")),
    *(("samaki", "fish"), ("mayai", "eggs"), ("mkate", "bread"), ("maziwa", "milk")),
)
_PLACES = (
    *(("nyumbani", "at home"), ("shuleni", "at school"), ("sokoni", "at the market")),
    *(("shambani", "on the farm"), ("mjini", "in town")),
)
SENTENCES = tuple(
    (" ".join(part[0] for part in parts), " ".join(part[1] for part in parts))
    for parts in (
        (subject, verb, thing, place)
        for subject in _SUBJECTS
        for verb in _VERBS
        for thing in _OBJECTS
        for place in _PLACES
    )
)
"""Plain sentences: (Swahili, English)."""


def _check(number: int) -> None:
    if not 0 <= number <= 99:
        raise ValueError(f"number words are written for 0 to 99, got {number}")
