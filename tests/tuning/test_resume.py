"""A tuning that is killed goes on to the weights of one that was left alone, and is never mixed with another."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

import evomerge
from evomerge.errors import LockedError, ResumeError, TuningError
from evomerge.testing.models import tiny_checkpoint
from evomerge.tuning.training import Step
from helpers.commands import run as command
from helpers.tuning import equal, killed, tensors, write_rows

pytestmark = pytest.mark.slow

SETTINGS = {"steps": 12, "learning_rate": 3e-3, "length": 32, "batch": 4, "save_every": 1}


class StoppedError(Exception):
    pass


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("resumed") / "base", "llama", attention_dropout=0.2)


def stop_after(step: int) -> object:
    def stop(found: Step) -> None:
        if found.step == step and found.validation is None:
            raise StoppedError

    return stop


@pytest.mark.parametrize("adapter", [[], ["--lora-rank", "2"]])
def test_a_killed_process_goes_on_to_the_same_weights(tmp_path: Path, base: Path, adapter: list[str]) -> None:
    rows = write_rows(tmp_path / "rows.jsonl")
    told = [
        "tune", str(base), "--data", rows.name, "--steps", "12", "--learning-rate", "3e-3", "--length", "32",
        "--batch", "4", *adapter,
    ]  # fmt: skip
    done = command([*told, "--out", "undisturbed"], tmp_path)
    assert done.returncode == 0, done.stderr
    broken = [*told, "--save-every", "1", "--out", "broken"]
    killed(broken, tmp_path, "broken.tuning/checkpoint-3/whole")
    killed(broken, tmp_path, "broken.tuning/checkpoint-7/*")
    assert not (tmp_path / "broken").exists()
    again = command(broken, tmp_path)
    assert again.returncode == 0, again.stderr
    assert "step 1/12" not in again.stdout
    if adapter:
        names = [path.name for path in (tmp_path / "broken").iterdir()]
        assert sorted(names) == sorted(path.name for path in (tmp_path / "undisturbed").iterdir())
        one, two = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("undisturbed", "broken"))
        assert one == two
    else:
        assert equal(tensors(tmp_path / "undisturbed"), tensors(tmp_path / "broken"))
    assert not (tmp_path / "broken.tuning").exists()


@pytest.mark.parametrize("step", [1, 4, 11])
def test_a_tuning_that_is_broken_off_at_any_step_ends_the_same(tmp_path: Path, base: Path, step: int) -> None:
    rows = write_rows(tmp_path / "rows.jsonl")
    whole = evomerge.tune(base, rows, tmp_path / "whole", **{**SETTINGS, "save_every": None})
    with pytest.raises(StoppedError):
        evomerge.tune(base, rows, tmp_path / "broken", progress=stop_after(step), **SETTINGS)
    broken = evomerge.tune(base, rows, tmp_path / "broken", **SETTINGS)
    assert equal(tensors(whole.folder), tensors(broken.folder))
    assert whole.measures == broken.measures
    assert whole.losses == broken.losses


def test_a_torn_checkpoint_is_left_out(tmp_path: Path, base: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl")
    with pytest.raises(StoppedError):
        evomerge.tune(base, rows, tmp_path / "out", progress=stop_after(6), **SETTINGS)
    (whole,) = (tmp_path / "out.tuning").glob("checkpoint-*")
    assert whole.name == "checkpoint-5"
    torn = tmp_path / "out.tuning" / "checkpoint-6"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half")
    undisturbed = evomerge.tune(base, rows, tmp_path / "whole", **SETTINGS)
    assert equal(tensors(evomerge.tune(base, rows, tmp_path / "out", **SETTINGS).folder), tensors(undisturbed.folder))


def test_another_tuning_does_not_go_on_with_the_checkpoints_of_this_one(tmp_path: Path, base: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl")
    with pytest.raises(StoppedError):
        evomerge.tune(base, rows, tmp_path / "out", progress=stop_after(3), **SETTINGS)
    with pytest.raises(ResumeError, match=r"settings\.learning_rate \(0\.003 then, 0\.004 now\)"):
        evomerge.tune(base, rows, tmp_path / "out", **{**SETTINGS, "learning_rate": 4e-3})
    write_rows(rows, start=100)
    with pytest.raises(ResumeError, match=r"the content of data/0/rows\.jsonl has changed"):
        evomerge.tune(base, rows, tmp_path / "out", **SETTINGS)


def test_only_one_process_tunes_into_a_folder(tmp_path: Path, base: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "out.tuning").mkdir()
    with (tmp_path / "out.tuning" / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(LockedError, match="another process is tuning there"):
            evomerge.tune(base, rows, tmp_path / "out", **SETTINGS)


def test_a_file_system_without_locks_is_not_taken_for_another_process(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    rows = write_rows(tmp_path / "rows.jsonl")
    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(TuningError, match="the file system has no locks"):
        evomerge.tune(base, rows, tmp_path / "out", **SETTINGS)
