"""Candidates evaluated block by block: the same scores, stopped and continued with the same bytes."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from evomerge.config.config import Config
from evomerge.run.answers import Parts
from evomerge.run.directory import open_run
from evomerge.run.observer import SilentObserver
from evomerge.run.trial import TrialKind
from evomerge.study.candidates import Candidates
from evomerge.study.search import resume, search
from evomerge.study.session import Session
from evomerge.testing.runs import essence
from helpers.executors import stopped
from helpers.search import Count, changed, kill_after_lines, start, write_config

pytestmark = pytest.mark.slow


def test_a_search_in_blocks_finds_the_scores_of_one_at_once(
    in_blocks: Config, undisturbed: Path, undisturbed_in_blocks: Path
) -> None:
    whole, blocks = essence(undisturbed), essence(undisturbed_in_blocks)
    assert [trial[:3] for trial in blocks["trials"]] == [trial[:3] for trial in whole["trials"]]
    for number in range(7):  # baselines don't depend on the last bits of others
        assert blocks["tables"][number, "search"][0] == whole["tables"][number, "search"][0]
    lines = [json.loads(line) for line in (undisturbed_in_blocks / "parts.jsonl").read_text().splitlines()]
    assert [line["block"] for line in lines[:4]] == [0, 1, 2, 0]
    # The candidate is merged once for its three blocks.
    assert [line["seconds"]["materialise"] > 0 for line in lines[:4]] == [True, False, False, True]
    count = Count()
    search(in_blocks, undisturbed_in_blocks, observer=count)
    assert count.evaluated == []


@pytest.mark.parametrize("backend", ["inline", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow])])
def test_a_candidate_stopped_after_a_block_and_continued_has_the_same_bytes(
    tmp_path: Path, in_blocks: Config, undisturbed_in_blocks: Path, backend: str, request: pytest.FixtureRequest
) -> None:
    if backend == "ray":
        request.getfixturevalue("local_ray")
    directory = tmp_path / "run"
    config = changed(in_blocks, execution={"backend": backend, "workers": 2 if backend == "ray" else None})
    with stopped(after=5):
        search(config, directory)
    before = (directory / "parts.jsonl").read_bytes()
    assert before.count(b"\n") == 5
    search(config, directory)
    assert (directory / "parts.jsonl").read_bytes().startswith(before)
    assert essence(directory) == essence(undisturbed_in_blocks)
    lines = [json.loads(line) for line in (directory / "parts.jsonl").read_text().splitlines()]
    done = [(line["trial"], line["split"], line["block"]) for line in lines]
    assert len(set(done)) == len(done)


def test_a_driver_killed_between_blocks_recomputes_none_of_them(
    tmp_path: Path, tiny_llama: dict[str, Path], tasks: Path, undisturbed_in_blocks: Path
) -> None:
    file = write_config(
        tmp_path / "blocks.yaml",
        tiny_llama,
        tasks,
        search={"evaluations": 28, "population": 8, "scan": 4, "shortlist": 2, "block": 5},
    )
    directory = tmp_path / "run"
    for lines in (8, 21):
        process = start(file, directory)
        kill_after_lines(process, directory / "parts.jsonl", lines)
        assert process.returncode == -signal.SIGKILL
    before = (directory / "parts.jsonl").read_bytes().rpartition(b"\n")[0]
    resume(directory)
    assert (directory / "parts.jsonl").read_bytes().startswith(before)
    assert essence(directory) == essence(undisturbed_in_blocks)


def test_a_candidate_killed_before_its_evaluation_was_written_is_scored_from_its_blocks(
    tmp_path: Path, in_blocks: Config, undisturbed_in_blocks: Path
) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    with Session(in_blocks, directory, SilentObserver(), "here") as session:
        candidates = Candidates(session)
        trial = candidates.trial(TrialKind.BASE, "base")
        parts = undisturbed_in_blocks / "parts.jsonl"
        (directory / "parts.jsonl").write_text("".join(parts.read_text().splitlines(keepends=True)[:3]))
        candidates.parts = Parts(directory, open_run(undisturbed_in_blocks).facts["study"])
        candidates.evaluate([trial], "search")
        (evaluation,) = candidates.ledger.evaluations()
    assert len((directory / "parts.jsonl").read_text().splitlines()) == 3
    assert evaluation.score == essence(undisturbed_in_blocks)["tables"][0, "search"][0]
