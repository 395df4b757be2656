"""Sentences are there when what they say is so, and only then."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.analysis.analyse import Analysis, analyse
from evomerge.analysis.verdicts import starting_scales
from evomerge.testing.models import tiny_checkpoint, tiny_family

Change = Callable[[str, torch.Tensor, torch.Generator], torch.Tensor]


def expert(base: Path, folder: Path, change: Change, seed: int = 0) -> Path:
    """A copy of the base with every tensor changed by a function of its name, the tensor and a generator."""
    folder.mkdir()
    for file in base.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    generator = torch.Generator().manual_seed(seed)
    tensors = load_file(base / "model.safetensors")
    changed = {name: change(name, tensor, generator).contiguous() for name, tensor in tensors.items()}
    save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def noise(scale: float) -> Change:
    return lambda name, tensor, generator: tensor + scale * torch.randn(tensor.shape, generator=generator)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path / "base", layers=4)


def topics(found: Analysis) -> dict[str, list[tuple[str, ...]]]:
    told: dict[str, list[tuple[str, ...]]] = {}
    for verdict in found.verdicts:
        told.setdefault(verdict.topic, []).append(verdict.models)
    return told


def text(found: Analysis, topic: str) -> str:
    (verdict,) = (one for one in found.verdicts if one.topic == topic)
    return verdict.text


def test_an_expert_that_is_four_times_as_far_is_said_to_be(base: Path, tmp_path: Path) -> None:
    one = expert(base, tmp_path / "maths", noise(0.04), 1)
    two = expert(base, tmp_path / "swahili", noise(0.01), 2)
    found = analyse([base, one, two])
    assert topics(found)["far"] == [("maths",)]
    times = re.search(
        r"Expert 'maths' is ([\d.]+) times as far from the base as the other: .* near (0\.\d+) of", text(found, "far")
    )
    assert times is not None
    norms = found.weights.whole.moments.norms
    assert float(times[1]) == pytest.approx(norms[0] / norms[1], rel=0.01)
    assert float(times[2]) == pytest.approx(norms[1] / norms[0], rel=0.05)
    assert "near" not in topics(found)


def test_among_three_the_one_that_hardly_moved_is_said_to(base: Path, tmp_path: Path) -> None:
    experts = [
        expert(base, tmp_path / name, noise(size), seed)
        for seed, (name, size) in enumerate((("a", 0.02), ("b", 0.02), ("c", 0.004)))
    ]
    found = analyse([base, *experts])
    assert topics(found)["near"] == [("c",)]
    assert "far" not in topics(found)
    assert "0.2 times as far" in text(found, "near")


def test_experts_alike_in_length_are_not_remarked_on(base: Path, tmp_path: Path) -> None:
    experts = [expert(base, tmp_path / name, noise(0.02), seed) for seed, name in enumerate("ab")]
    found = analyse([base, *experts])
    assert (
        not {"far", "near", "unrelated", "alike", "opposed", "same", "same_as_base", "unchanged"} & topics(found).keys()
    )
    assert "orthogonal" in topics(found)
    assert "low_rank" not in topics(found)


def test_copies_and_mirror_images_are_told(base: Path, tmp_path: Path) -> None:
    one = expert(base, tmp_path / "one", noise(0.02), 1)
    expert(base, tmp_path / "again", noise(0.02), 1)
    expert(base, tmp_path / "nothing", lambda name, tensor, generator: tensor)
    mirrored = load_file(one / "model.safetensors")
    expert(base, tmp_path / "mirror", lambda name, tensor, generator: 2 * tensor - mirrored[name])
    found = analyse([base, *(tmp_path / name for name in ("one", "again", "nothing", "mirror"))])
    told = topics(found)
    assert told["same"] == [("one", "again")]
    assert told["same_as_base"] == [("nothing",)]
    assert told["opposed"] == [("one", "mirror"), ("again", "mirror")]
    assert "alike" not in told


def test_tensors_that_nobody_changes_are_counted(base: Path, tmp_path: Path) -> None:
    def layers_only(name: str, tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return noise(0.02)(name, tensor, generator) if "mlp" in name else tensor

    found = analyse([base, *(expert(base, tmp_path / name, layers_only, seed) for seed, name in enumerate("ab"))])
    untouched = [name for name in load_file(base / "model.safetensors") if "mlp" not in name]
    assert text(found, "unchanged").startswith(f"No expert changes {len(untouched)} tensors (")
    assert "mlp 100%" in text(found, "where")


def test_unrelated_weights_are_called_so(base: Path, tmp_path: Path) -> None:
    other = tiny_checkpoint(tmp_path / "other", layers=4, seed=1)
    found = analyse([base, other], spectra="none")
    assert topics(found)["unrelated"] == [("other",)]
    relative = found.weights.whole.moments.relative_norms[0]
    assert relative > 1
    assert f"by {relative:.2g} times the base's own length" in text(found, "unrelated")


def test_a_change_of_low_rank_is_called_so(tmp_path: Path) -> None:
    base = tiny_checkpoint(tmp_path / "base", layers=1, hidden=64)

    def rank_one(name: str, tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        if tensor.dim() != 2:
            return tensor
        rows, columns = (torch.randn(side, generator=generator) for side in tensor.shape)
        return tensor + 0.02 * rows[:, None] * columns

    found = analyse([base, expert(base, tmp_path / "a", rank_one), expert(base, tmp_path / "b", noise(0.02))])
    assert topics(found)["low_rank"] == [("a",)]


def test_signs_are_compared_with_chance_and_methods_named(base: Path, tmp_path: Path) -> None:
    found = analyse([base, *(expert(base, tmp_path / name, noise(0.02), seed) for seed, name in enumerate("ab"))])
    largest = found.weights.whole.moments.top_signs
    assert f"among the largest 20% of two, {largest.share:.0%}. Signs drawn at random" in text(found, "signs")
    assert "ties" in text(found, "signs")
    start = load_file(base / "model.safetensors")
    one = load_file(tmp_path / "a" / "model.safetensors")
    expert(base, tmp_path / "c", lambda name, tensor, generator: start[name] + 2 * (one[name] - start[name]))
    agreeing = analyse([base, tmp_path / "a", tmp_path / "c"])
    assert "ties" not in text(agreeing, "signs")
    assert topics(agreeing)["alike"] == [("a", "c")]


def test_nan_is_named_first(base: Path, tmp_path: Path) -> None:
    def broken(name: str, tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return torch.full_like(tensor, float("nan")) if "layers.2.mlp.up" in name else tensor + 0.01

    found = analyse([base, expert(base, tmp_path / "bad", broken), expert(base, tmp_path / "good", noise(0.02))])
    assert found.verdicts[0].topic == "not_finite"
    assert (
        "Expert 'bad' has NaN or infinite numbers in 1 tensor (model.layers.2.mlp.up_proj.weight)"
        in found.verdicts[0].text
    )


def test_layers_that_were_left_out_are_named(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evomerge.analysis.weights.BUDGET", 0.0)
    found = analyse(tiny_family(tmp_path / "family", layers=4))
    assert "layer 2 of 4; --spectra all" in text(found, "left_out")


def test_equal_lengths_need_no_scales_and_zeros_none() -> None:
    np.testing.assert_allclose(starting_scales(np.array([2.0, 2.0, 2.0])), 1.0)
    np.testing.assert_allclose(starting_scales(np.array([4.0, 1.0])), [0.25, 4.0])
    np.testing.assert_allclose(starting_scales(np.array([4.0, 0.0, 1.0])), [0.25, 1.0, 4.0])
    np.testing.assert_allclose(starting_scales(np.array([4.0])), [1.0])
