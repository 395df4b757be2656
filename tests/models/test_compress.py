"""Compressed experts on disk: written, read back and merged as the checkpoints that they are."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.errors import CheckpointError, ExportError, MergeError
from evomerge.materialise.merger import Merger
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.compress import compress
from evomerge.models.compressed import CompressedExpert, Compression
from evomerge.models.hub import is_compressed
from evomerge.models.open import Models
from evomerge.recipe.group import Group
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference
from evomerge.testing.models import tiny_family
from helpers.merging import streamed


@pytest.fixture(scope="module")
def compressed(tiny_llama: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compressed") / "a b'c"
    compress(tiny_llama["base"], tiny_llama["a"], out, num_experts=4)
    return out


def size_on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def test_tensors_are_the_base_plus_the_leading_directions(tiny_llama: dict[str, Path], compressed: Path) -> None:
    expert, base, original = (
        CompressedExpert.open(compressed),
        Checkpoint.open(tiny_llama["base"]),
        Checkpoint.open(tiny_llama["a"]),
    )
    assert expert.names == base.names
    wrong = size = 0.0
    for name in base.names:
        start, end = base.tensor(name).double().numpy(), original.tensor(name).double().numpy()
        entry, tau = expert.manifest.tensors[name], end - start
        if start.ndim == 2 and "embed" not in name and "lm_head" not in name:
            left, values, right = np.linalg.svd(tau, full_matrices=False)
            kept = min(tau.shape) // 4
            assert (entry.kind, entry.rank) == ("factors", kept)
            expected = (left[:, :kept] * values[:kept]) @ right[:kept]
            np.testing.assert_allclose(expert.task_vector(name).numpy(), expected, atol=1e-7)
            np.testing.assert_allclose(expert.tensor(name).numpy(), start + expected, atol=1e-6)
            assert entry.error == pytest.approx(np.linalg.norm(expected - tau) / np.linalg.norm(tau), abs=1e-6)
            wrong += float(np.sum((expected - tau) ** 2))
        else:
            assert (entry.kind, entry.rank, entry.error) == ("whole", None, 0.0)
            assert torch.equal(expert.tensor(name), original.tensor(name))
            np.testing.assert_array_equal(expert.task_vector(name).numpy(), tau)
        assert tuple(expert.tensor(name).shape) == expert.tensors[name].shape
        assert expert.tensor(name).dtype == expert.tensors[name].dtype
        size += float(np.sum(tau**2))
    assert expert.manifest.error == pytest.approx((wrong / size) ** 0.5, rel=1e-5)


def test_the_stated_size_is_that_on_disk(compressed: Path) -> None:
    manifest = Compression.read(compressed)
    assert manifest.size_bytes == sum(entry.size_bytes for entry in manifest.tensors.values())
    assert 0 < size_on_disk(compressed) - manifest.size_bytes < 20_000
    assert manifest.size_bytes < manifest.expert_bytes


def test_matrices_at_a_tenth_of_the_directions_take_about_a_tenth_of_the_bytes(
    tiny_llama: dict[str, Path], tmp_path: Path
) -> None:
    found = compress(tiny_llama["base"], tiny_llama["a"], tmp_path / "out", fraction=0.1, whole="")
    factors = [entry.size_bytes for entry in found.tensors.values() if entry.kind == "factors"]
    full = Checkpoint.open(tiny_llama["a"])
    whole = sum(full.tensors[name].size_bytes for name, entry in found.tensors.items() if entry.kind == "factors")
    assert sum(factors) < 0.2 * whole
    assert found.tensors["model.embed_tokens.weight"].kind == "factors"


def test_a_compressed_expert_merges_as_any_other(tiny_llama: dict[str, Path], compressed: Path) -> None:
    base = Checkpoint.open(tiny_llama["base"])
    experts = {"a": CompressedExpert.open(compressed, base=base, keep=True), "b": Checkpoint.open(tiny_llama["b"])}
    recipe = Recipe(
        base=ModelReference(path=str(tiny_llama["base"])),
        experts={"a": ModelReference(path=str(compressed)), "b": ModelReference(path=str(tiny_llama["b"]))},
        method="task_arithmetic",
        groups=(Group(name="all", coefficients={"weight": {"a": 0.7, "b": 0.4}}),),
    )
    for name, found in streamed(Merger(Models(base, experts)), recipe).items():
        start = base.tensor(name).double()
        expected = start + 0.7 * (experts["a"].tensor(name).double() - start)
        expected += 0.4 * (experts["b"].tensor(name).double() - start)
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-7)
    assert experts["a"].tensor("model.layers.0.mlp.up_proj.weight") is experts["a"].tensor(
        "model.layers.0.mlp.up_proj.weight"
    )


def test_everything_kept_restores_the_expert(tiny_llama: dict[str, Path], tmp_path: Path) -> None:
    found = compress(tiny_llama["base"], tiny_llama["a"], tmp_path / "out", method="svd", energy=1.0)
    # At full rank square factors would take twice the matrix, which is stored instead.
    assert {entry.kind for entry in found.tensors.values()} == {"whole"}
    assert found.error == 0.0
    expert, original = CompressedExpert.open(tmp_path / "out"), Checkpoint.open(tiny_llama["a"])
    assert all(torch.equal(expert.tensor(name), original.tensor(name)) for name in expert.names)


def test_more_directions_cost_bytes_and_save_error(tiny_llama: dict[str, Path], tmp_path: Path) -> None:
    found = [
        compress(tiny_llama["base"], tiny_llama["a"], tmp_path / str(rank), method="svd", rank=rank)
        for rank in (1, 3, 6)
    ]
    assert found[0].error > found[1].error > found[2].error > 0.0
    assert found[0].size_bytes < found[1].size_bytes < found[2].size_bytes
    assert [dict(each.kept) for each in found] == [{"rank": 1}, {"rank": 3}, {"rank": 6}]


def test_experts_of_sixteen_bits_get_factors_of_sixteen_bits(tmp_path: Path) -> None:
    folders = tiny_family(tmp_path, experts=("a",), dtype="bfloat16")
    found = compress(folders["base"], folders["a"], tmp_path / "auto", num_experts=4)
    coarse = compress(folders["base"], folders["a"], tmp_path / "coarse", num_experts=4, dtype="bfloat16")
    fine = compress(folders["base"], folders["a"], tmp_path / "fine", num_experts=4, dtype="float32")
    assert found.size_bytes == coarse.size_bytes < fine.size_bytes
    name = "model.layers.0.mlp.up_proj.weight"
    excess = [each.tensors[name].error - fine.tensors[name].error for each in (found, coarse)]
    assert 0.0 <= excess[0] < excess[1]
    expert = CompressedExpert.open(tmp_path / "auto")
    assert expert._factors(name).left.dtype == torch.float16
    assert expert.tensor(name).dtype == torch.float32
    assert expert.tensor("model.norm.weight").dtype == torch.bfloat16


def test_tensors_equal_to_the_base_take_no_space(tiny_llama: dict[str, Path], tmp_path: Path) -> None:
    found = compress(tiny_llama["base"], tiny_llama["base"], tmp_path / "out", num_experts=2)
    assert {entry.kind for entry in found.tensors.values()} == {"same"}
    assert (found.size_bytes, found.error) == (0, 0.0)
    expert = CompressedExpert.open(tmp_path / "out")
    base = Checkpoint.open(tiny_llama["base"])
    assert all(torch.equal(expert.tensor(name), base.tensor(name)) for name in base.names)
    assert not any(expert.task_vector(name).any() for name in base.names)


@pytest.mark.parametrize("architecture", ["gpt2", "mixtral"])
def test_other_architectures_compress_too(architecture: str, tmp_path: Path) -> None:
    folders = tiny_family(tmp_path, architecture, ("a",))
    found = compress(folders["base"], folders["a"], tmp_path / "out", num_experts=4)
    assert "factors" in {entry.kind for entry in found.tensors.values()}
    expert, original = CompressedExpert.open(tmp_path / "out"), Checkpoint.open(folders["a"])
    for name in expert.names:
        start = expert.base.tensor(name).double()
        tau, kept = original.tensor(name).double() - start, expert.tensor(name).double() - start
        error = float((kept - tau).norm() / tau.norm())
        assert error == pytest.approx(expert.manifest.tensors[name].error, abs=1e-4)


def test_the_same_folder_is_written_again(tiny_llama: dict[str, Path], compressed: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    compress(
        tiny_llama["base"],
        tiny_llama["a"],
        tmp_path / "again",
        num_experts=4,
        progress=lambda done, total: seen.append((done, total)),
    )
    names = sorted(path.name for path in compressed.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir())
    assert "tokenizer.json" in names
    assert all((compressed / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in names)
    total = Checkpoint.open(tiny_llama["a"]).size_bytes
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)


def test_large_models_are_written_in_several_files(
    tiny_llama: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evomerge.models.compress._FILE_BYTES", 30_000)
    found = compress(tiny_llama["base"], tiny_llama["a"], tmp_path / "out", num_experts=4)
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 1
    assert {entry.file for entry in found.tensors.values()} == set(files)
    expert = CompressedExpert.open(tmp_path / "out")
    assert all(bool(torch.isfinite(expert.tensor(name)).all()) for name in expert.names)


def test_a_compressed_expert_travels_between_processes(compressed: Path) -> None:
    expert = CompressedExpert.open(compressed)
    copy = pickle.loads(pickle.dumps(expert))
    assert isinstance(copy, CompressedExpert)
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(copy.tensor(name), expert.tensor(name))


def test_compressed_folders_are_told_from_others(tiny_llama: dict[str, Path], compressed: Path) -> None:
    assert is_compressed(compressed)
    assert not is_compressed(tiny_llama["a"])


def test_another_base_is_refused(tiny_llama: dict[str, Path], compressed: Path) -> None:
    with pytest.raises(CheckpointError, match="compressed over another base"):
        CompressedExpert.open(compressed, base=Checkpoint.open(tiny_llama["b"]))


def test_damaged_folders_are_refused(tiny_llama: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no compressed expert"):
        CompressedExpert.open(tiny_llama["a"])
    out = tmp_path / "out"
    compress(tiny_llama["base"], tiny_llama["a"], out, num_experts=4)
    manifest = json.loads((out / "compressed.json").read_text())

    def written(**changes: object) -> None:
        (out / "compressed.json").write_text(json.dumps({**manifest, **changes}))

    written(evomerge_compressed=9)
    with pytest.raises(CheckpointError, match="format 9"):
        CompressedExpert.open(out)
    written(surprise=1)
    with pytest.raises(CheckpointError, match="can't be read as a compressed expert's manifest"):
        CompressedExpert.open(out)
    name = "model.layers.0.mlp.up_proj.weight"
    (tmp_path / "elsewhere.safetensors").write_bytes((out / "factors-00001.safetensors").read_bytes())
    written(tensors={**manifest["tensors"], name: {**manifest["tensors"][name], "file": "../elsewhere.safetensors"}})
    with pytest.raises(CheckpointError, match=r"elsewhere\.safetensors is missing"):
        CompressedExpert.open(out)
    written()
    file = out / "factors-00001.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match="can't be read"):
        CompressedExpert.open(out)
    file.unlink()
    with pytest.raises(CheckpointError, match="is missing; copy the whole folder again"):
        CompressedExpert.open(out)


def test_nothing_is_left_where_an_expert_can_not_be_compressed(tiny_llama: dict[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in tiny_llama["a"].iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    tensors = load_file(broken / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name][0, 0] = float("nan")
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MergeError, match=r"layers\.1\.mlp\.up_proj\.weight: NaN or Inf"):
        compress(tiny_llama["base"], broken, tmp_path / "out", num_experts=4)
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_an_expert_of_another_shape_is_refused(tiny_llama: dict[str, Path], tmp_path: Path) -> None:
    other = tiny_family(tmp_path / "other", experts=(), layers=3)["base"]
    with pytest.raises(CheckpointError, match="has 3 layers"):
        compress(tiny_llama["base"], other, tmp_path / "out", num_experts=4)


def test_a_folder_that_holds_something_is_left_alone(tiny_llama: dict[str, Path]) -> None:
    with pytest.raises(ExportError, match="is there already"):
        compress(tiny_llama["base"], tiny_llama["a"], tiny_llama["b"], num_experts=4)


def test_a_place_that_can_not_be_written_is_said_so(tiny_llama: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="can't be written"):
        compress(tiny_llama["base"], tiny_llama["a"], tmp_path / "file" / "out", num_experts=4)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"method": "svd_compress", "rank": 3}, "unknown method 'svd_compress'"),
        ({}, "give either fraction, or num_experts"),
        ({"fraction": 0.5, "num_experts": 2}, "give either fraction, or num_experts"),
        ({"rank": 3}, "rank and energy belong to svd"),
        ({"method": "svd", "fraction": 0.5}, "belong to tsv_compress"),
        ({"method": "svd"}, "give one of rank, fraction and energy"),
        ({"method": "svd", "rank": 0}, "rank 0 keeps nothing"),
        ({"num_experts": 0}, "at least 1"),
        ({"num_experts": 2, "dtype": "int8"}, "unknown dtype 'int8'"),
        ({"num_experts": 2, "whole": "("}, "no regular expression"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(
    tiny_llama: dict[str, Path], tmp_path: Path, wanted: dict[str, object], message: str
) -> None:
    with pytest.raises(MergeError, match=message):
        compress(tiny_llama["base"], tiny_llama["a"], tmp_path / "out", **wanted)
    assert not any(tmp_path.iterdir())
