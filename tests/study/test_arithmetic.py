"""A run goes on in the format that it began in, on whatever machine."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from evomerge.config.config import Config
from evomerge.errors import ResumeError
from evomerge.files.atomic import write_json
from evomerge.inference import arithmetic
from evomerge.run.directory import open_run
from evomerge.study.check import check
from evomerge.study.control import _configs
from evomerge.study.search import search
from evomerge.testing.runs import essence
from helpers.search import Count, Interrupt, changed

pytestmark = pytest.mark.slow


class Remarks(Count):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def halves(config: Config) -> Config:
    return changed(config, search={"evaluations": 3, "scan": 1}, execution={"dtype": "bfloat16"})


def on_a_machine(monkeypatch: pytest.MonkeyPatch, times: float) -> None:
    """That takes so many times as long in 16 bits as in float32."""
    monkeypatch.setattr(arithmetic, "slowness", lambda dtype: times)


def test_a_run_that_began_in_float32_goes_on_so_on_a_machine_that_would_not(
    tmp_path: Path, halves: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_machine(monkeypatch, 6.0)
    whole, begun = Remarks(), tmp_path / "run"
    search(halves, tmp_path / "whole", observer=whole)
    assert any("in bfloat16, computed with in float32: measured on this CPU" in words for words in whole.said)
    with pytest.raises(KeyboardInterrupt):
        search(halves, begun, observer=Interrupt(3))
    on_a_machine(monkeypatch, 0.5)
    elsewhere = shutil.copytree(begun, tmp_path / "elsewhere")
    with pytest.raises(ResumeError, match=r"execution\.compute_dtype: stored computes in bfloat16.* begun in float32"):
        search(changed(halves, execution={"compute_dtype": "stored"}), elsewhere)
    assert (elsewhere / "config.yaml").read_bytes() == (begun / "config.yaml").read_bytes()
    moved = Remarks()
    search(halves, begun, observer=moved)
    assert any("the run began so" in words for words in moved.said)
    assert essence(begun) == essence(tmp_path / "whole")
    assert {one.execution.compute_dtype for one in _configs(open_run(begun), 2).values()} == {"float32"}


def test_a_run_from_before_there_was_a_choice_goes_on_in_the_format_of_its_weights(
    tmp_path: Path, halves: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_machine(monkeypatch, 0.5)
    with pytest.raises(KeyboardInterrupt):
        search(halves, tmp_path / "run", observer=Interrupt(2))
    facts = open_run(tmp_path / "run").facts
    assert facts["compute_dtype"] == "bfloat16"
    del facts["compute_dtype"]
    write_json(tmp_path / "run" / "run.json", facts)
    on_a_machine(monkeypatch, 6.0)
    found = Remarks()
    search(halves, tmp_path / "run", observer=found)
    assert any("weights are in bfloat16: the run began so" in words and "6 times" in words for words in found.said)


def test_check_says_what_is_computed_in_and_counts_its_memory(halves: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_machine(monkeypatch, 6.0)
    slow = check(halves)
    on_a_machine(monkeypatch, 0.5)
    fast = check(halves)
    assert slow.arithmetic == (
        "bfloat16, computed with in float32: measured on this CPU, a product in bfloat16 takes 6 times as long as in "
        "float32"
    )
    assert fast.arithmetic.startswith("bfloat16: measured")
    assert slow.live_bytes == 2 * (fast.live_bytes or 0)
    assert slow.export_bytes == fast.export_bytes == fast.live_bytes
