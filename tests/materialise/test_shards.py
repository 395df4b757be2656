"""Weights in files of limited size."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evomerge.errors import ExportError
from evomerge.kernels.raw import RawTensor
from evomerge.materialise.bind import Bound
from evomerge.materialise.folder import write_folder
from evomerge.materialise.merger import Merger
from evomerge.materialise.shards import parse_size
from helpers.folders import recipe_of, weight_bytes

pytestmark = pytest.mark.usefixtures("stand_ins")


@pytest.mark.parametrize("shard_size", ["10KB", "50KB", 100_000])
def test_no_shard_exceeds_its_size_but_for_a_single_larger_tensor(
    tiny_llama: dict[str, Path], tmp_path: Path, shard_size: str | int
) -> None:
    out = write_folder(recipe_of(tiny_llama), tmp_path / "merged", shard_size=shard_size)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    shards = {file.name: load_file(file) for file in out.glob("*.safetensors")}
    assert index["weight_map"] == {name: file for file, tensors in shards.items() for name in tensors}
    assert index["metadata"]["total_size"] == weight_bytes(out)
    for tensors in shards.values():
        assert len(tensors) == 1 or sum(t.nbytes for t in tensors.values()) <= parse_size(shard_size)


def test_shard_sizes_dont_change_the_merge(tiny_llama: dict[str, Path], tmp_path: Path) -> None:
    written = []
    for number, size in enumerate(("5GB", "10KB")):
        out = write_folder(recipe_of(tiny_llama), tmp_path / str(number), shard_size=size)
        written.append({name: t for file in out.glob("*.safetensors") for name, t in load_file(file).items()})
    assert all(torch.equal(written[1][name], tensor) for name, tensor in written[0].items())


def test_merged_tensors_share_the_memory_of_two(
    tiny_llama: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Merger.stream_raw
    places, count = set(), 0

    def watched(self: Merger, bound: Bound) -> Iterator[tuple[str, RawTensor]]:
        nonlocal count
        for name, tensor in stream(self, bound):
            places.add(tensor.data_ptr())
            count += 1
            yield name, tensor

    monkeypatch.setattr(Merger, "stream_raw", watched)
    write_folder(recipe_of(tiny_llama), tmp_path / "merged", shard_size="10KB")
    assert len(places) == 2 < count


@pytest.mark.parametrize(
    ("size", "bytes_"),
    [
        ("5GB", 5 * 10**9),
        ("500MB", 5 * 10**8),
        ("1.5 gb", 15 * 10**8),
        ("2GiB", 2**31),
        ("64KB", 64_000),
        (12, 12),
        ("5", 5),
    ],
)
def test_sizes_are_read_as_people_write_them(size: str | int, bytes_: int) -> None:
    assert parse_size(size) == bytes_


@pytest.mark.parametrize("size", ["9" * 400 + "GB", "", "0GB", "-1GB", "five", "5 apples", "5GBs"])
def test_what_is_no_size_is_refused(size: str) -> None:
    with pytest.raises(ExportError, match="expected a size such as 5GB"):
        parse_size(size)
