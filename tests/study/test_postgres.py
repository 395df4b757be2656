"""Trials in PostgreSQL, on a real server: the same search, continued after the server was cut off."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from evomerge.config.config import Config
from evomerge.errors import RunError
from evomerge.run.directory import open_run
from evomerge.run.ledger import Ledger
from evomerge.run.trial import TrialKind
from evomerge.study.storage import check_storage
from helpers.postgres import PROGRAMS, Server, server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(shutil.which(program) is None for program in PROGRAMS), reason="PostgreSQL's programs aren't installed"
    ),
]


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    pytest.importorskip("psycopg")
    with server() as made:
        yield made


def test_a_ledger_on_a_server_is_read_by_others_and_continued_after_a_cut(running: Server, tmp_path: Path) -> None:
    assert check_storage(running.url, where="x.yaml") is None
    ledger = Ledger.create(tmp_path, running.url, "a study")
    for number in range(3):
        ledger.add(kind=TrialKind.CANDIDATE, name=f"c{number}", recipe_key=f"k{number}", parameters={})
    running.stop()
    sentence = check_storage(running.url, where="x.yaml")
    assert sentence is not None
    assert "doesn't answer from here" in sentence
    assert "secret" not in sentence
    with pytest.raises(RunError, match=r"storage postgresql://tester:\*\*\*@.*can't be opened") as cut:
        Ledger.open(tmp_path, running.url, "a study")
    assert "secret" not in str(cut.value)
    running.start()
    # The cut has left no broken connection behind.
    ledger.add(kind=TrialKind.CANDIDATE, name="c3", recipe_key="k3", parameters={})
    assert [trial.name for trial in Ledger.read(tmp_path, running.url, "a study").trials()] == ["c0", "c1", "c2", "c3"]
    with pytest.raises(RunError, match="the study of this run isn't there any more"):
        Ledger.read(tmp_path, running.url, "another study")


def test_a_search_with_its_trials_on_a_server_is_that_with_a_journal(
    running: Server, tiny_llama: dict[str, Path], tmp_path: Path
) -> None:
    from evomerge.study.search import search
    from evomerge.testing.runs import essence
    from helpers.search import write_config, write_task

    tasks = write_task(tmp_path / "tasks")
    config = Config.from_file(write_config(tmp_path / "c.yaml", tiny_llama, tasks, search={"evaluations": 8}))
    search(config, tmp_path / "journal")
    search(config.model_copy(update={"storage": running.url}), tmp_path / "server")
    assert essence(tmp_path / "server") == essence(tmp_path / "journal")
    assert not (tmp_path / "server" / "study.journal").exists()
    assert open_run(tmp_path / "server").has_ended()
