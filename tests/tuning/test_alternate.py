"""Rounds of tuning and merging: gradient descent where each is a step, continued anywhere, merged as `merge` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import evomerge
from evomerge.errors import ConfigError, EvomergeError, ResumeError
from evomerge.testing.models import tiny_checkpoint, tiny_tokenizer
from evomerge.tuning.alternate import Measures
from evomerge.tuning.training import Step
from helpers.classifiers import classifier
from helpers.commands import run as command
from helpers.tuning import equal, killed, tensors, write_rows

pytestmark = pytest.mark.slow

NAMES = ("calm", "glad", "sad")


class StoppedError(Exception):
    pass


class StopAt:
    """Breaks off at a step of a task in a round; or, without a task, when a round begins."""

    def __init__(self, *place: Any) -> None:
        self._place = place
        self.seen: list[tuple[Any, ...]] = []

    def step(self, round_: int, task: str, step: Step) -> None:
        self.seen.append((round_, task, step.step))
        if (round_, task, step.step) == self._place:
            raise StoppedError

    def merged(self, round_: int, measures: Measures) -> None:
        self.seen.append((round_,))
        if (round_,) == self._place:
            raise StoppedError


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("alternated") / "base", attention_dropout=0.1)


def config(folder: Path, base: Path, **more: Any) -> dict[str, Any]:
    """Two tasks of text, three rounds of two steps."""
    tasks = {"one": str(write_rows(folder / "one.jsonl")), "two": str(write_rows(folder / "two.jsonl", start=50))}
    tune = {"steps": 2, "learning_rate": 3e-3, "length": 32, "batch": 4}
    return {"model": str(base), "tasks": tasks, "rounds": 3, "tune": tune, **more}


def write_moods(folder: Path) -> dict[str, Path]:
    texts = {
        "farm": [("a goat", "glad"), ("rain", "sad"), ("market day", "calm")],
        "sea": [("the sea is wide", "calm"), ("town", "sad"), ("hill and river", "glad")],
    }
    for name, rows in texts.items():
        (folder / f"{name}.csv").write_text("\n".join(["text,label", *(f"{text},{label}" for text, label in rows)]))
    return {name: folder / f"{name}.csv" for name in texts}


def test_rounds_of_one_full_step_are_gradient_descent_on_the_mean_of_the_losses(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = classifier("distilbert").double().eval()
    model.config.dropout = model.config.attention_dropout = model.config.seq_classif_dropout = 0.0
    model.save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    files, rate = write_moods(tmp_path), 0.05
    tune = {
        "steps": 1, "learning_rate": rate, "optimizer": "sgd", "schedule": "constant", "warmup": 0, "clip": 0,
        "validation": 0, "batch": 100,
    }  # fmt: skip
    tasks = {name: {"data": str(path), "text": "text", "label": "label"} for name, path in files.items()}
    merge = {"method": "task_arithmetic", "coefficients": {"weight": 0.5}}
    told = {"model": str(tmp_path / "base"), "tasks": tasks, "rounds": 4, "tune": tune, "merge": merge}
    made = evomerge.alternate(told, tmp_path / "run")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    by_hand = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", dtype=torch.float64)
    for _ in range(4):
        losses = []
        for path in files.values():
            for line in path.read_text().splitlines()[1:]:
                text, label = line.split(",")
                logits = by_hand(torch.tensor([tokenizer(text)["input_ids"]])).logits[0]
                losses.append(functional.cross_entropy(logits, torch.tensor(NAMES.index(label))))
        by_hand.zero_grad()
        torch.autograd.backward(torch.stack(losses).mean())
        with torch.no_grad():
            for parameter in by_hand.parameters():
                parameter -= rate * parameter.grad
    found, expected, start = tensors(made.folder), by_hand.state_dict(), tensors(tmp_path / "base")
    for name in found:
        moved = (expected[name] - start[name]).norm()
        assert (found[name] - expected[name]).norm() <= 1e-10 * moved + 1e-14, name
    assert made.measures == ({}, {}, {}, {}, {})


@pytest.mark.parametrize("place", [(1, "one", 1), (1, "two", 2), (1,), (2, "two", 1), (3, "one", 2), (3,)])
def test_an_alternation_that_is_broken_off_anywhere_ends_the_same(
    tmp_path: Path, base: Path, place: tuple[Any, ...], undisturbed: Path
) -> None:
    told, watch = config(tmp_path, base), StopAt()
    told["tune"]["save_every"] = 1
    with pytest.raises(StoppedError):
        evomerge.alternate(told, tmp_path / "run", watch=StopAt(*place))
    made = evomerge.alternate(told, tmp_path / "run", watch=watch)
    assert equal(tensors(made.folder), tensors(undisturbed))
    # What was done isn't done again.
    before = [seen for seen in watch.seen if seen[0] < place[0] and len(seen) > 1]
    assert not before


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    made = evomerge.alternate(config(folder, base), folder / "run")
    assert [sorted(found) for found in made.measures] == [["one", "two"]] * 4
    assert all(made.measures[3][task]["loss"] < made.measures[0][task]["loss"] for task in ("one", "two"))
    return made.folder


def test_the_merge_of_a_round_is_that_of_the_command_and_only_what_it_needs_is_left(
    tmp_path: Path, undisturbed: Path
) -> None:
    again = evomerge.merge(undisturbed / "recipe.yaml", tmp_path / "again")
    one, two = ((folder / "model.safetensors").read_bytes() for folder in (undisturbed, again))
    assert one == two
    rounds = undisturbed.parent / "rounds"
    assert sorted(path.relative_to(rounds).as_posix() for path in rounds.glob("*/*")) == ["2/merged", "3/one", "3/two"]
    card = (undisturbed / "README.md").read_text()
    assert "3 rounds of tuning and merging from `base` (a local model)" in card
    for path in undisturbed.iterdir():
        assert str(undisturbed.parents[1]).encode() not in path.read_bytes(), path


@pytest.mark.parametrize("method", ["ties", "tsv_merge", "slerp", "model_stock"])
def test_any_method_merges_the_rounds_also_of_adapters(tmp_path: Path, base: Path, method: str) -> None:
    told = config(tmp_path, base, rounds=2, merge={"method": method}, keep=True)
    told["tune"]["lora_rank"] = 2
    made = evomerge.alternate(told, tmp_path / "run")
    assert (tmp_path / "run" / "rounds" / "1" / "one" / "adapter_model.safetensors").is_file()
    assert not equal(tensors(made.folder), tensors(base))


def test_a_killed_command_goes_on_to_the_same_model(tmp_path: Path, base: Path, undisturbed: Path) -> None:
    told = config(tmp_path, base)
    told["tune"]["save_every"] = 1
    told["tasks"] = {name: Path(path).name for name, path in told["tasks"].items()}
    (tmp_path / "rounds.yaml").write_text(yaml.safe_dump(told, sort_keys=False))
    arguments = ["alternate", "rounds.yaml", "--run", "run"]
    killed(arguments, tmp_path, "run/rounds/1/two.tuning/checkpoint-1/whole")
    killed(arguments, tmp_path, "run/rounds/2/.merged*")
    done = command(arguments, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "round 1/3" not in done.stdout.replace("after round 1/3", "")
    assert "after round 3/3, held out: one loss" in done.stdout
    assert equal(tensors(tmp_path / "run" / "model"), tensors(undisturbed))


def test_another_alternation_does_not_go_on_in_the_directory(tmp_path: Path, base: Path) -> None:
    told = config(tmp_path, base)
    with pytest.raises(StoppedError):
        evomerge.alternate(told, tmp_path / "run", watch=StopAt(1, "two", 1))
    with pytest.raises(ResumeError, match=r"merge\.method \('task_arithmetic' then, 'ties' now\)"):
        evomerge.alternate({**told, "merge": {"method": "ties"}}, tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": {}}, "tasks: expected at least 1 entry"),
        ({"rounds": 0}, "rounds: must be at least 1"),
        ({"merge": {"method": "tis"}}, "merge: method: unknown .*Did you mean 'ties'"),
        ({"merge": {"coefficients": {"wieght": 1}}}, "merge: coefficients: unknown coefficient 'wieght'"),
        (
            {"merge": {"coefficients": {"weight": {"one": 1}}}},
            "coefficients.weight: expected one value for each",
        ),
        ({"tune": {"stepps": 1}}, "tune.stepps: unknown key 'stepps'. Did you mean 'steps'"),
        ({"tasks": {"merged": "one.jsonl"}}, "'merged' can't be the name of a folder"),
        ({"tasks": {"none": "none.txt"}}, "tasks.none: none.txt: can't be read"),
        ({"nothing": 1}, "unknown key 'nothing'"),
    ],
)
def test_what_is_wrong_is_said_before_the_first_round(
    tmp_path: Path, base: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(EvomergeError, match=message):
        evomerge.alternate({**config(tmp_path, base), **change}, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    if "nothing" in change:
        (tmp_path / "rounds.yaml").write_text("- a list")
        with pytest.raises(ConfigError, match=r"rounds.yaml: expected keys such as model and tasks"):
            evomerge.alternate(tmp_path / "rounds.yaml", tmp_path / "run")
