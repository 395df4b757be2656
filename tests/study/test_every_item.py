"""Runs of releases in which rounding left items out go on with the items that they were begun with."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from evomerge.config.config import Config
from evomerge.files.atomic import read_json, with_checksum, write_json
from evomerge.run.directory import open_run
from evomerge.run.frozen import with_every_item
from evomerge.study.search import resume, search
from helpers.search import Interrupt, write_config, write_task

pytestmark = pytest.mark.slow


def sizes(directory: Path) -> dict[str, int]:
    (task,) = open_run(directory).facts["benchmark"]["tasks"]
    found: dict[str, int] = task["items"]
    return found


def test_a_run_keeps_the_splits_that_it_was_begun_with(tmp_path: Path, tiny_llama: dict[str, Path]) -> None:
    tasks = write_task(tmp_path / "tasks", items=48)
    path = write_config(tmp_path / "x.yaml", tiny_llama, tasks)
    data = yaml.safe_load(path.read_text())
    data["benchmark"]["splits"] = {"search": 0.4, "validation": 0.3, "test": 0.3}
    path.write_text(yaml.safe_dump(data))
    config = Config.from_file(path)
    with pytest.raises(KeyboardInterrupt):
        search(config, tmp_path / "new", observer=Interrupt(2))
    total = sum(sizes(tmp_path / "new").values())
    with pytest.raises(KeyboardInterrupt):
        search(with_every_item(config, False), tmp_path / "old", observer=Interrupt(2))
    assert sizes(tmp_path / "old") == {**sizes(tmp_path / "new"), "test": sizes(tmp_path / "new")["test"] - 1}
    assert total == 48
    # As an earlier release has written it: without a word on it, also in its frozen config.
    run = tmp_path / "old"
    facts = read_json(run / "run.json")
    del facts["config"]["benchmark"]["every_item"]
    write_json(run / "run.json", facts)
    frozen = yaml.safe_load((run / "config.yaml").read_text())
    del frozen["benchmark"]["every_item"]
    text = with_checksum(yaml.safe_dump(frozen, sort_keys=False, allow_unicode=True), "of what stands above")
    (run / "config.yaml").write_text(text)
    for go_on in (lambda: resume(run, observer=Interrupt(1)), lambda: search(config, run, observer=Interrupt(1))):
        with pytest.raises(KeyboardInterrupt):
            go_on()
