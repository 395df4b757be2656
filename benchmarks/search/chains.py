"""Chains of letters: a task in which answers may be long or short, and small models that answer it either way.

A question is a digit and two to four letters, each of which stands for a permutation of five digits: `3 a b a =`. What
is right is the digit after all of them, the last of the answer.

Knows questions and training. Does not know searches.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evomerge.demo.corpus import Example
from evomerge.demo.train import Part, Schedule, Trainer, new_model, train_tokenizer
from evomerge.streams import derive

DIGITS, LETTERS, COMMON = 5, "abcd", 2
Chain = tuple[int, ...]
"""A digit, then places of letters."""


class Letters:
    """What each letter does to a digit, drawn from the seed."""

    def __init__(self, seed: int) -> None:
        draw = random.Random(derive(seed, "letters"))
        self._after = [draw.sample(range(DIGITS), DIGITS) for _ in LETTERS]

    def question(self, chain: Chain) -> str:
        """The digit and the letters."""
        return f"{chain[0]} {' '.join(LETTERS[letter] for letter in chain[1:])} ="

    def steps(self, chain: Chain) -> str:
        """The digit after each letter."""
        digits = itertools.accumulate(chain, lambda digit, letter: self._after[letter][digit])
        return "".join(f" {digit}" for digit in list(digits)[1:])

    def last(self, chain: Chain) -> str:
        """The digit after all letters."""
        return self.steps(chain)[-2:]

    def spelt(self, chain: Chain) -> str:
        """Each letter, and the digit after it."""
        return "".join(
            f" {LETTERS[letter]} {at}" for letter, at in zip(chain[1:], self.steps(chain).split(), strict=True)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What a model learns from."""

    briefly: Sequence[float]
    """How often an answer is the short one, by number of letters (1 to 4)."""
    rare: float = 1.0
    """How often a letter is one of the last two, relative to the others."""
    part: Part = "all"
    """What of the model learns."""
    steps: int
    rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A way to answer at length and one to answer in short, with the lessons of a base and of two experts."""

    long_way: Callable[[Letters, Chain], str]
    short_way: Callable[[Letters, Chain], str]
    room: int
    """Tokens that an answer may have, twice as many as the longest needs."""
    base: Lesson
    long: Sequence[Lesson]
    short: Sequence[Lesson]


NEVER, EVENLY, ALWAYS = (0.0,) * 4, (0.5,) * 4, (1.0,) * 4

KINDS = {
    "steps": Kind(
        long_way=Letters.steps,
        short_way=Letters.last,
        room=8,
        base=Lesson(briefly=(0.5, 0.7, 0.5, 0.3), steps=1800, rate=2e-3),
        long=[Lesson(briefly=NEVER, steps=100, rate=5e-4)],
        short=[Lesson(briefly=ALWAYS, steps=100, rate=5e-4)],
    ),
    "letters": Kind(
        long_way=Letters.spelt,
        short_way=Letters.steps,
        room=16,
        base=Lesson(briefly=EVENLY, rare=0.01, steps=1500, rate=2e-3),
        long=[
            Lesson(briefly=EVENLY, part="lower", steps=200, rate=1e-3),
            Lesson(briefly=NEVER, part="upper", steps=100, rate=5e-4),
        ],
        short=[Lesson(briefly=ALWAYS, rare=0.0, part="upper", steps=100, rate=5e-4)],
    ),
}
"""In `steps`, the short expert leaves out what is needed: it writes the last digit alone, and is often wrong where
letters are many. In `letters`, it leaves out what isn't, as it doesn't repeat the letters; but only the long one knows
all of them. That one has learnt them in the lower half of its layers, and to repeat them in the upper half.
"""


class Questions:
    """An endless stream of examples, as a trainer wants them; there are more of more letters.

    Args:
        letters: what they do.
        kind: the two ways to answer.
        lesson: how often each is taken.
        seed: of the stream.
    """

    def __init__(self, letters: Letters, kind: Kind, lesson: Lesson, seed: int) -> None:
        self._letters, self._kind, self._lesson, self._random = letters, kind, lesson, random.Random(seed)

    def draw(self, count: int) -> list[Example]:
        """The next examples."""
        return [self._example() for _ in range(count)]

    def _example(self) -> Example:
        (length,) = self._random.choices((1, 2, 3, 4), weights=(1, 2, 3, 4))
        chain = (self._random.randrange(DIGITS), *(self._letter() for _ in range(length)))
        is_short = self._random.random() < self._lesson.briefly[length - 1]
        answer = (self._kind.short_way if is_short else self._kind.long_way)(self._letters, chain)
        return Example(self._letters.question(chain), answer)

    def _letter(self) -> int:
        """Any letter; a rare one is mostly drawn again."""
        rare = self._lesson.rare
        letter = self._random.randrange(len(LETTERS))
        while letter >= COMMON and rare < 1 and self._random.random() >= rare:
            letter = self._random.randrange(len(LETTERS))
        return letter


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Length of training, and questions by number of letters (2, 3, 4) in each split."""

    shorter: int = 1
    """By how much training is cut."""
    search: tuple[int, int, int] = (20, 50, 50)
    validation: tuple[int, int, int] = (50, 200, 200)
    test: tuple[int, int, int] = (4, 8, 8)


