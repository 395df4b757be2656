"""The fork server: its workers are as new processes would be, and end as those would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.execute.ray import forkserver
from evomerge.execute.ray.patience import WORKER
from helpers.patience import LONG_S

START = [sys.executable, "-c", forkserver._START]
HASTE = {WORKER: "2"}
"""So that a server has a second."""
SCRIPT = """
import json, os, random, sys, time
seen = {
    "pid": os.getpid(), "parent": os.getppid(), "group": os.getpgid(0), "path": sys.path, "arguments": sys.argv,
    "environment": dict(os.environ), "folder": os.getcwd(), "name": __name__, "file": __file__,
    "main": sys.modules["__main__"].__dict__["__file__"], "open": sorted(map(int, os.listdir("/proc/self/fd")))[:-1],
    "imported": [name in sys.modules for name in ("transformers.modeling_utils", "ray")], "niceness": os.nice(0),
    "random": random.random(),
}
print(json.dumps(seen), flush=True)
print("to the other stream", file=sys.stderr, flush=True)
if sys.argv[1] == "wait":
    time.sleep(600)
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def raylet() -> Iterator[subprocess.Popen[bytes]]:
    """What stands for a raylet: a process that is there."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


@pytest.fixture(scope="module")
def environment(raylet: subprocess.Popen[bytes], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """That of the workers of one raylet, which have a server of their own."""
    path = os.pathsep.join(os.path.abspath(path) for path in sys.path if path)
    own = {
        "PYTHONPATH": path,
        "RAY_RAYLET_PID": str(raylet.pid),
        WORKER: "600",
        "TMPDIR": str(tmp_path_factory.mktemp("t")),
        "OMP_NUM_THREADS": "2",
        "A": "1",
    }
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"} | own


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a worker with an argument as Ray would, by the fork server or a Python of its own."""
    place = Path(environment["TMPDIR"]) / "worker.py"
    started: list[subprocess.Popen[str]] = []

    def run(argument: str, program: list[str] = START, script: str = SCRIPT, **changes: str) -> subprocess.Popen[str]:
        if not place.exists() or place.read_text() != script:  # workers that just started may be reading it
            place.write_text(script)
        process = subprocess.Popen(
            [*program, str(place), argument],
            env=environment | changes,
            cwd=place.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def seen(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    found: dict[str, Any] = json.loads(process.stdout.readline())
    return found


def gone(pid: int) -> bool:
    end = time.monotonic() + LONG_S
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        time.sleep(0.02)
    return not Path(f"/proc/{pid}").exists()


def is_server(pid: int) -> bool:
    return "--serve" in Path(f"/proc/{pid}/cmdline").read_text().split("\0")


def test_a_forked_worker_is_as_a_new_process(start: Callable[..., subprocess.Popen[str]]) -> None:
    plain, forked, another = start("0", [sys.executable]), start("0"), start("0")
    new, one, other = seen(plain), seen(forked), seen(another)
    assert is_server(one["parent"])
    assert one["parent"] == other["parent"]
    assert one["imported"] == [True, False]
    assert new["imported"] == [False, False]
    assert one["group"] == one["pid"] != other["pid"]
    assert one["random"] != other["random"]
    assert one["environment"]["A"] == "1"
    for name in ("path", "arguments", "environment", "folder", "name", "file", "main", "open", "niceness"):
        assert one[name] == new[name], name
    for process in (plain, forked, another):
        assert process.communicate(timeout=LONG_S)[1] == "to the other stream\n"
        assert process.returncode == 0


def test_it_is_reached_in_a_folder_of_a_long_name(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    folder = tmp_path / ("f" * 200)
    folder.mkdir()
    worker = start("0", TMPDIR=str(folder))
    assert is_server(seen(worker)["parent"])
    assert worker.wait(LONG_S) == 0


COMPUTE = """
import os
import numpy as np, torch
torch.set_num_threads(2)
ones = np.ones((1000, 1000), dtype=np.float32)
products = ones @ ones, (torch.ones(1000, 1000) @ torch.ones(1000, 1000)).numpy(), np.linalg.inv(2 * np.eye(400))
print([float(product.sum()) for product in products], flush=True)
os._exit(0)
"""


def test_it_computes_on_several_threads(start: Callable[..., subprocess.Popen[str]]) -> None:
    process = start("0", script=COMPUTE)
    assert process.communicate(timeout=LONG_S)[0] == "[1000000000.0, 1000000000.0, 200.0]\n"


def test_its_end_is_that_of_its_stand_in(start: Callable[..., subprocess.Popen[str]]) -> None:
    failing, killed = start("3"), start("wait")
    assert failing.wait(LONG_S) == 3
    os.kill(seen(killed)["pid"], signal.SIGKILL)
    assert killed.wait(LONG_S) == -signal.SIGKILL


def test_it_ends_with_its_stand_in(start: Callable[..., subprocess.Popen[str]]) -> None:
    one, other = start("wait"), start("wait")
    pid, others = seen(one)["pid"], seen(other)["pid"]
    one.kill()
    assert gone(pid)
    assert Path(f"/proc/{others}").exists()


@pytest.mark.parametrize(
    "kind", ["no raylet", "a folder of others", "no package", "a server that dies", "a server that is slow"]
)
def test_where_it_cannot_be_forked_it_starts_as_ray_would(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, kind: str, environment: dict[str, str]
) -> None:
    folder = tmp_path / f"evomerge-forkservers-{os.getuid()}"
    changes = {"TMPDIR": str(tmp_path)}
    if kind == "no raylet":
        changes["RAY_RAYLET_PID"] = ""
    elif kind == "a folder of others":
        folder.mkdir(mode=0o755)
    elif kind == "no package":
        (tmp_path / "evomerge.py").write_text("raise ImportError")
        changes["PYTHONPATH"] = str(tmp_path)
    else:
        does = "import os; os._exit(1)" if kind == "a server that dies" else "import time; time.sleep(10)"
        (tmp_path / "torch.py").write_text(does)
        changes["PYTHONPATH"] = os.pathsep.join([str(tmp_path), environment["PYTHONPATH"]])
        if kind == "a server that is slow":
            changes |= HASTE
    process = start("4", **changes)
    found = seen(process)
    assert found["pid"] == process.pid
    assert found["environment"].items() >= changes.items()
    assert process.wait(LONG_S) == 4
    # A server that comes up later starts no second one.
    assert process.stdout is not None
    assert process.stdout.read() == ""


def test_a_server_that_was_too_slow_for_one_worker_forks_the_next(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, environment: dict[str, str]
) -> None:
    imports = tmp_path / "imports"
    (tmp_path / "torch.py").write_text(
        f"import time\nopen({str(imports)!r}, 'a').write('one')\ntime.sleep(3)\n"
        "class cuda:\n    _is_in_bad_fork = lambda: False\n"
    )
    changes = {
        "TMPDIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(tmp_path), environment["PYTHONPATH"]]),
    }
    hasty = start("0", **changes, **HASTE)
    assert seen(hasty)["pid"] == hasty.pid
    assert hasty.wait(LONG_S) == 0
    time.sleep(4)  # by then it has looked for the one that has gone
    assert is_server(seen(start("0", **changes))["parent"])
    assert imports.read_text() == "one"


def test_it_is_started_anew_where_cuda_was_asked_before_the_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    assert forkserver._is_sound()
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    assert not forkserver._is_sound()
    monkeypatch.delattr(torch.cuda, "_is_in_bad_fork")
    assert not forkserver._is_sound()


def test_a_server_ends_with_its_raylet_and_leaves_nothing(
    start: Callable[..., subprocess.Popen[str]], environment: dict[str, str], raylet: subprocess.Popen[bytes]
) -> None:
    server = seen(start("0"))["parent"]
    assert is_server(server)
    raylet.kill()
    raylet.wait()
    assert gone(server)
    assert [path.name for path in Path(environment["TMPDIR"]).glob("evomerge-*/*")] == ["lock"]


def test_it_is_asked_for_by_a_command_for_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "a folder" / "python"
    elsewhere.parent.mkdir()
    elsewhere.symlink_to(sys.executable)
    script = tmp_path / "script.py"
    script.write_text("import sys; print(sys.executable, sys.argv[1:])")
    for there in (True, False):
        monkeypatch.setattr(sys, "executable", str(elsewhere))
        command = forkserver.command()
        monkeypatch.undo()
        if not there:
            elsewhere.unlink()
        found = tmp_path / "python3"
        found.unlink(missing_ok=True)
        found.symlink_to(sys.executable)
        done = subprocess.run(
            ["bash", "-c", f"exec {command} {script} 'a b'"],
            env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            text=True,
        )
        assert done.stdout == f"{elsewhere if there else found} ['a b']\n", done.stderr
