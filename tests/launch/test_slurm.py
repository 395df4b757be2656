"""The Slurm batch script, run by bash with srun, scontrol and ray replaced by recorders."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from evomerge.errors import ConfigError
from evomerge.launch import slurm
from evomerge.launch.slurm import with_directives
from helpers.patience import LONG_S, until

SCRIPT = Path(__file__).parents[2] / "launch" / "slurm.sbatch"

RECORD = """#!/bin/bash
printf '%s' "${0##*/}" >>"$RECORD"
printf '\\t%s' "$@" >>"$RECORD"
printf '\\n' >>"$RECORD"
"""
# As the real ones: srun runs its command; ray runs what stands behind "--"; the search is under our control.
PROGRAMS = {
    "srun": RECORD + 'while [[ $1 == --* ]]; do shift; done\n"$@"\n',
    "ray": RECORD + 'while [[ $1 != -- ]]; do shift; done\nshift\n"$@"\n',
    "scontrol": RECORD,
    "hostname": "#!/bin/bash\necho '192.0.2.7 198.51.100.1 '\n",
    # `python -c` asks whether the run has ended, `python -m evomerge` searches.
    "python": '[[ $1 != -c ]] || exit "$NOT_ENDED"\n'
    + RECORD
    + 'printf "env\\t%s\\t%s\\t%s\\t%s\\n" "$RAY_ADDRESS" "${#RAY_AUTH_TOKEN}" '
    '"$RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT" "$RAY_worker_register_timeout_seconds" >>"$RECORD"\n'
    'for _ in $(seq "$STEPS"); do sleep 0.1; done\nexit "$STATUS"\n',
}


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in PROGRAMS.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)

    def run(*arguments: str, steps: int = 0, status: int = 0, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(SCRIPT), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=tmp_path,
            env={
                "PATH": f"{programs}:{os.environ['PATH']}",
                "RECORD": str(tmp_path / "record"),
                "STEPS": str(steps),
                "STATUS": str(status),
                "NOT_ENDED": "0",
                "SLURM_JOB_ID": "123456",
                "SLURM_JOB_NUM_NODES": "3",
                "SLURM_CPUS_PER_TASK": "16",
                **environment,
            },
        )

    return run


def record(folder: Path) -> list[list[str]]:
    return [line.split("\t") for line in (folder / "record").read_text().splitlines()]


def test_one_cluster_over_all_nodes_runs_the_search_with_paths_kept_whole(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    config = tmp_path / "my 'first' search.yaml"
    config.touch()
    batch = start(str(config), "runs/a b")
    output, _ = batch.communicate(timeout=LONG_S)
    assert batch.returncode == 0, output
    srun, ray, search, environment = record(tmp_path)
    assert srun[:5] == ["srun", "--nodes=3", "--ntasks=3", "--ntasks-per-node=1", "--cpus-per-task=16"]
    assert srun[5:7] == ["--export=ALL", "--kill-on-bad-exit=1"]
    assert ray[1:6] == ["symmetric-run", "--address", "192.0.2.7:23456", "--min-nodes", "3"]
    assert ray[6:8] == ["--num-cpus=16", "--"]
    assert search == ["python", "-m", "evomerge", "search", str(config), "--run", "runs/a b", "--wait", "300"]
    assert environment == ["env", "192.0.2.7:23456", "64", "900", "300"]


def test_the_options_are_those_that_ray_symmetric_run_takes(tmp_path: Path) -> None:
    ray = shutil.which("ray")
    if ray is None:
        pytest.skip("no ray command on the path")
    text = subprocess.run([ray, "symmetric-run", "--help"], capture_output=True, text=True, check=True).stdout
    assert "--address TEXT" in text
    assert "--min-nodes INTEGER" in text
    assert "--num-cpus=4 --" in text


def test_the_address_of_another_network_can_be_given(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").touch()
    start("c.yaml", "run", EVOMERGE_HEAD_IP="10.1.2.3").communicate(timeout=LONG_S)
    assert record(tmp_path)[-1][1] == "10.1.2.3:23456"


def test_a_failed_search_fails_the_job_and_is_not_requeued(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").touch()
    batch = start("c.yaml", "run", status=7)
    batch.communicate(timeout=LONG_S)
    assert batch.returncode == 7
    assert "scontrol" not in [line[0] for line in record(tmp_path)]


def test_a_step_that_ends_well_without_a_result_fails_the_job(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").touch()
    batch = start("c.yaml", "run", NOT_ENDED="1")
    output, _ = batch.communicate(timeout=LONG_S)
    assert batch.returncode == 1
    assert "run has no result for the budget asked for" in output


def test_the_time_limit_signal_requeues_the_job_once_and_lets_the_step_end(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").touch()
    batch = start("c.yaml", "run", steps=15, status=143)
    until(lambda: (tmp_path / "record").exists() and "env" in (tmp_path / "record").read_text())
    batch.send_signal(signal.SIGUSR1)
    output, _ = batch.communicate(timeout=LONG_S)
    assert "job 123456 goes back into the queue and will continue run" in output
    assert record(tmp_path)[-1] == ["scontrol", "requeue", "123456"]
    assert batch.returncode == 143


def test_a_restart_says_so(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").touch()
    output, _ = start("c.yaml", "run", SLURM_RESTART_COUNT="2").communicate(timeout=LONG_S)
    assert "start number 3 of job 123456" in output


def test_a_requeue_that_is_refused_is_said(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").touch()
    batch = start("c.yaml", "run", steps=10)
    (tmp_path / "bin" / "scontrol").write_text("#!/bin/bash\nexit 1\n")
    until(lambda: (tmp_path / "record").exists() and "env" in (tmp_path / "record").read_text())
    batch.send_signal(signal.SIGUSR1)
    output, _ = batch.communicate(timeout=LONG_S)
    assert "the job can't be requeued here; submit it again to continue run" in output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [((), "usage: sbatch"), (("c.yaml",), "usage: sbatch"), (("absent.yaml", "run"), "absent.yaml: no such file")],
)
def test_wrong_arguments_are_refused_before_anything_starts(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    batch = start(*arguments)
    output, _ = batch.communicate(timeout=LONG_S)
    assert batch.returncode == 2
    assert said in output
    assert not (tmp_path / "record").exists()


def test_the_written_script_has_the_jobs_lines_and_the_rest_as_shipped() -> None:
    shipped = SCRIPT.read_text()
    changed = with_directives(shipped, {"nodes": "4", "gpus-per-node": None, "partition": "big"})
    before, after = set(shipped.splitlines()), set(changed.splitlines())
    assert after - before == {"#SBATCH --nodes=4", "#SBATCH --partition=big"}
    assert before - after == {"#SBATCH --nodes=1", "#SBATCH --gpus-per-node=1"}
    assert changed.index("--partition") < changed.index("set -euo pipefail"), "Slurm reads up to the first command"


@pytest.mark.parametrize(("release", "nodes", "fits"), [("2.53.1", 2, False), ("2.53.1", 1, True), ("2.54.0", 9, True)])
def test_several_nodes_need_a_ray_that_waits_for_its_head(
    release: str, nodes: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "version", lambda name: release)
    with nullcontext() if fits else pytest.raises(ConfigError, match=r"need Ray 2\.54 or later"):
        slurm._check_ray(nodes)


def test_shellcheck_has_nothing_to_say() -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck isn't installed")
    scripts = [SCRIPT, SCRIPT.with_name("skypilot.sh")]
    done = subprocess.run([shellcheck, *map(str, scripts)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
