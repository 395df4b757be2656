"""What killed processes and damaged disks do to a search: nothing may be lost, and nothing be silently wrong.

    python benchmarks/reliability.py --kills 0 --damage 2000 --json reliability.json

A real search over tiny models, whose answers are computed once and then remembered, so that it can be run thousands of
times, each in a process of its own.

`--kills N`: each call that changes the disk is a moment to be killed, before and after it, and in the middle of each
write. The search is killed there, run again, and compared with an undisturbed one: the same trials, tables and result,
and no file left over. N moments are tried, half of them while the run is created; 0 tries all of them.

`--damage N`: N copies of a run directory, interrupted or finished, each with a file damaged: cut, a bit flipped, lines
foreign, lost, doubled or exchanged, filled with zeros, deleted. Going on must end in the same result, or be refused
with the file's name. What was refused is repaired, as by `evomerge check RUN --repair`, and must then end in the same
result or be refused still.

`--fuzz N`: N damaged, odd and hostile versions of each kind of input file, as in reliability_inputs.py.

`--progress FILE`: write what each kill and each damage did as soon as it is known, and go on from there when the same
command is run again.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import shutil
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from damages import LINES, OTHERS, damages
from evomerge.errors import EvomergeError
from evomerge.run.repair import repair
from evomerge.study.search import resume, search
from evomerge.testing.runs import essence
from moments import Moments
from progress import Progress
from reliability_inputs import fuzz, line
from remembered import Remembered

KNOWN_FILES = {*LINES, *OTHERS, "prepared"}
CREATED_AFTER = 60
"""Moments after which a run has been created."""


def main() -> None:
    """Try kills and damages, print tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, metavar="N", help="moments to be killed at; 0: all of them")
    parser.add_argument("--damage", type=int, metavar="N", help="damaged directories")
    parser.add_argument("--fuzz", type=int, metavar="N", help="damaged and hostile input files of each kind")
    parser.add_argument("--evaluations", type=int, default=40, help="candidates of the search")
    parser.add_argument("--block", type=int, help="answer the search items in blocks of so many")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop each of them after so long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--progress", type=Path, metavar="FILE", help="JSON lines from which a stopped run goes on")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    progress = Progress(options.progress, {name: getattr(options, name) for name in ("evaluations", "block", "seed")})
    found: dict[str, Any] = {}
    if options.fuzz is not None:
        found["fuzz"] = []
        for row in fuzz(seconds=options.seconds, most=options.fuzz, seed=options.seed):
            print(line(row), flush=True)
            found["fuzz"].append(row)
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        case = Remembered(Path(folder), evaluations=options.evaluations, block=options.block)
        if options.kills is not None:
            found["kills"] = try_kills(case, options.kills, options.seconds, progress)
            print(table("killed and run again", found["kills"]), flush=True)
        if options.damage is not None:
            found["damage"] = try_damage(case, options.damage, options.seconds, options.seed, progress)
            print(table("damaged", found["damage"]), flush=True)
    if options.json is not None:
        settings = {name: value for name, value in vars(options).items() if name not in {"json", "progress"}}
        options.json.write_text(json.dumps({**settings, **found}, indent=2, default=str) + "\n")


