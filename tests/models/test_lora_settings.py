"""Patterns of an adapter's settings that can't be compared with names in bounded time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import CheckpointError
from evomerge.models.lora_settings import refuse_settings, scale_of


def settings(pattern: str) -> dict[str, Any]:
    return {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "rank_pattern": {pattern: 2}}


@pytest.mark.parametrize("pattern", ["(a+)+", "(a|a)*", "(.*a){20}", ".*.*.*.*x", r"(x*)*\.q_proj"])
@pytest.mark.parametrize("key", ["rank_pattern", "alpha_pattern"])
def test_a_pattern_that_may_take_for_ever_is_refused(pattern: str, key: str) -> None:
    data = {**settings("q_proj"), key: {pattern: 2}}
    with pytest.raises(CheckpointError, match=rf"x: adapter_config\.json: {key}: .* may take for ever to compare"):
        refuse_settings(Path("x"), data)


@pytest.mark.parametrize(
    "pattern", ["q_proj", r"layers\.1\.self_attn\.q_proj", r".*\.(0|1)\..*q_proj", r"layers\.\d+\.self_attn\.[qk]_proj"]
)
def test_patterns_as_they_are_written_are_taken(pattern: str) -> None:
    refuse_settings(Path("x"), settings(pattern))
    assert scale_of(Path("x"), settings(pattern), "w", "model.layers.1.self_attn.q_proj", 2) == 4.0
