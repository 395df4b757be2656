"""Tuning makes ordinary folders that learnt something, the same from the same seed, and says what is true of them."""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import evomerge
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.lora import Adapter
from evomerge.testing.models import tiny_checkpoint
from evomerge.tuning.settings import TuneSettings
from evomerge.tuning.training import rate
from helpers.tuning import equal, tensors, write_rows

pytestmark = pytest.mark.slow

SHORT = {"steps": 6, "learning_rate": 3e-3, "length": 32, "batch": 4}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("tuned") / "base", attention_dropout=0.1)


def test_a_tuned_model_is_a_folder_that_transformers_loads_and_that_learnt(tmp_path: Path, base: Path) -> None:
    made = evomerge.tune(base, write_rows(tmp_path / "rows.jsonl"), tmp_path / "out", **SHORT)
    assert made.measures[6]["loss"] < made.measures[0]["loss"] - 0.2
    assert made.losses[6] < made.losses[1]
    assert sorted(made.losses) == [1, 2, 3, 4, 5, 6]
    model = AutoModelForCausalLM.from_pretrained(made.folder)
    ids = AutoTokenizer.from_pretrained(made.folder)("The river", return_tensors="pt").input_ids
    assert torch.isfinite(model(ids).logits).all()
    before, after = Checkpoint.open(base), Checkpoint.open(made.folder)
    assert before.names == after.names
    assert before.config == after.config
    assert not (tmp_path / "out.tuning").exists()


def test_the_same_seed_makes_the_same_bytes_and_another_one_others(tmp_path: Path, base: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl")
    folders = [
        evomerge.tune(base, rows, tmp_path / name, seed=seed, **SHORT).folder
        for name, seed in (("one", 3), ("two", 3), ("other", 4))
    ]
    one, two, other = map(tensors, folders)
    assert equal(one, two)
    assert not equal(one, other)


def test_tuning_leaves_the_generators_and_warnings_of_the_process_alone(
    tmp_path: Path, base: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def drawn() -> tuple[float, float, float]:
        return random.random(), float(np.random.random()), float(torch.rand(1))

    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)
    expected = drawn()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)
    filters = [*warnings.filters]
    evomerge.tune(base, write_rows(tmp_path / "rows.jsonl"), tmp_path / "out", **SHORT)
    assert drawn() == expected
    assert [*warnings.filters] == filters
    assert capfd.readouterr() == ("", "")


def test_two_batches_to_a_step_are_one_batch_of_both(tmp_path: Path, base: Path) -> None:
    rows, settings = write_rows(tmp_path / "rows.jsonl"), {**SHORT, "validation": 0.0, "dtype": "float32"}
    plain = tiny_checkpoint(tmp_path / "plain")
    one = tensors(evomerge.tune(plain, rows, tmp_path / "one", **{**settings, "batch": 8}).folder)
    two = tensors(evomerge.tune(plain, rows, tmp_path / "two", **{**settings, "batch": 4, "accumulation": 2}).folder)
    start = tensors(plain)
    for name in one:
        change = (one[name] - start[name]).norm()
        assert (one[name] - two[name]).norm() < 1e-3 * change


def test_an_adapter_is_one_that_merges_here_and_in_peft_to_the_same(tmp_path: Path, base: Path) -> None:
    from peft import PeftModel

    made = evomerge.tune(base, write_rows(tmp_path / "rows.jsonl"), tmp_path / "lora", lora_rank=4, **SHORT)
    assert made.measures[6]["loss"] < made.measures[0]["loss"]
    settings = json.loads((made.folder / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] is None
    ours = Adapter.open(str(made.folder), Checkpoint.open(base))
    with warnings.catch_warnings():
        # Of names within transformers that PEFT still asks for.
        warnings.simplefilter("ignore", FutureWarning)
        theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), made.folder).merge_and_unload()
    found = theirs.state_dict()
    assert all(torch.allclose(ours.tensor(name), found[name], atol=1e-6) for name in ours.names)
    assert any(ours.computes(name) for name in ours.names)


def test_a_16_bit_base_gives_a_16_bit_expert_and_float64_stays_float64(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl")
    for stored in ("bfloat16", "float64"):
        start = tiny_checkpoint(tmp_path / stored, dtype=stored)
        made = evomerge.tune(start, rows, tmp_path / f"{stored}-out", **SHORT)
        assert Checkpoint.open(made.folder).dtype == getattr(torch, stored)
        assert json.loads((made.folder / "config.json").read_text())["dtype"] == stored


def test_the_card_and_the_record_say_what_was_done_and_hold_no_path(tmp_path: Path, base: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl")
    for name, settings in (("whole", {}), ("lora", {"lora_rank": 2}), ("all", {"validation": 0.0})):
        made = evomerge.tune(base, rows, tmp_path / name, **SHORT, **settings)
        card, record = (made.folder / "README.md").read_text(), json.loads((made.folder / "tuning.json").read_text())
        for path in made.folder.iterdir():
            assert str(tmp_path).encode() not in path.read_bytes(), path
        assert f"6 steps on {made.train} blocks of text" in card
        assert record["steps"] == 6
        assert record["examples"] == {"train": made.train, "validation": made.validation}
        if name == "all":
            assert "No data were held out" in card
            assert not made.measures
        else:
            assert f"On {made.validation} blocks of text that it wasn't trained on (documents drawn at random)" in card
            assert f"| 6 | {made.measures[6]['loss']:.4f} |" in card
        assert ("LoRA adapter of rank 2" in card) == (name == "lora")


def test_a_merge_of_a_tuned_base_does_not_carry_the_record_of_its_tuning(tmp_path: Path, base: Path) -> None:
    from evomerge.models.carried import carry

    made = evomerge.tune(base, write_rows(tmp_path / "rows.jsonl"), tmp_path / "out", **{**SHORT, "steps": 1})
    (tmp_path / "merged").mkdir()
    carry(made.folder, tmp_path / "merged")
    assert not (tmp_path / "merged" / "tuning.json").exists()


def test_no_step_is_lost_to_a_learning_rate_of_nothing() -> None:
    for schedule in ("linear", "cosine", "constant"):
        settings = TuneSettings(schedule=schedule, warmup=0.3, learning_rate=1e-3)
        rates = [rate(settings, step, 10) for step in range(10)]
        assert rates[:3] == [0.25, 0.5, 0.75]
        assert rates[3] == 1.0
        assert all(value > 0 for value in rates)
        assert rates[3:] == sorted(rates[3:], reverse=True)
        assert (rates[-1] == 1.0) == (schedule == "constant")


def test_the_number_of_steps_is_that_of_the_passes() -> None:
    assert TuneSettings(batch=4).total_steps(10) == 3
    assert TuneSettings(batch=4, accumulation=2, epochs=2).total_steps(10) == 4
    assert TuneSettings(batch=4, epochs=0.5).total_steps(16) == 2
    assert TuneSettings(steps=7).total_steps(10) == 7
