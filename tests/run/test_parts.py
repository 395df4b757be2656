"""Parts: the blocks of many trials, on disk and read back as they were added."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.files.lines import Lines
from evomerge.run.answers import Part, Parts
from evomerge.score.requests import LogLikelihoodResponse


def part(trial: int, block: int) -> Part:
    return Part(
        trial=trial,
        split="search",
        block=block,
        responses=(LogLikelihoodResponse(-trial / 3, False), LogLikelihoodResponse(-block / 7, True)),
        seconds={"respond": 0.1 * block},
        worker="ụ",
        lost_workers=("preempted",) * (trial % 2),
    )


@settings(max_examples=20, deadline=None)
@given(trials=st.lists(st.integers(0, 99), max_size=250))
def test_parts_of_more_trials_than_are_at_hand_read_back_in_order(tmp_path_factory, trials: list[int]) -> None:  # type: ignore[no-untyped-def]
    directory: Path = tmp_path_factory.mktemp("parts")
    parts, added = Parts(directory), {}
    for trial in trials:
        known = added.setdefault(trial, [])
        known.append(part(trial, len(known)))
        parts.add(known[-1])
    for found in (parts, Parts(directory)):
        assert found.of(100, "search") == ()
        for trial, known in added.items():
            assert found.of(trial, "search") == tuple(known)


def test_opening_goes_through_the_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(tmp_path)
    for block in range(2):
        for trial in range(100):
            parts.add(part(trial, block))
    with monkeypatch.context() as patched:
        patched.setattr(Lines, "at", None)
        again = Parts(tmp_path)
    assert again.of(0, "search") == (part(0, 0), part(0, 1))


def test_a_block_that_is_there_already_or_comes_too_early_is_left_out(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    for block in (0, 2, 0, 1):
        parts.add(part(5, block))
    for found in (parts, Parts(tmp_path)):
        assert found.of(5, "search") == (part(5, 0), part(5, 1))
