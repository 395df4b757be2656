"""Parts: the blocks of many trials, on disk and read back as they were added."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.files.lines import Lines
from evomerge.run.answers import Part, Parts, blocks_answered
from evomerge.score.requests import LogLikelihoodResponse


def part(trial: int, block: int, blocks: int = 1) -> Part:
    return Part(
        trial=trial,
        split="search",
        block=block,
        blocks=tuple(
            (LogLikelihoodResponse(-trial / 3, False), LogLikelihoodResponse(-number / 7, True))
            for number in range(block, block + blocks)
        ),
        seconds={"respond": 0.1 * block},
        worker="ụ",
        lost_workers=("preempted",) * (trial % 2),
    )


@settings(max_examples=20, deadline=None)
@given(answered=st.lists(st.tuples(st.integers(0, 99), st.integers(1, 3)), max_size=250))
def test_parts_of_more_trials_than_are_at_hand_read_back_in_order(
    tmp_path_factory: pytest.TempPathFactory, answered: list[tuple[int, int]]
) -> None:
    directory: Path = tmp_path_factory.mktemp("parts")
    parts = Parts(directory)
    added: dict[int, list[Part]] = {}
    for trial, blocks in answered:
        known = added.setdefault(trial, [])
        known.append(part(trial, sum(len(one.blocks) for one in known), blocks))
        parts.add(known[-1])
    for found in (parts, Parts(directory)):
        assert found.of(100, "search") == ()
        for trial, known in added.items():
            assert found.of(trial, "search") == tuple(known)
            assert found.blocks(trial, "search") == [block for one in known for block in one.blocks]
            assert found.count(trial, "search") == sum(len(one.blocks) for one in known)
            assert blocks_answered(directory, "")[trial] == found.count(trial, "search")


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
    for block, blocks in ((0, 1), (2, 1), (0, 1), (1, 2), (2, 1), (3, 1)):
        parts.add(part(5, block, blocks))
    for found in (parts, Parts(tmp_path)):
        assert found.of(5, "search") == (part(5, 0), part(5, 1, 2), part(5, 3))
    assert blocks_answered(tmp_path, "")[5] == 4
