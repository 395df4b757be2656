"""Greedy texts follow the model's generation_config.json as those of lm-eval's own model class do."""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from evomerge.errors import CheckpointError
from evomerge.inference.batches import Costs
from evomerge.inference.forward import SharedPrefixes
from evomerge.inference.live import LiveModel
from evomerge.inference.resident import ResidentModel
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.stack import stack
from evomerge.score.requests import GenerationRequest, GenerationResponse, Request
from evomerge.testing.models import tiny_checkpoint

pytestmark = pytest.mark.slow

UNTIL = ["e ", "ma"]
MOST = 14

# What every row is continued with by itself in transformers, and by us together with the others.
TOGETHER: dict[str, dict[str, Any]] = {
    "as a Qwen2.5 model": {
        **{"do_sample": True, "repetition_penalty": 1.3, "temperature": 0.7, "top_p": 0.8, "top_k": 20},
    },
    "repetition liked": {"repetition_penalty": 0.7},
    "no token twice": {"no_repeat_ngram_size": 1},
    "no pair twice": {"no_repeat_ngram_size": 2},
    "some tokens never": {"suppress_tokens": list(range(5, 384, 2))},
    "some tokens not first": {"begin_suppress_tokens": list(range(5, 384, 3))},
    "a last token": {"forced_eos_token_id": 2},
    "words forbidden": {"bad_words_ids": [[token] for token in range(6, 384, 5)] + [[7, 9]]},
    "biased": {"sequence_bias": [[[token], 3.0] for token in range(8, 60)]},
    "several ends": {"eos_token_id": [2, *range(20, 384, 4)]},
    "several ends, not soon": {"eos_token_id": [2, *range(20, 384, 4)], "min_new_tokens": 6},
    "several ends, longer than a context": {"eos_token_id": [2, *range(20, 384, 4)], "min_length": 30},
    "ends likelier with time": {"eos_token_id": [2, 30, 31], "exponential_decay_length_penalty": [3, 1.7]},
    "words of the question": {"encoder_repetition_penalty": 1.6},
    "no token of the question": {"encoder_no_repeat_ngram_size": 1},
    "shorter": {"max_new_tokens": 4},
    "longer": {"max_new_tokens": 23},
    "several at once": {
        **{"repetition_penalty": 1.15, "no_repeat_ngram_size": 3, "suppress_tokens": [30, 31, 32], "min_new_tokens": 3},
        **{"eos_token_id": [2, 40, 44, 48], "renormalize_logits": True, "remove_invalid_values": True},
    },
}
ALONE: dict[str, dict[str, Any]] = {
    "beams": {"num_beams": 3},
    "beams with a penalty": {"num_beams": 2, "length_penalty": 0.2, "no_repeat_ngram_size": 2},
    "guidance": {"guidance_scale": 1.8},
    "looking up the question": {"prompt_lookup_num_tokens": 3, "repetition_penalty": 1.2},
    "a limit of time": {"max_time": 600.0, "repetition_penalty": 1.3},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("decoding") / "model", "qwen2", seed=3, max_position_embeddings=512)


@pytest.fixture(scope="module")
def usual(folder: Path) -> list[str]:
    """The texts without settings."""
    return stock(folder)


@pytest.fixture
def settings(folder: Path) -> Any:
    """Writes the folder's generation_config.json; what was there comes back."""
    path = folder / "generation_config.json"
    before = path.read_text()
    yield lambda **changed: path.write_text(json.dumps({**json.loads(before), **changed}))
    path.write_text(before)


def questions() -> list[str]:
    """Short ones, and ones of very different lengths that begin alike."""
    draw = random.Random(1)
    words = ("goat", "river", "mvua", "market", "three", "ọmọ", "sea", "vitabu")
    head = " ".join(draw.choices(words, k=90))
    tails = [" ".join(draw.choices(words, k=1 + 6 * number)) for number in range(9)]
    return [head + " " + tail for tail in tails] + tails[:4]


