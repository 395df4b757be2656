"""Fingerprints: every change of content is found, and what didn't change isn't read."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from evomerge.files import fingerprint
from evomerge.files.fingerprint import changed, fingerprints


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    found = {name: tmp_path / name for name in ("a", "b", "c")}
    for name, path in found.items():
        path.write_bytes(name.encode() * 100_000)
    return found


def kept(files: dict[str, Path]) -> dict[str, list[object]]:
    return {name: found.to_data() for name, found in fingerprints(files).items()}


def test_the_hash_is_of_the_whole_content(files: dict[str, Path]) -> None:
    assert fingerprints(files)["b"].hash == hashlib.blake2b(b"b" * 100_000, digest_size=16).hexdigest()


def test_a_changed_byte_another_size_and_a_missing_file_are_found(files: dict[str, Path]) -> None:
    before = kept(files)
    assert changed(files, before) == []
    content = bytearray(files["a"].read_bytes())
    content[50_000] ^= 1
    files["a"].write_bytes(content)
    files["b"].write_bytes(b"b")
    del files["c"]
    assert changed(files, before) == ["a", "b", "c"]


def test_only_a_file_whose_time_differs_is_read(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    before = kept(files)
    os.utime(files["b"], ns=(1, 1))
    read = []
    original = fingerprint._fingerprint
    monkeypatch.setattr(fingerprint, "_fingerprint", lambda path: read.append(path.name) or original(path))
    assert changed(files, before) == []
    assert read == ["b"]
