"""Merge files of mergekit, and what they give by either program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file
from torch import Tensor

from evomerge.materialise.folder import write_folder
from evomerge.mergekit.read import read_mergekit


def ties(**changes: Any) -> str:
    data: dict[str, Any] = {
        "merge_method": "ties",
        "base_model": "org/base",
        "models": [
            {"model": "org/base"},
            {"model": "org/one", "parameters": {"weight": 0.5, "density": 0.3}},
            {"model": "org/two@v1", "parameters": {"weight": 0.25}},
        ],
        "parameters": {"normalize": False, "int8_mask": True},
        "dtype": "bfloat16",
    }
    return yaml.safe_dump({key: value for key, value in {**data, **changes}.items() if value is not None})


def sliced(*ranges: tuple[list[int], list[int]]) -> list[Any]:
    return [
        {
            "sources": [
                {"model": "org/base", "layer_range": first},
                {"model": "org/one", "layer_range": second, "parameters": {"weight": 1.0}},
            ]
        }
        for first, second in ranges
    ]


def by_mergekit(text: str, out: Path, **options: Any) -> dict[str, Tensor]:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    configuration = MergeConfiguration.model_validate(yaml.safe_load(text))
    plain = {"quiet": True, "copy_tokenizer": False, "write_model_card": False}
    run_merge(configuration, str(out), options=MergeOptions(**plain, **options))
    return load_file(out / "model.safetensors")


def by_evomerge(text: str, out: Path) -> dict[str, Tensor]:
    return load_file(write_folder(read_mergekit(text), out) / "model.safetensors")


def assert_agree(ours: dict[str, Tensor], theirs: dict[str, Tensor], *, odd: float = 0.0) -> None:
    """Equal within float32 rounding of mergekit's sums, but for at most a share `odd` of each tensor, or one entry."""
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        off = (tensor.double() - theirs[name].double()).abs() > 2e-6
        assert int(off.sum()) <= odd * tensor.numel(), (name, int(off.sum()), tensor.numel())
