"""One machine and one worker need no Ray, not even to be installed; what does need it says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from helpers.commands import run
from helpers.search import write_config, write_task

pytestmark = pytest.mark.slow


def evomerge(*arguments: object) -> CompletedProcess[str]:
    return run(arguments, script=Path(__file__).with_name("without_ray.py"))


@pytest.fixture(scope="module")
def config(tiny_llama: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("without")
    short = {"evaluations": 4, "population": 2, "scan": 1, "shortlist": 1}
    execution = {"backend": "auto", "device": "cpu"}
    return write_config(folder / "c.yaml", tiny_llama, write_task(folder / "tasks"), search=short, execution=execution)


def test_the_package_is_imported_without_ray() -> None:
    code = (
        "import sys; sys.modules['ray'] = None; import evomerge; [getattr(evomerge, name) for name in evomerge.__all__]"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_a_search_by_one_worker_goes_to_its_export_without_ray(config: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    for arguments in (
        ("check", config),
        ("search", config, "--run", directory),
        ("status", directory),
        ("export", directory, tmp_path / "merged"),
    ):
        done = evomerge(*arguments)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "merged" / "config.json").exists()


def test_workers_on_ray_are_refused_with_the_remedy_before_anything_is_written(config: Path, tmp_path: Path) -> None:
    done = evomerge("search", config, "--run", tmp_path / "run", "--set", "execution.workers=2")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "Error: execution: its backend, workers, GPUs or ray_address ask for workers on Ray, but the package ray can't "
        "be imported (import of ray halted; None in sys.modules); install it: pip install ray. Without it, backend: "
        "inline has one worker, on this machine"
    )
    assert not (tmp_path / "run" / "run.json").exists()
