"""Small searches over models of which some are recipes."""

from __future__ import annotations

from pathlib import Path

import yaml

from evomerge.config.config import Config
from helpers.search import write_config

FEW = {"evaluations": 6, "population": 3, "scan": 2, "shortlist": 1}


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a folder with its time and content."""
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def write_recipe(path: Path, *merged: str | Path, weight: float = 0.5) -> Path:
    # Weights are normalised.
    weights = [weight, *[1.0] * (len(merged) - 1)]
    entries = [{"model": str(model), "parameters": {"weight": own}} for model, own in zip(merged, weights, strict=True)]
    path.write_text(yaml.safe_dump({"merge_method": "linear", "models": entries, "dtype": "float32"}))
    return path


def config_of(tmp_path: Path, tasks: Path, base: Path, **experts: Path) -> Config:
    return Config.from_file(write_config(tmp_path / "config.yaml", {"base": base, **experts}, tasks, search=FEW))


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()
