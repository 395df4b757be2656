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
from typing import TYPE_CHECKING, Any

from evomerge.demo.corpus import ARITHMETIC, BASE, KINDS, REPLAY, SWAHILI, Corpus, Mixture, questions
from evomerge.errors import RunError

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from evomerge.demo.train import Schedule

Progress = Callable[[str, int, int], None]
"""Called with the stage, steps done and steps at most."""

TASK = "swahili_sums"
_MADE = ("base", "experts", "tasks", "config.yaml", "demo.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Sizes of the demo. The defaults train in about two minutes of processor time."""

    largest: int = 12
    """Largest number in a sum."""
    layers: int = 4
    hidden: int = 96
    vocab_size: int = 460
    base_steps: int = 500
    expert_steps: int = 400
    cooldown: int = 50
    replay: float = 0.3
    """Share of the base's own data in each expert's: without it the experts don't merge."""
    search: int = 180
    validation: int = 120
    test: int = 450
    evaluations: int = 300
    population: int = 16
    scan: int = 65
    """The default, and a grid of eight weights by eight."""


SMALL = Settings(
    largest=5, layers=2, hidden=64, base_steps=180, expert_steps=100, cooldown=20, search=16, validation=16, test=32,
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
    mixtures = {"base": BASE, "arithmetic": ARITHMETIC, "swahili": SWAHILI, "replay": REPLAY}
    recipe = {"seed": seed, **asdict(settings), "mixtures": mixtures}
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
        (folder / "config.yaml").write_text(_config(settings, seed), encoding="utf-8")
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

        def schedule(rate: float, steps: int, **skills: float) -> Schedule:
            named = {name.replace("_", " "): wanted for name, wanted in skills.items()}
            return Schedule(learning_rate=rate, skills=named, max_steps=steps, cooldown=settings.cooldown)

        def train(name: str, start: LlamaForCausalLM, shares: list[tuple[float, Mixture]], plan: Schedule) -> Any:
            corpus = Corpus(*shares, largest=settings.largest, seed=seed, name=name)
            stage = "training the base" if name == "base" else f"training the {name} expert"
            model = trainer.train(start, corpus, exam, plan, lambda done, total: progress(stage, done, total))
            _save(folder / ("base" if name == "base" else f"experts/{name}"), model, tokenizer)
            return model

        start = new_model(len(tokenizer), layers=settings.layers, hidden=settings.hidden, seed=seed)
        skills = {"read English =": 0.95, "equation": 0.5}
        base = train("base", start, [(1.0, BASE)], schedule(2e-3, settings.base_steps, **skills))
        for name, mixture, wanted in (
            ("arithmetic", ARITHMETIC, {"work out English =": 0.9, "equation": 0.9}),
            ("swahili", SWAHILI, {"read Swahili:": 0.95, "translate question =": 0.95}),
        ):
            shares = [(1 - settings.replay, mixture), (settings.replay, REPLAY)]
            train(name, base, shares, schedule(1e-3, settings.expert_steps, **wanted))
    finally:
        torch.set_num_threads(before)


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


def _write_tasks(folder: Path, settings: Settings, seed: int) -> None:
    """The task's YAML and one file of documents for each role; no sum is in two of them."""
    folder.mkdir(parents=True)
    sizes = {"search": settings.search, "validation": settings.validation, "test": settings.test}
    for role, pool in questions(settings.largest, sizes, seed=seed).items():
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


def _config(settings: Settings, seed: int) -> str:
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
  splits:                             # files of questions; no sum is in two of them
    search: search
    validation: validation
    test: test

search:
  evaluations: {settings.evaluations}
  population: {settings.population}
  scan: {settings.scan}                          # uniform merges to try first; the best is the start
  step_size: 0.12                     # careful steps from a start that is already good
  seed: {seed}

execution:
  dtype: float32
  cpus_per_worker: 1                  # more threads don't help models this small; more workers do
"""
