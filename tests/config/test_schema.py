"""The JSON schema accepts what the reader of configs accepts and refuses what it refuses, by its keys and values."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from evomerge.config.config import Config
from evomerge.config.schema import json_schema
from evomerge.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
FILES = [*sorted((ROOT / "configs").glob("*.yaml")), ROOT / "evomerge" / "cli" / "starter.yaml"]
SCHEMA = json_schema({"MergeConfig.method": ("linear", "ties")})
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
SMALL: dict[str, Any] = {"models": {"base": "a", "experts": {"x": "b", "y": "c"}}, "benchmark": {"tasks": ["t", "u"]}}


def test_it_is_a_schema_with_a_description_for_every_key() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    keys = list(_keys(SCHEMA))
    assert len(keys) > 100
    assert [name for name, value in keys if len(value["description"]) < 13] == []
    assert SCHEMA["$defs"]["MergeConfig"]["properties"]["method"]["examples"] == ["linear", "ties"]


def _keys(schema: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for value in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _keys(value)
    if isinstance(schema, dict) and "additionalProperties" in schema:
        yield from schema.get("properties", {}).items()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_shipped_config_is_accepted_also_with_all_defaults_and_a_typo_anywhere_is_not(file: Path) -> None:
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    VALIDATOR.validate(data)
    VALIDATOR.validate(yaml.safe_load(Config.from_file(file).to_yaml()))
    for section in [data, *(part for part in data.values() if isinstance(part, dict))]:
        section["typpo"] = 1
        assert not VALIDATOR.is_valid(data)
        del section["typpo"]


@pytest.mark.parametrize(
    "changes",
    [
        {"merge": None, "space": None, "search": None, "execution": None, "export": None},
        {"models": {"base": {"path": "a", "revision": "v1"}, "experts": {"x": "b"}, "slices": [{"base": [0, 3]}]}},
        {"models": {"base": "a", "experts": {"x": "b"}, "align": {"options": {"any": 1}}}},
        {"space": {"parameters": {"weight": {"start": {"x": 0.2}}, "density": 0.5}, "kinds": ["mlp"]}},
        {"space": {"kind": "methods", "methods": ["linear", "ties"]}},
        {"space": {"kind": "methods", "methods": {"linear": None, "ties": {"options": {"election": ["a", "b"]}}}}},
        {
            "benchmark": {
                "tasks": [{"task": "t", "language": "sw", "splits": {"test": "test"}}],
                "include_path": "tasks",
            }
        },
        {"benchmark": {"tasks": ["t"], "splits": {"search": 0.5, "test": {"split": "test", "items": 9}}}},
        {"benchmark": {"function": "scoring:accuracy"}},
        {"benchmark": {"labels": {"data": {"search": "a.csv", "test": "b.csv"}, "text": "sentence"}}},
        {"search": {"baselines": "standard", "budget": {"items": 90}}},
        {"search": {"baselines": "none"}},
        {"search": {"objectives": {"one": "t", "both": ["t", "u"], "low": {"worst": {"sw": "t", "en": ["u"]}}}}},
        {"search": {"objectives": {"one": {"tasks": {"t": 2, "u": 1}}, "short": {"length": "all"}}}},
        {"search": {"constraints": {"near": {"distance": "base", "at_most": 0.2}}}},
    ],
)
def test_what_the_reader_accepts_in_any_form_is_accepted(changes: dict[str, Any]) -> None:
    data = {**deepcopy(SMALL), **changes}
    Config.from_data(data)
    VALIDATOR.validate(data)


@pytest.mark.parametrize(
    "changes",
    [
        {"models": {"base": "a"}},
        {"models": {"base": 3, "experts": {"x": "b"}}},
        {"merge": {"metod": "ties"}},
        {"search": {"evaluations": 0}},
        {"search": {"objectives": {"one": {"task": "t"}}}},
        {"space": {"parameters": {"weight": {"hihg": 2}}}},
        {"benchmark": {"tasks": [{"task": "t", "wieght": 2}]}},
        {"benchmark": {"tasks": ["t"], "splits": {"search": {"fraction": 2}}}},
        {"execution": {"dtype": "int8"}},
    ],
)
def test_what_the_reader_refuses_by_key_kind_or_range_is_refused(changes: dict[str, Any]) -> None:
    data = {**deepcopy(SMALL), **changes}
    with pytest.raises(ConfigError):
        Config.from_data(data)
    assert not VALIDATOR.is_valid(data)
