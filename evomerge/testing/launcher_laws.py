"""Laws that every launcher keeps, for the launchers here and for those of other packages."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from evomerge.config.config import Config
from evomerge.errors import ConfigError
from evomerge.files.places import YAML_ENDS
from evomerge.launch.base import WAIT_S, Job, Launcher, Plan, options_of
from evomerge.testing.expecting import refused


def check_launcher(launcher: type[Launcher], folder: Path, options: Mapping[str, Any], run: str) -> Plan:
    """Plan one small experiment and hold the plan to the laws.

    Args:
        launcher: to be checked.
        folder: empty; an experiment is made there.
        options: that the launcher can't do without.
        run: a run directory that these options allow.

    Returns: the plan, for what is special to the launcher.
    Raises: AssertionError.
    """
    config = _experiment(folder / "an experiment")
    before = _contents(folder)
    job = Job(
        config=config,
        experiment=Config.from_file(config),
        run=run,
        folder=folder / "made",
        options=options_of(launcher, options),
    )
    plan = launcher().plan(job)
    assert _contents(folder) == before, "planning writes nothing"
    assert launcher.name
    assert launcher.summary
    assert "\n" not in launcher.summary
    _check_files(plan, config)
    assert plan.commands, "something has to be run"
    assert all(command and all(isinstance(word, str) for word in command) for command in plan.commands)
    _check_search(plan, job)
    words = f"launch {launcher.name}: unknown option '--no-such-thing'"
    refused(ConfigError, words, options_of, launcher, {"no_such_thing": "1"})
    return plan


def _experiment(folder: Path) -> Path:
    """A config with a task folder beside it, and beside both what nobody should upload."""
    for place in ("tasks", "runs/old"):
        (folder / place).mkdir(parents=True)
    (folder / "tasks" / "one.yaml").write_text("task: one\n")
    (folder / "runs" / "old" / "evaluations.jsonl").write_text("{}\n")
    (folder / "tasks" / "weights.safetensors").write_bytes(b"0")
    config = folder / "my search.yaml"
    models = {"base": "owner/base", "experts": {"one": "owner/one"}}
    benchmark = {"tasks": ["one"], "include_path": "tasks"}
    config.write_text(yaml.safe_dump({"models": models, "benchmark": benchmark}))
    return config


def _contents(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def _check_files(plan: Plan, config: Path) -> None:
    """Files stay in their folder, can be read, and are the experiment's own or text."""
    for name, content in plan.files.items():
        place = PurePosixPath(name)
        assert not place.is_absolute()
        assert ".." not in place.parts
        if isinstance(content, Path):
            assert content.is_file()
            assert content.suffix != ".safetensors"
            assert "runs" not in content.relative_to(config.parent).parts
        elif place.name.endswith(YAML_ENDS):
            assert list(yaml.safe_load_all(content))


def _check_search(plan: Plan, job: Job) -> None:
    """The search is started by a file or command, waits for another's lock, and keeps names of several words whole."""
    texts = [content for content in plan.files.values() if isinstance(content, str)]
    words = [word for command in plan.commands for word in command]
    everything = "\n".join((*texts, *words, shlex.join(words)))
    assert "evomerge search" in everything
    assert f"--wait {WAIT_S}" in everything
    assert job.run in words or shlex.quote(job.run) in everything
    assert "my search.yaml" in everything
    assert job.name in everything