def try_kills(case: Remembered, limit: int, seconds: float, progress: Progress) -> dict[str, Any]:
    """Kill a search at its moments, run it again, and compare."""
    directory, log = case.folder / "killed", case.folder / "moments"

    def count() -> None:
        moments = Moments()
        search(case.config, directory)
        log.write_text("\n".join(moments.seen))

    def kill(number: int) -> dict[str, str]:
        shutil.rmtree(directory, ignore_errors=True)
        _forked(lambda: (Moments(die_at=number), search(case.config, directory)))
        outcome, words = _forked(lambda: _going_on(case, directory, resumed=False))
        left = sorted({entry.name for entry in directory.iterdir()} - KNOWN_FILES) if directory.exists() else []
        if outcome == "same" and left:
            outcome, words = "left over", ", ".join(left)
        return {"outcome": outcome, "words": words}

    _forked(count)
    moments = log.read_text().split("\n")
    # While a run is created every file of it comes into being, so half of the moments are taken from there.
    start = min(len(moments), limit // 2, CREATED_AFTER)
    step = max(1, (len(moments) - start) // (limit - start)) if limit else 1
    chosen = [*range(1, start + 1), *range(start + 1, len(moments) + 1, step)]
    outcomes: Counter[str] = Counter()
    wrong, began = [], time.monotonic()
    for number in chosen:
        row = progress.get(f"kill {number}")
        if row is None:
            if time.monotonic() - began > seconds:
                break
            row = progress.add(f"kill {number}", {"moment": number, "call": moments[number - 1], **kill(number)})
        outcomes[row["outcome"]] += 1
        if row["outcome"] != "same":
            wrong.append(row)
    return {"moments": len(moments), "tried": sum(outcomes.values()), "outcomes": dict(outcomes), "wrong": wrong}


def try_damage(case: Remembered, number: int, seconds: float, seed: int, progress: Progress) -> dict[str, Any]:
    """Damage copies of run directories, go on, repair what is refused, and compare."""
    outcomes: Counter[str] = Counter()
    repaired: Counter[str] = Counter()
    wrong, began = [], time.monotonic()
    for index in range(number):
        row = progress.get(f"damage {index}")
        if row is None:
            if time.monotonic() - began > seconds:
                break
            # Drawn by itself, so that it is the same one in a run that goes on from here.
            row = progress.add(f"damage {index}", _damage(case, random.Random(f"{seed} {index}")))
        outcomes[row["outcome"]] += 1
        if "repaired" in row:
            repaired[row["repaired"]] += 1
        if row["outcome"] not in {"same", "refused"} or row.get("repaired", "same") not in {"same", "refused"}:
            wrong.append(row)
    return {"tried": sum(outcomes.values()), "outcomes": dict(outcomes), "repaired": dict(repaired), "wrong": wrong}


def _damage(case: Remembered, generator: random.Random) -> dict[str, Any]:
    """Damage a copy of a run directory in a way that is drawn, and tell what came of it."""
    state = "finished" if generator.random() < 0.3 else "interrupted"
    source = {"interrupted": case.interrupted, "finished": case.finished}[state]
    damage, resumed = next(damages(source, generator)), generator.random() < 0.5
    directory = case.folder / "damaged"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(source, directory)
    if damage.data is None:
        (directory / damage.file).unlink()
    else:
        (directory / damage.file).write_bytes(damage.data)
    outcome, words = _forked(lambda: _going_on(case, directory, resumed=resumed))
    if outcome == "refused" and damage.file not in words:
        outcome = "refused without the file's name"
    row = {"run": state, "resumed": resumed, **damage._asdict(), "outcome": outcome, "words": words}
    del row["data"]
    if outcome.startswith("refused"):
        row["repaired"], more = _forked(lambda: _repaired(case, directory, resumed=resumed))
        row["words"] = f"{words} | {more}"
    return row


def _going_on(case: Remembered, directory: Path, *, resumed: bool) -> tuple[str, str]:
    """What becomes of a run directory when its search is run again: a word, and more words."""
    try:
        if resumed:
            resume(directory)
        else:
            search(case.config, directory)
    except EvomergeError as error:
        return "refused", str(error)
    except Exception:
        return "traceback", traceback.format_exc()
    try:
        found = essence(directory)
    except EvomergeError as error:
        return "found only when read", str(error)
    except Exception:
        return "traceback when read", traceback.format_exc()
    keys = [key for key in case.right if found[key] != case.right[key]]
    return ("different", f"other {', '.join(keys)}") if keys else ("same", "")


def _repaired(case: Remembered, directory: Path, *, resumed: bool) -> tuple[str, str]:
    """What becomes of it when it is repaired first."""
    try:
        told = repair(directory)
    except EvomergeError as error:
        return "refused", str(error)
    except Exception:
        return "traceback", traceback.format_exc()
    outcome, words = _going_on(case, directory, resumed=resumed)
    return outcome, f"{told} | {words}"


def _forked(work: Callable[[], Any]) -> Any:
    """What `work` returns in a process of its own; ("died", "") if it doesn't return."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        try:
            answer = pickle.dumps(work())
        except BaseException:
            answer = pickle.dumps(("traceback", traceback.format_exc()))
        os.write(write, answer)
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return pickle.loads(answer) if answer else ("died", "")


def table(title: str, found: dict[str, Any]) -> str:
    """The outcomes as text, and the first of those that aren't right."""
    of = f" of {found['moments']} moments" if "moments" in found else ""
    lines = [f"{title}: {found['tried']}{of}"]
    lines += [f"  {count:6} {outcome}" for outcome, count in sorted(found["outcomes"].items())]
    lines += [
        f"  {count:6} of the refused, repaired: {outcome}" for outcome, count in found.get("repaired", {}).items()
    ]
    lines += ["  " + json.dumps(row, default=str)[:400] for row in found["wrong"][:20]]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
