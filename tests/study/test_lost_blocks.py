"""A run whose blocks of answers are lost while its evaluations aren't."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.config.config import Config
from evomerge.errors import RunError
from evomerge.study.search import resume, search
from helpers.search import Interrupt, changed


def test_a_pruner_does_not_judge_by_fewer_rivals_than_there_were(tmp_path: Path, in_blocks: Config) -> None:
    config = changed(in_blocks, search={"pruner": "median"})
    with pytest.raises(KeyboardInterrupt):
        search(config, tmp_path / "run", observer=Interrupt(3))
    parts = tmp_path / "run" / "parts.jsonl"
    parts.write_bytes(b"".join(parts.read_bytes().splitlines(keepends=True)[:4]))
    with pytest.raises(RunError, match=r"parts\.jsonl: lacks answers of trials that have ended \(1"):
        resume(tmp_path / "run")
