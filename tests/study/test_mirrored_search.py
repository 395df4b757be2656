"""A search whose machine is lost with its disk goes on from the mirror as if nothing had happened."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

import fsspec
import pytest

from evomerge.config.config import Config
from evomerge.errors import ConfigError
from evomerge.study.search import search
from evomerge.study.storage import check_mirror
from evomerge.testing.runs import essence
from helpers.interrupt import Interrupt
from helpers.search import write_config, write_task


@pytest.mark.slow
def test_a_search_continues_from_its_mirror_where_the_run_directory_is_gone(
    tiny_llama: dict[str, Path], tmp_path: Path
) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    tasks = write_task(tmp_path / "tasks")
    config = Config.from_file(write_config(tmp_path / "c.yaml", tiny_llama, tasks, search={"evaluations": 16}))
    execution = config.execution.model_copy(update={"mirror": url})
    with pytest.raises(KeyboardInterrupt):
        search(config.model_copy(update={"execution": execution}), tmp_path / "lost", observer=Interrupt(11))
    done = (tmp_path / "lost" / "evaluations.jsonl").read_bytes()
    shutil.rmtree(tmp_path / "lost")
    search(config.model_copy(update={"execution": execution}), tmp_path / "found")
    search(config, tmp_path / "undisturbed")
    assert done.count(b"\n") >= 10
    assert (tmp_path / "found" / "evaluations.jsonl").read_bytes().startswith(done)
    assert essence(tmp_path / "found") == essence(tmp_path / "undisturbed")
    # The mirror itself has the result, too, and nothing that only drivers need.
    names = {path.split("/")[2] for path in fsspec.filesystem("memory").find(url.removeprefix("memory:/"))}
    assert "result.json" in names
    assert not names & {"lock", "owner.json", "prepared"}


def test_a_mirror_is_looked_at_before_a_search(tmp_path: Path) -> None:
    assert check_mirror(None, where="x.yaml") is None
    assert check_mirror(f"file://{tmp_path}/copies", where="x.yaml") is None
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match=r"x\.yaml: execution\.mirror: nowhere://a: no storage"):
        check_mirror("nowhere://a", where="x.yaml")
    data = {"models": {"base": "a/b", "experts": {"one": "a/c"}}, "benchmark": {"tasks": ["one"]}}
    with pytest.raises(ConfigError, match="a file of SQLite isn't uploaded"):
        Config.from_data({**data, "storage": "sqlite:////x.db", "execution": {"mirror": "s3://a"}})
    with pytest.raises(ConfigError, match="give a URL, such as s3://bucket"):
        Config.from_data({**data, "execution": {"mirror": "/shared/copies"}})
