"""Making the demo: models trained from scratch, a task with its documents, and the experiment over them.

DIR/base/  DIR/experts/arithmetic/  DIR/experts/swahili/     model folders
DIR/tasks/                                                  an lm-eval task and its documents
DIR/config.yaml                                             the experiment
DIR/demo.json                                               written last: all of the above is complete
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from evomerge.demo.corpus import (
    ARITHMETIC,
    BASE,
    KINDS,
    READING,
    REPLAY,
    SWAHILI,
    TRANSLATING,
    Corpus,
    Mixture,
    Question,
    questions,
)
from evomerge.errors import RunError

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from evomerge.demo.train import Part, Schedule

Progress = Callable[[str, int, int], None]
"""Called with the stage, steps done and steps at most."""

TASK = "swahili_sums"
_MADE = ("base", "experts", "tasks", "config.yaml", "demo.json")


class Lesson(NamedTuple):
    """What an expert learns at a time, and in which part of the model."""

    mixture: Mixture
    part: Part
    skills: dict[str, float]
    """Share of right answers, by kind of example, at which it ends early."""


_CALCULATES = {"work out English =": 0.9, "equation": 0.9}
_READS, _TRANSLATES = {"read Swahili:": 0.95}, {"translate question =": 0.95}
IN_PARTS: dict[str, tuple[Lesson, ...]] = {
    "arithmetic": (Lesson(ARITHMETIC, "upper", _CALCULATES),),
    "swahili": (Lesson(READING, "lower", _READS), Lesson(TRANSLATING, "upper", _TRANSLATES)),
}
"""Lessons of each expert, one after the other, each in half of the model. Sums asked in Swahili need the lower half of
the Swahili expert and not its upper half: layers want different weights, as they may where experts are tuned in steps.
"""

AS_WHOLES: dict[str, tuple[Lesson, ...]] = {
    "arithmetic": (Lesson(ARITHMETIC, "all", _CALCULATES),),
    "swahili": (Lesson(SWAHILI, "all", _READS | _TRANSLATES),),
}
"""One lesson for each expert, in all layers: for models of two layers, whose halves learn too little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Sizes of the demo. The defaults train in about two minutes of processor time."""

    largest: int = 15
    """Largest number in a sum. There are 392 sums up to 15, and no more independent questions than that."""
    layers: int = 4
    hidden: int = 96
    vocab_size: int = 460
    base_steps: int = 900
    expert_steps: int = 500
    cooldown: int = 50
    in_parts: bool = True
    """Whether experts learn their lessons in halves of the model (`IN_PARTS`), or in all of it (`AS_WHOLES`)."""
    replay: float = 0.3
    """Share of the base's own data in each expert's: without it the experts don't merge."""
    search: int = 450
    """Questions to search on, as below those to validate and to test on."""
    validation: int = 60
    test: int = 630
    search_phrasings: int = 3
    """In how many phrasings a sum is asked to search on."""
    items_per_candidate: int | None = 50
    """Questions that a candidate answers, other ones in each generation; None: all, the same for all."""
    evaluations: int = 600
    population: int = 16
    scan: int = 65
    """The default, and a grid of eight weights by eight."""


SMALL = Settings(
    largest=5, layers=2, hidden=64, base_steps=180, expert_steps=100, cooldown=20, in_parts=False,
    search=16, validation=16, test=96, search_phrasings=1, items_per_candidate=None,
    evaluations=24, population=8, scan=10,
)  # fmt: skip
"""A reduced form with easier sums: shows that everything works and that the merge does what no expert does."""