TINY = Sizes(shorter=50, search=(4, 4, 4), validation=(4, 6, 6), test=(2, 2, 2))


def build(folder: Path, kind: Kind, seed: int, sizes: Sizes) -> None:
    """Train the three models of a seed and write their task; nothing if the folder has them already."""
    if (folder / "done").exists():
        return
    letters = Letters(seed)
    everything = Questions(letters, kind, replace(kind.base, rare=1.0), 0)
    texts = [example.prompt + example.answer for example in everything.draw(2000)]
    tokenizer = train_tokenizer(texts, 300)
    trainer = Trainer(tokenizer)

    def train(name: str, model: Any, lessons: Sequence[Lesson]) -> Any:
        seed_of_all = derive(seed, "questions", name)
        for number, lesson in enumerate(lessons):
            questions = Questions(letters, kind, lesson, seed_of_all + number)
            steps = max(1, lesson.steps // sizes.shorter)
            # No skill would end it early.
            plan = Schedule(learning_rate=lesson.rate, skills={}, max_steps=steps, cooldown=50, check_every=steps + 1)
            model = trainer.train(model, questions, {}, plan, part=lesson.part)
        model.generation_config.eos_token_id = tokenizer.eos_token_id
        model.generation_config.pad_token_id = tokenizer.pad_token_id
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        return model

    base = train("base", new_model(len(tokenizer), layers=2, hidden=64, seed=seed), [kind.base])
    train("experts/long", base, kind.long)
    train("experts/short", base, kind.short)
    write_task(folder / "tasks", letters, kind.room, seed, sizes)
    (folder / "done").touch()


def write_task(folder: Path, letters: Letters, room: int, seed: int, sizes: Sizes) -> None:
    """The task's YAML and a file of questions for each split; no question is in two of them."""
    folder.mkdir(exist_ok=True)
    draw = random.Random(derive(seed, "splits"))
    rows: dict[str, list[Chain]] = {"search": [], "validation": [], "test": []}
    for place, length in enumerate((2, 3, 4)):
        pool = list(itertools.product(range(DIGITS), *[range(len(LETTERS))] * length))
        draw.shuffle(pool)
        rest = iter(pool)
        for split, chains in rows.items():
            chains += itertools.islice(rest, getattr(sizes, split)[place])
    for split, chains in rows.items():
        data = [{"question": letters.question(chain), "answer": letters.last(chain).strip()} for chain in chains]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data), encoding="utf-8")
    (folder / "chains.yaml").write_text(TASK.replace("ROOM", str(room)), encoding="utf-8")


TASK = """\
task: chains
dataset_path: json
dataset_kwargs:
  data_files: {search: search.jsonl, validation: validation.jsonl, test: test.jsonl}
validation_split: validation
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: ROOM, do_sample: false}
filter_list:
  - name: last
    filter:
      - {function: regex, regex_pattern: "(\\\\d)\\\\s*$"}
      - {function: take_first}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
