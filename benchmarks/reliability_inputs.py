"""What becomes of damaged, odd and hostile input files: each is to be accepted, or refused in words.

    python benchmarks/reliability_inputs.py --seconds 60 --seed 1

For each kind of file it makes versions of a valid one and reads them as a merge or search would. It counts those that
were accepted, those that were refused by one of evomerge's errors, and anything else, which is a mistake of ours, by
where it was raised. Exit code 1 if there is any.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from safetensors.torch import save_file

from evomerge.config.config import Config
from evomerge.errors import ConfigError, EvomergeError
from evomerge.files.outside import read_text
from evomerge.materialise.merger import Merger
from evomerge.mergekit.genome import genome_to_config
from evomerge.mergekit.read import load_recipe
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.compatible import check_compatible
from evomerge.models.open import open_expert, open_models
from evomerge.recipe.sources import ModelReference
from evomerge.testing.models import tiny_family
from evomerge.testing.mutations import as_json, as_safetensors, as_yaml, versions


class Kind(NamedTuple):
    """One kind of file: a valid one, where it lies, and what reads it."""

    file: Path
    value: Any
    write: Callable[[Any], bytes]
    read: Callable[[Path], object]


def kinds(folder: Path) -> dict[str, Kind]:
    """Every kind of file that comes from outside, with valid ones in `folder`."""
    family = tiny_family(folder / "models", "llama", ("a", "b"))
    a, b, base = (str(family[name]) for name in ("a", "b", "base"))
    reference = Checkpoint.open(base)
    whole, adapter = Path(shutil.copytree(a, folder / "whole")), folder / "adapter"
    adapter.mkdir()
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    rows, columns = reference.tensors["model.layers.0.self_attn.q_proj.weight"].shape
    save_file(
        {name.format("A"): torch.ones(2, columns), name.format("B"): torch.ones(rows, 2)},
        adapter / "adapter_model.safetensors",
    )
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "bias": "none"}
    settings |= {"rank_pattern": {}, "alpha_pattern": {"v_proj": 8}, "use_rslora": False}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    weights = {"a": 0.3, "b": 0.9}
    recipe = {
        "evomerge": 1,
        "models": {"base": base, "experts": {"a": a, "b": {"path": b, "revision": None}}},
        "method": "ties",
        "options": {},
        "dtype": "bfloat16",
        "groups": [
            {"name": "x", "layers": [0, 0], "kinds": ["mlp"], "coefficients": {"weight": weights, "density": 0.5}},
            {"name": "y", "names": ["attn"], "coefficients": {"weight": 0.4, "density": 0.6}},
            {"name": "rest", "coefficients": {"weight": 0.1}},
        ],
    }
    merge = {
        "merge_method": "ties",
        "base_model": base,
        "models": [
            {"model": a, "parameters": {"weight": 0.5, "density": [0.1, 0.9]}},
            {"model": b, "parameters": {"weight": [{"filter": "mlp", "value": 0.3}, {"value": 0.5}]}},
        ],
        "parameters": {"normalize": True},
        "dtype": "bfloat16",
    }
    genome = {
        "genome": {
            "models": [a, b],
            "merge_method": "ties",
            "base_model": base,
            "layer_granularity": 1,
            "filters": ["mlp"],
        },
        "tasks": [{"name": "mine", "weight": 1.0, "metric": "acc,none"}],
        "limit": 10,
    }
    config = yaml.safe_load(
        Config.from_data(
            {"models": {"base": base, "experts": {"a": a, "b": b}}, "benchmark": {"tasks": ["mine"]}}
        ).to_yaml()
    )

    def read_config(path: Path) -> object:
        found = Config.from_file(path)
        if Config.from_yaml(found.to_yaml()) != found:
            raise AssertionError("a config isn't the same when it is written and read again")
        return found.identity()

    def read_recipe(path: Path) -> object:
        found = load_recipe(path, report=lambda _: None)
        merger = Merger(open_models(found))
        return merger.notes(merger.bind(found)), found.key(), found.to_yaml()

    def read_genome(path: Path) -> object:
        return genome_to_config(read_text(path, ConfigError), where=str(path), folder=folder)

    def read_model(path: Path) -> object:
        model = open_expert(ModelReference(path=str(path.parent)), reference)
        check_compatible(reference, {"m": model})
        for tensor in list(model.tensors)[:3]:
            model.tensor(tensor).sum()
        return model.layout, model.dtype, model.notes, model.model_type, model.architecture, model.vocabulary()

    found = {
        "config": Kind(folder / "config.yaml", config, as_yaml, read_config),
        "recipe": Kind(folder / "recipe.yaml", recipe, as_yaml, read_recipe),
        "mergekit": Kind(folder / "merge.yaml", merge, as_yaml, read_recipe),
        "genome": Kind(folder / "genome.yaml", genome, as_yaml, read_genome),
    }
    for label, file in (
        ("model config", whole / "config.json"),
        ("tokenizer", whole / "tokenizer.json"),
        ("tokenizer config", whole / "tokenizer_config.json"),
        ("adapter config", adapter / "adapter_config.json"),
    ):
        found[label] = Kind(file, json.loads(file.read_text(encoding="utf-8")), as_json, read_model)
    for label, file in (
        ("header", whole / "model.safetensors"),
        ("adapter header", adapter / "adapter_model.safetensors"),
    ):
        data = file.read_bytes()
        end = 8 + int.from_bytes(data[:8], "little")
        found[label] = Kind(file, json.loads(data[8:end]), as_safetensors(data[end:]), read_model)
    return found


def fuzz(*, seconds: float, most: int, seed: int) -> Iterator[dict[str, Any]]:
    """Read versions of every kind of file, each for so many seconds or until there were so many."""
    with tempfile.TemporaryDirectory() as folder:
        for label, kind in kinds(Path(folder)).items():
            valid = kind.write(kind.value)
            outcomes: Counter[str] = Counter()
            mistakes: Counter[str] = Counter()
            start, slowest = time.monotonic(), 0.0
            for data in islice(versions(valid, random.Random(seed), kind.write, kind.value), most):
                if time.monotonic() - start > seconds:
                    break
                kind.file.write_bytes(data)
                began = time.monotonic()
                try:
                    kind.read(kind.file)
                    outcomes["accepted"] += 1
                except EvomergeError:
                    outcomes["refused"] += 1
                except Exception as error:
                    outcomes["mistakes"] += 1
                    mistakes[_place(error)] += 1
                slowest = max(slowest, time.monotonic() - began)
            kind.file.write_bytes(valid)
            counts = {name: outcomes[name] for name in ("accepted", "refused", "mistakes")}
            yield {
                "kind": label,
                "files": sum(counts.values()),
                **counts,
                "slowest_s": slowest,
                "where": dict(mistakes),
            }


def _place(error: Exception) -> str:
    """Where in the package an error was raised, and which."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "evomerge" in frame.filename]
    where = f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "?"
    return f"{where}: {type(error).__name__}: {str(error)[:80]}"


def line(row: dict[str, Any]) -> str:
    """What became of one kind of file, and a further line for each place that a mistake came from."""
    counts = f"{row['accepted']} accepted, {row['refused']} refused, {row['mistakes']} mistakes"
    lines = [f"{row['kind']:<17}{row['files']:>7} files: {counts}; slowest {row['slowest_s']:.1f} s"]
    return "\n".join((*lines, *(f"  {count} × {where}" for where, count in row["where"].items())))


def main(arguments: list[str] | None = None) -> int:
    """Print a line for each kind of file. Returns: the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each kind of file")
    parser.add_argument("--most", type=int, default=10_000, help="files of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to write the counts")
    options = parser.parse_args(arguments)
    rows = []
    for row in fuzz(seconds=options.seconds, most=options.most, seed=options.seed):
        rows.append(row)
        print(line(row), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps({"seed": options.seed, "rows": rows}, indent=2) + "\n", encoding="utf-8")
    return 1 if any(row["mistakes"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