def build_demo(
    folder: str | Path,
    *,
    seed: int = 0,
    threads: int = 1,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Path:
    """Train the demo's models and write its task and config; at once if `folder` has them already.

    Args:
        folder: where everything goes; what a killed build left half-made is made anew.
        seed: of weights, examples, questions and the search.
        threads: CPU threads for training; models this small gain nothing from more than one.
        settings: its sizes; None: the full form.
        progress: is told of each stage.
    Returns: the path of the experiment's config.yaml.
    Raises: RunError if the folder holds a demo with other settings, or files that are not a demo's.
    """
    folder = Path(folder).absolute()
    settings = settings or Settings()
    lessons = {name: [lesson._asdict() for lesson in taken] for name, taken in _experts(settings).items()}
    recipe = {"seed": seed, **asdict(settings), "base": BASE, "replay": REPLAY, "experts": lessons}
    marker = folder / "demo.json"
    if marker.exists():
        if json.loads(marker.read_text(encoding="utf-8")) != recipe:
            raise RunError(
                f"{folder}: holds a demo with another seed or size; choose another folder, or delete this one"
            )
        return folder / "config.yaml"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in _MADE:
            _remove(folder / name)
        _write_tasks(folder / "tasks", settings, seed)
        _train(folder, settings, seed, threads, progress or (lambda stage, done, total: None))
        (folder / "config.yaml").write_text(experiment_of(settings, seed), encoding="utf-8")
        marker.write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise RunError(f"{folder}: can't be written: {error.strerror or error}. Choose another folder") from error
    return folder / "config.yaml"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _train(folder: Path, settings: Settings, seed: int, threads: int, progress: Progress) -> None:
    """Train the base from scratch and each expert from it, and save them as they are done."""
    import torch

    from evomerge.demo.train import Schedule, Trainer, new_model, train_tokenizer

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        everything = Corpus(
            (0.4, BASE), (0.3, ARITHMETIC), (0.3, SWAHILI), largest=settings.largest, seed=seed, name="tokenizer"
        )
        tokenizer = train_tokenizer(
            [example.prompt + example.answer for example in everything.draw(4000)], settings.vocab_size
        )
        exam = {
            kind: Corpus((1.0, {kind: 1.0}), largest=settings.largest, seed=seed, name=f"exam {kind}").draw(100)
            for kind in KINDS
        }
        trainer = Trainer(tokenizer)

        def train(
            name: str, start: LlamaForCausalLM, shares: list[tuple[float, Mixture]], plan: Schedule, part: Part = "all"
        ) -> LlamaForCausalLM:
            corpus = Corpus(*shares, largest=settings.largest, seed=seed, name=name)
            stage = "training the base" if name == "base" else f"training the {name} expert"
            return trainer.train(start, corpus, exam, plan, lambda done, total: progress(stage, done, total), part=part)

        model = new_model(len(tokenizer), layers=settings.layers, hidden=settings.hidden, seed=seed)
        wanted = {"read English =": 0.95, "equation": 0.5}
        plan = Schedule(learning_rate=2e-3, skills=wanted, max_steps=settings.base_steps, cooldown=settings.cooldown)
        base = train("base", model, [(1.0, BASE)], plan)
        _save(folder / "base", base, tokenizer)
        for name, lessons in _experts(settings).items():
            model = base
            for lesson in lessons:
                shares = [(1 - settings.replay, lesson.mixture), (settings.replay, REPLAY)]
                plan = Schedule(
                    learning_rate=1e-3,
                    skills=lesson.skills,
                    max_steps=settings.expert_steps,
                    cooldown=settings.cooldown,
                )
                model = train(name, model, shares, plan, lesson.part)
            _save(folder / "experts" / name, model, tokenizer)
    finally:
        torch.set_num_threads(before)


def _experts(settings: Settings) -> dict[str, tuple[Lesson, ...]]:
    return IN_PARTS if settings.in_parts else AS_WHOLES


def _save(folder: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if bars:
        logging.enable_progress_bar()


def questions_of(settings: Settings, seed: int) -> dict[str, list[Question]]:
    """The demo's questions by role; no sum is in two of them. Raises: ValueError if there are not enough sums."""
    sizes = {"search": settings.search, "validation": settings.validation, "test": settings.test}
    phrasings = {"search": settings.search_phrasings, "validation": 2}
    return questions(settings.largest, sizes, seed=seed, phrasings=phrasings)


def _write_tasks(folder: Path, settings: Settings, seed: int) -> None:
    """The task's YAML and one file of documents for each role."""
    folder.mkdir(parents=True)
    for role, pool in questions_of(settings, seed).items():
        with (folder / f"{role}.jsonl").open("w", encoding="utf-8") as file:
            for question in pool:
                file.write(json.dumps({"question": question.question, "answer": question.answer}) + "\n")
    (folder / f"{TASK}.yaml").write_text(_TASK, encoding="utf-8")


_TASK = f"""\
# Sums asked in Swahili ("tatu jumlisha tano =", three plus five), right if answered by the worked sum ("3 + 5 = 8").
task: {TASK}
dataset_path: json
dataset_kwargs:
  data_files:
    search: search.jsonl
    validation: validation.jsonl
    test: test.jsonl
validation_split: validation
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}} ="
doc_to_target: "{{{{answer}}}}"
num_fewshot: 0
generation_kwargs:
  until: ["\\n"]
  max_gen_toks: 12
  do_sample: false
filter_list:
  - name: sum
    filter:
      - function: regex
        regex_pattern: "(\\\\d+ [+-] \\\\d+ = \\\\d+)"
      - function: take_first
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""


def experiment_of(settings: Settings, seed: int) -> str:
    """The text of the demo's config.yaml."""
    fresh = "" if settings.items_per_candidate is None else _FRESH.format(**asdict(settings))
    return f"""\
# The demo's experiment: how much of each expert, in each layer, answers sums asked in Swahili?
# Everything not written here has its default; `evomerge init` shows them all.

models:
  base: base
  experts:
    arithmetic: experts/arithmetic    # works sums out, in English
    swahili: experts/swahili          # reads and translates Swahili, never works anything out

merge:
  method: task_arithmetic             # base + weighted task vectors

space:
  granularity: layer                  # a coefficient for each layer ...
  kinds: [embedding, head]            # ... and for embedding and head apart from the layers
  parameters:
    weight: {{low: 0.0, high: 1.5}}     # of each expert, in each group

benchmark:
  include_path: tasks
  tasks: [{TASK}]
  cluster: answer                     # phrasings of one sum belong together: they don't count as independent
  splits:                             # files of questions; no sum is in two of them
    search: search
    validation: validation
    test: test

search:
  evaluations: {settings.evaluations}
  population: {settings.population}
{fresh}  scan: {settings.scan}                            # uniform merges to try first; the best is the start
  step_size: 0.12                     # careful steps from a start that is already good
  seed: {seed}

execution:
  dtype: float32
  cpus_per_worker: 1                  # more threads don't help models this small; more workers do
"""


_FRESH = """\
  items: fresh                        # each generation answers other questions
  items_per_candidate: {items_per_candidate}             # of {search}
  block: 10                           # questions are drawn in tens
"""
