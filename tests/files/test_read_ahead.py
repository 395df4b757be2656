from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from evomerge.files import read_ahead


def resident_bytes(path: Path) -> int:
    """How much of a mapped file this process has mapped so far."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    sizes = [
        int(rest.split()[1]) * 1024
        for line, *following in (lines[index : index + 12] for index in range(len(lines)))
        if line.endswith(str(path))
        for rest in following
        if rest.startswith("Rss:")
    ]
    return sum(sizes)


def test_a_mapped_file_is_in_memory_before_it_is_used(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    np.arange(1 << 20, dtype=np.float32).tofile(path)
    tensor = torch.from_file(str(path), shared=False, size=1 << 20)
    assert resident_bytes(path) < 1 << 20
    read_ahead.read_ahead(tensor[1000:])
    assert resident_bytes(path) >= (1 << 22) - 8192
    assert tensor[-1] == (1 << 20) - 1


def test_hints_are_left_out_where_they_cannot_be_given(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(read_ahead, "_madvise", lambda: None)
    for tensor in (
        torch.zeros(0),
        torch.zeros(1 << 20),
        torch.zeros(1 << 10, 1 << 10).T,
        torch.zeros(3, device="meta"),
    ):
        read_ahead.read_ahead(tensor)
        read_ahead.prefer_large_pages(tensor)
