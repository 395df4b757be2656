"""What SkyPilot's nodes do, run by bash with ray and python replaced by recorders."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from helpers.patience import LONG_S

SCRIPT = Path(__file__).parents[2] / "launch" / "skypilot.sh"

# The head's mark is there while its Ray is up; who asks for its health finds it, as in a real cluster.
RAY = """#!/bin/bash
printf '%s\\n' "$*" >>"$RECORD.$SKYPILOT_NODE_RANK"
case "$*" in
    "start --head"*) touch "$RECORD.up"; trap 'rm -f "$RECORD.up"; exit 0' TERM; while sleep 0.05; do :; done ;;
    "start --block"*) trap 'exit 0' TERM; while sleep 0.05; do :; done ;;
    health-check*) [[ -e $RECORD.up ]] ;;
esac
"""


def node(folder: Path, rank: int, *command: str) -> subprocess.Popen[str]:
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    # Faster than in life, so that the test is.
    for name, text in {
        "ray": RAY,
        "python": "#!/bin/bash\nexit 0\n",
        "sleep": "#!/bin/bash\nexec /bin/sleep 0.05\n",
    }.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return subprocess.Popen(
        ["bash", str(SCRIPT), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={
            "PATH": f"{programs}:{os.environ['PATH']}",
            "RECORD": str(folder / "record"),
            "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
            "SKYPILOT_NUM_NODES": "2",
            "SKYPILOT_NODE_RANK": str(rank),
        },
    )


@pytest.mark.parametrize("status", [0, 7])
def test_the_search_runs_on_the_first_node_and_its_status_is_the_tasks_while_others_end_with_it(
    status: int, tmp_path: Path
) -> None:
    worker = node(tmp_path, 1, "search")
    head = node(tmp_path, 0, "bash", "-c", f'echo "$RAY_ADDRESS searched $1"; sleep 0.3; exit {status}', "x", "a b")
    said, _ = head.communicate(timeout=LONG_S)
    assert "10.0.0.1:6385 searched a b" in said
    assert head.returncode == status
    worker.communicate(timeout=LONG_S)
    assert worker.returncode == 0
    assert not (tmp_path / "record.up").exists(), "no Ray is left behind"
    assert "start --head --block --port=6385" in (tmp_path / "record.0").read_text()
    assert "start --block --address=10.0.0.1:6385" in (tmp_path / "record.1").read_text()
