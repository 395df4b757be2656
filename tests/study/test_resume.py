"""A search that is interrupted, killed or spread over workers ends with the same trials and winner."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from evomerge.config.config import Config
from evomerge.run.observer import SilentObserver
from evomerge.run.records import TrialRecord
from evomerge.study.search import resume, search
from helpers.search import Count, Interrupt, changed, essence, kill_after_lines, start, write_config


@pytest.mark.parametrize("after", [1, 6, 13, 31, 37, 40])
def test_an_interrupted_search_continues_to_the_same_trials_and_winner(
    tmp_path: Path, config: Config, undisturbed: Path, after: int
) -> None:
    directory = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        search(config, directory, observer=Interrupt(after))
    count = Count()
    resume(directory, observer=count)
    assert essence(directory) == essence(undisturbed)
    assert len(count.evaluated) == len(essence(undisturbed)["tables"]) - after


@pytest.mark.slow
def test_a_driver_killed_at_random_moments_loses_nothing(tmp_path: Path, config_file: Path, undisturbed: Path) -> None:
    directory = tmp_path / "run"
    moments = sorted(random.Random(4).sample(range(2, 38), 3))
    for lines in moments:
        process = start(config_file, directory)
        kill_after_lines(process, directory / "evaluations.jsonl", lines)
        assert process.returncode == -signal.SIGKILL
    before = (directory / "evaluations.jsonl").read_bytes().rpartition(b"\n")[0]
    resume(directory)
    assert (directory / "evaluations.jsonl").read_bytes().startswith(before)
    assert essence(directory) == essence(undisturbed)


@pytest.mark.slow
@pytest.mark.ray
def test_ray_with_any_number_of_workers_gives_the_inline_trials(
    tmp_path: Path, config: Config, undisturbed: Path
) -> None:
    for workers in (1, 2, 4):
        directory = tmp_path / f"ray-{workers}"
        search(changed(config, execution={"backend": "ray", "workers": workers, "cpus_per_worker": 0.5}), directory)
        assert essence(directory) == essence(undisturbed)


@pytest.mark.slow
@pytest.mark.ray
def test_a_killed_ray_driver_and_a_killed_worker_change_nothing(
    tmp_path: Path, tiny_llama: dict[str, Path], tasks: Path, undisturbed: Path
) -> None:
    file = write_config(
        tmp_path / "ray.yaml",
        tiny_llama,
        tasks,
        execution={"backend": "ray", "workers": 2, "cpus_per_worker": 1, "dtype": "float32"},
    )
    directory = tmp_path / "run"
    process = start(file, directory)
    kill_after_lines(process, directory / "evaluations.jsonl", 17)
    assert process.returncode == -signal.SIGKILL

    class KillAWorker(SilentObserver):
        done = False

        def trial(self, record: TrialRecord) -> None:
            if not self.done:
                self.done = True
                victims = worker_processes()
                assert victims
                os.kill(victims[0], signal.SIGKILL)

    resume(directory, observer=KillAWorker())
    assert essence(directory) == essence(undisturbed)


def worker_processes() -> list[int]:
    """Ray actors that are descendants of this process."""
    parents: dict[int, int] = {}
    titles: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
                titles[int(entry.name)] = (entry / "cmdline").read_text()
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])

    def is_ours(pid: int) -> bool:
        while pid > 1:
            if pid == os.getpid():
                return True
            pid = parents.get(pid, 0)
        return False

    return [pid for pid, title in titles.items() if title.startswith("ray::_Process") and is_ours(pid)]
