"""A mistake in a config is a line with its key, what was found and what would be right."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.config.config import Config
from evomerge.errors import ConfigError


def mistakes(**changes: Any) -> list[str]:
    """What is said of a small config with changes to its sections."""
    data: dict[str, Any] = {
        "models": {"base": "a/b", "experts": {"x": "a/c"}},
        "benchmark": {"tasks": ["t"]},
    }
    for section, values in changes.items():
        whole = isinstance(values, dict) and isinstance(data.get(section), dict)
        data[section] = {**data[section], **values} if whole else values
    with pytest.raises(ConfigError) as refused:
        Config.from_data(data, where="x.yaml")
    return str(refused.value).splitlines()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search": {"evaluations": "many"}}, "search.evaluations: expected a whole number (found 'many')"),
        ({"search": {"evaluations": 0}}, "search.evaluations: must be at least 1 (found 0)"),
        ({"search": {"evaluations": None}}, "search.evaluations: expected a whole number (found nothing)"),
        ({"search": {"hours": -1}}, "search.hours: must be above 0 (found -1)"),
        ({"search": {"step_size": 3}}, "search.step_size: must be at most 1 (found 3)"),
        ({"search": {"step_size": math.inf}}, "search.step_size: expected a finite number (found inf)"),
        ({"search": {"initial": "best"}}, "search.initial: must be uniform or default (found 'best')"),
        ({"search": "x"}, "search: expected keys with values, such as algorithm, evaluations, hours (found 'x')"),
        ({"models": {"experts": {}}}, "models.experts: expected at least 1 entry (found none)"),
        ({"models": {"base": 3}}, "models.base: expected keys with values, such as path, revision (found 3)"),
        ({"models": {"slices": [{"base": [0]}]}}, "models.slices[0].base[1]: missing"),
        ({"benchmark": {"tasks": "t"}}, "benchmark.tasks: expected a list (found 't')"),
        ({"benchmark": {"tie_break": "perhaps"}}, "benchmark.tie_break: expected true or false (found 'perhaps')"),
        (
            {"benchmark": {"tasks": [], "labels": {"data": 3, "text": "t"}}},
            "benchmark.labels.data: expected text or keys with values",
        ),
        ({"search": {"options": {"a": [1]}}}, "search.options.a: expected true or false, a number or text"),
        (
            {"benchmark": {"tasks": [{"task": "t", "metrik": "acc"}]}},
            "benchmark.tasks[0].metrik: unknown key 'metrik'. Did you mean 'metric'?",
        ),
        ({"storage": 3}, "storage: expected text (found 3)"),
    ],
)
def test_one_mistake_is_one_line(changes: dict[str, Any], message: str) -> None:
    (line,) = mistakes(**changes)
    assert line.startswith(f"x.yaml: {message}")


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_KEYS = (
    "path",
    "revision",
    "evaluations",
    "task",
    "split",
    "fraction",
    "data",
    "call",
    "low",
    "value",
    "tasks",
    "base",
)


@pytest.mark.slow
@given(
    section=st.sampled_from([*Config.model_fields]),
    value=_PLAIN | st.dictionaries(st.sampled_from(_KEYS) | st.text(max_size=5), _PLAIN, max_size=3),
)
def test_no_library_speaks_in_our_messages(section: str, value: Any) -> None:
    data = {"models": {"base": "a/b", "experts": {"x": "a/c"}}, "benchmark": {"tasks": ["t"]}, section: value}
    said = ""
    try:
        Config.from_data(data, where="x.yaml")
    except ConfigError as refused:
        said = str(refused)
    assert not any(words in said for words in ("Input should", "instance of", "valid dictionary", "pydantic"))
