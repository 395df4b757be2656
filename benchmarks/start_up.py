"""Seconds until `evomerge search` shows something, and until its first candidate is scored.

    evomerge demo DIR --small
    python benchmarks/start_up.py DIR/config.yaml --repeats 3

The search runs in a process of its own, which is stopped when its first evaluation is on disk. Seconds are by the clock
and of the processor; the disk is warm after the first run, which isn't counted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    """Measure, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    runs = [measure(options.config) for _ in range(options.repeats + 1)][1:]
    shown, scored, processor = (statistics.median(column) for column in zip(*runs, strict=True))
    print(f"load {os.getloadavg()[0]:.1f}: first output after {shown:.2f} s, ", end="")
    print(f"first candidate scored after {scored:.2f} s, {processor:.2f} s of the processor")


def measure(config: Path) -> tuple[float, float, float]:
    """Seconds to the first output and to the first evaluation, and of the processor until then."""
    with tempfile.TemporaryDirectory() as folder:
        run, output = Path(folder) / "run", Path(folder) / "output"
        command = [sys.executable, "-m", "evomerge", "search", str(config), "--run", str(run)]
        shown = None
        start = time.perf_counter()
        with output.open("wb") as stream, subprocess.Popen(command, stdout=stream, stderr=stream) as child:
            while child.poll() is None and not size(run / "evaluations.jsonl"):
                time.sleep(0.005)
                if shown is None and size(output):
                    shown = time.perf_counter() - start
            scored = time.perf_counter() - start
            if child.returncode is not None:
                sys.exit(output.read_text())
            fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
            child.kill()
        assert shown is not None
        return shown, scored, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def size(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


if __name__ == "__main__":
    main()
