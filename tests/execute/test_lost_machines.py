"""Machines that join a cluster of Ray's, are announced to be taken away, are lost, or have no memory: really so."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from evomerge.config.config import Config
from evomerge.execute.base import LostWorker, WorkerSettings
from evomerge.run.directory import open_run
from evomerge.study.search import search
from evomerge.testing.runs import essence
from helpers.commands import run
from helpers.patience import UNHURRIED
from helpers.search import write_config, write_task
from helpers.worker import job

pytestmark = pytest.mark.ray


@pytest.mark.slow
def test_a_machine_that_joins_takes_part_and_one_that_is_lost_loses_nothing(tiny_llama: dict[str, Path]) -> None:
    script = Path(__file__).with_name("growing_cluster.py")
    done = run([tiny_llama["base"].parent], script=script, variables=UNHURRIED)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["numbers"] == list(range(len(found["numbers"])))
    assert found["seen"] == 2
    assert found["workers"] == [1, 2, 1]


def disturbed(
    script: str, execution: dict[str, Any], models: dict[str, Path], folder: Path, *, items: int = 24
) -> tuple[dict[str, Any], str]:
    """Run a script's search, which must end as an undisturbed one; what it found, and what was said meanwhile."""
    tasks = write_task(folder / "tasks", items=items)
    config = write_config(folder / "c.yaml", models, tasks, execution={"backend": "ray", "device": "cpu", **execution})
    done = run(
        [config, folder / "run"],
        script=Path(__file__).with_name(script),
        variables=UNHURRIED,
    )
    assert done.returncode == 0, done.stderr
    inline = write_config(folder / "i.yaml", models, tasks, execution={"device": "cpu"})
    search(Config.from_file(inline), folder / "undisturbed")
    assert essence(folder / "run") == essence(folder / "undisturbed")
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.slow
def test_a_search_whose_machines_are_taken_away_ends_as_an_undisturbed_one(
    tiny_llama: dict[str, Path], tmp_path: Path
) -> None:
    # With no retries, a worker lost by its candidate's own fault would be a failure.
    found, said = disturbed("draining_cluster.py", {"workers": 3, "retries": 0}, tiny_llama, tmp_path)
    assert f"({found['killed']}) went with its machine, which is taken away; starting another" in said
    assert f"({found['left']}): its machine is taken away; starting it elsewhere" in said
    assert found["gone"]
    assert open_run(tmp_path / "run").status().lost_workers == {"preempted": 1}


@pytest.mark.slow
def test_a_search_on_machines_that_run_out_of_memory_ends_as_an_undisturbed_one(
    tiny_llama: dict[str, Path], tmp_path: Path
) -> None:
    found, said = disturbed("starved_cluster.py", {"workers": 2, "retries": 5}, tiny_llama, tmp_path)
    out_of_memory = "was ended by Ray, since its machine ran out of memory"
    assert f"could not be started: its process {out_of_memory}, 3 times while starting; going on with 1" in said
    assert f"({found['killed']}) {out_of_memory}; starting another" in said
    assert list(open_run(tmp_path / "run").status().lost_workers) == ["out_of_memory"]
    assert found["full"].startswith("the huge items don't fit into Ray's object store on this machine, and its disk is")


@pytest.mark.slow
def test_a_search_with_a_machine_that_has_no_room_for_answers_ends_as_an_undisturbed_one(
    tiny_llama: dict[str, Path], tmp_path: Path
) -> None:
    found, said = disturbed("full_cluster.py", {"workers": 2, "retries": 0}, tiny_llama, tmp_path, items=300)
    assert found["arrays"] > 70
    full = "is ended, since Ray's object store on its machine and the disk behind it are full"
    assert f"({found['full']}) {full}; starting another" in said
    assert list(open_run(tmp_path / "run").status().lost_workers) == ["store_full"]


@pytest.mark.slow
def test_a_search_whose_own_machine_has_no_room_for_answers_says_so_and_goes_on_with_room(
    tiny_llama: dict[str, Path], tmp_path: Path
) -> None:
    found, _ = disturbed("full_driver.py", {"workers": 1}, tiny_llama, tmp_path, items=300)
    assert found["arrays"] > 70
    assert found["said"].startswith("answers don't fit into Ray's object store on this machine, and its disk is full")
    assert open_run(tmp_path / "run").status().lost_workers == {}


@pytest.mark.parametrize(
    "lacking", ["_private.state", "_private.state.GlobalState.get_draining_nodes", "_private.worker"]
)
def test_a_ray_that_lacks_what_it_does_not_promise_is_no_error(monkeypatch: pytest.MonkeyPatch, lacking: str) -> None:
    from evomerge.execute.ray.private import draining_nodes, listen_patiently, say_nothing_of_workers

    monkeypatch.delattr(f"ray.{lacking}")
    say_nothing_of_workers()
    listen_patiently()
    if "state" in lacking:
        assert draining_nodes() == set()


@pytest.mark.parametrize("lacking", ["module", "kind of death", "reason", "key"])
def test_a_machine_is_lost_where_ray_does_not_tell_that_it_was_taken_away(
    monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    import ray
    from ray.core.generated import common_pb2

    from evomerge.execute.ray.cluster import is_preempted
    from evomerge.execute.ray.private import draining_nodes

    node = {"NodeID": "gone", "DeathReason": common_pb2.NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED}
    monkeypatch.setattr(ray, "nodes", lambda: [node])
    monkeypatch.setattr(f"{is_preempted.__module__}.{draining_nodes.__name__}", set)
    assert is_preempted("gone")
    assert not is_preempted("another")
    if lacking == "module":
        monkeypatch.setitem(sys.modules, "ray.core.generated.common_pb2", None)
    elif lacking == "kind of death":
        monkeypatch.delattr(common_pb2, "NodeDeathInfo")
    elif lacking == "reason":
        monkeypatch.setattr(common_pb2, "NodeDeathInfo", object())
    else:
        del node["DeathReason"]
    assert not is_preempted("gone")


def test_a_worker_that_went_with_its_machine_is_not_held_against_its_candidate(settings: WorkerSettings) -> None:
    from evomerge.execute.ray.slots import Attempt, Death

    attempt = Attempt(job(settings, 0, 0.5), deaths=[Death("lost"), Death("here", "out_of_memory"), Death("there")])
    left = {"here", "there", "another"}
    assert attempt.lost_workers(left) == ("machine_lost", "out_of_memory", "worker_died")
    assert attempt.may_go_on(left, retries=2)
    assert not attempt.may_go_on(left, retries=1)
    assert attempt.may_go_on({"here"}, retries=1)
    attempt.deaths += [Death("lost")] * 20
    assert not attempt.may_go_on({"here"}, retries=1)


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        ("preempted", "use machines that stay for longer than a candidate"),
        ("store_full", "or start Ray with more --object-store-memory there"),
    ],
)
def test_a_candidate_that_no_machine_does_for_is_given_up_in_the_end(
    settings: WorkerSettings, reason: LostWorker, remedy: str
) -> None:
    from evomerge.execute.ray.slots import Attempt, Death

    attempt = Attempt(job(settings, 0, 0.5), deaths=[Death("here", reason)] * 20)
    assert attempt.lost_workers({"here"}) == attempt.lost_workers(set()) == (reason,) * 20
    assert attempt.may_go_on({"here"}, retries=0)
    attempt.deaths.append(Death("here", reason))
    assert not attempt.may_go_on({"here"}, retries=0)
    given_up = attempt.given_up("there:1", {"here"})
    assert given_up.reason == reason
    assert remedy in given_up.message
