"""Distances of merges from models, beside those of the exported folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from evomerge.run.directory import open_run
from evomerge.study.export import export
from evomerge.study.search import search
from evomerge.testing.runs import essence
from helpers.several import write_experiment, write_tasks

OBJECTIVES: dict[str, Any] = {"north": "north", "change": {"distance": "base"}}


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("around")]


def weights(folder: Path) -> np.ndarray[Any, np.dtype[np.float64]]:
    tensors = {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}
    return np.concatenate([tensors[name].astype(np.float64).ravel() for name in sorted(tensors)])


def test_distances_are_those_of_exported_weights_however_items_are_answered(
    tmp_path: Path, tiny_llama: dict[str, Path]
) -> None:
    tasks = write_tasks(tmp_path / "tasks", items=16)
    name = next(name for name in tiny_llama if name != "base")
    constraints = {"near": {"distance": name, "at_most": 10.0}}
    settings = {"of": ("north",), "evaluations": 6, "objectives": OBJECTIVES, "constraints": constraints}
    config = write_experiment(tmp_path / "x.yaml", tiny_llama, tasks, **settings)
    result = search(config, tmp_path / "run").data
    ledger = open_run(tmp_path / "run").ledger()
    given = {name: weights(folder) for name, folder in tiny_llama.items()}
    for number in (0, result["picks"]["best:north"], 7):
        found = ledger.evaluation(number, "search")
        assert found is not None
        merged = weights(export(tmp_path / "run", tmp_path / f"model-{number}", trial=number))
        for measure, reference in (("change", given["base"]), ("near", given[name])):
            expected = np.linalg.norm(merged - reference) / np.linalg.norm(reference)
            assert found.measured[measure] == pytest.approx(expected, rel=1e-5, abs=1e-12)
    best = ledger.evaluation(result["picks"]["best:change"], "validation")
    assert best is not None
    validated = [row["validation"]["objectives"]["change"] for row in result["front"] if "validation" in row]
    assert best.measured["change"] == min(validated)

    blocks = write_experiment(tmp_path / "y.yaml", tiny_llama, tasks, block=3, **settings)
    search(blocks, tmp_path / "blocks")
    others = open_run(tmp_path / "blocks").ledger()
    for trial in ledger.trials():
        one, other = ledger.evaluation(trial.number, "search"), others.evaluation(trial.number, "search")
        assert one is not None
        assert other is not None
        assert one.measured == other.measured
    assert essence(tmp_path / "blocks")["trials"] == essence(tmp_path / "run")["trials"]