def stock(folder: Path, **more: Any) -> list[str]:
    """The texts of lm-eval's model class, one by one."""
    model = HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=1)
    settings = {"until": list(UNTIL), "max_gen_toks": MOST, "do_sample": False, **more}
    asked = [
        Instance(request_type="generate_until", doc={}, arguments=(text, settings), idx=number)
        for number, text in enumerate(questions())
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return list(model.generate_until(asked, disable_tqdm=True))


def opened(source: Path | Checkpoint, **more: Any) -> tuple[ResidentModel, list[Request], Any]:
    base = Checkpoint.open(source) if isinstance(source, Path) else source
    live = LiveModel.build(base, dtype=torch.float32)
    tokenizer = base.tokenizer()
    requests: list[Request] = [
        GenerationRequest(
            tuple(tokenizer.encode(text)), (*UNTIL, tokenizer.eos_token), MOST, tuple(sorted(more.items()))
        )
        for text in questions()
    ]
    # Of a model so small every pass costs more than what it could share; here tokens alone count, as with large ones.
    costs = Costs(a_pass=0.0)
    engine = ResidentModel(live.model, tokenizer, device=torch.device("cpu"), batch_tokens=400, costs=costs)
    return engine, requests, live.model


def texts(answers: Any) -> list[str]:
    assert all(isinstance(answer, GenerationResponse) for answer in answers)
    return [answer.text for answer in answers]


def passes_of(model: Any, work: Any) -> int:
    """How often the model runs."""
    calls: list[int] = []
    hook = model.register_forward_pre_hook(lambda *_: calls.append(1))
    work()
    hook.remove()
    return len(calls)


@pytest.mark.parametrize("name", TOGETHER)
def test_a_generation_config_changes_texts_as_in_lm_eval_and_rows_still_go_together(
    name: str, folder: Path, usual: list[str], settings: Any
) -> None:
    settings(**TOGETHER[name])
    engine, requests, model = opened(folder)
    plan = engine.plan(requests)
    expected = stock(folder)
    assert expected != usual
    answers = engine.respond(plan)
    assert texts(answers) == expected
    assert passes_of(model, lambda: engine.respond(plan)) < len(requests) * 3
    # Prefixes, blocks and places that are refilled change nothing.
    assert plan.form == "shared"
    assert plan.prefixes
    assert engine.respond(engine.plan(requests, form="plain")) == answers
    blocks = [list(range(0, len(requests), 2)), list(range(1, len(requests), 2))]
    parts, prefixes = engine.plan(requests, blocks=blocks), SharedPrefixes()
    for number, places in enumerate(blocks):
        assert engine.respond(parts, blocks=[number], prefixes=prefixes) == [answers[place] for place in places]
    engine._generator._rows = 3
    assert engine.respond(plan) == answers


@pytest.mark.parametrize("name", ALONE)
def test_what_rows_cannot_do_together_is_left_to_transformers(
    name: str, folder: Path, usual: list[str], settings: Any
) -> None:
    settings(**ALONE[name])
    engine, requests, _ = opened(folder)
    expected = stock(folder)
    assert expected != usual
    assert texts(engine.respond(engine.plan(requests))) == expected


@pytest.mark.parametrize("asked", [{"repetition_penalty": 1.4}, {"no_repeat_ngram_size": 2, "num_beams": 2}])
def test_settings_of_a_task_come_before_those_of_the_model(asked: Any, folder: Path, settings: Any) -> None:
    settings(repetition_penalty=0.8)
    engine, requests, _ = opened(folder, **asked)
    expected = stock(folder, **asked)
    assert expected != stock(folder)
    assert texts(engine.respond(engine.plan(requests))) == expected


def test_without_settings_rows_go_together_and_nothing_is_done_to_their_scores(folder: Path, usual: list[str]) -> None:
    engine, requests, model = opened(folder)
    plan = engine.plan(requests)
    assert texts(engine.respond(plan)) == usual
    assert passes_of(model, lambda: engine.respond(plan)) < len(requests) * 3
    request = requests[0]
    assert isinstance(request, GenerationRequest)
    decoding = engine._generator._decoding(request)
    assert decoding.is_rowwise
    assert not decoding.processors
    assert not decoding.draws


def test_a_stack_of_layers_follows_the_settings_of_the_model_it_is_made_of(
    folder: Path, usual: list[str], settings: Any
) -> None:
    settings(repetition_penalty=1.3)
    same, _ = stack(Checkpoint.open(folder), {}, [{"base": (0, 1)}])
    engine, requests, _ = opened(same)
    expected = stock(folder)
    assert expected != usual
    assert texts(engine.respond(engine.plan(requests))) == expected


def test_stop_strings_of_the_model_end_a_text(folder: Path, settings: Any) -> None:
    engine, requests, _ = opened(folder)
    plain = texts(engine.respond(engine.plan(requests)))
    stop = "iku"
    settings(stop_strings=[stop])
    engine, requests, _ = opened(folder)
    ended = texts(engine.respond(engine.plan(requests)))
    assert ended != plain
    for short, long in zip(ended, plain, strict=True):
        assert long.startswith(short)
        # The token that the stop string ends with may hold more.
        assert short == long if stop not in long else short.count(stop) == 1


def test_settings_that_transformers_refuses_are_said_before_anything_is_scored(folder: Path, settings: Any) -> None:
    engine, requests, model = opened(folder)
    model.generation_config.repetition_penalty = -1.0
    with pytest.raises(CheckpointError, match=r"generation_config\.json.*penalty"):
        engine.plan(requests)
