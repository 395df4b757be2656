"""Values beside the file mean what the same values in the file would."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from evomerge.config.config import Config
from evomerge.config.schema import sections
from evomerge.config.section import Section
from evomerge.config.settings import with_settings
from evomerge.errors import ConfigError

DATA: dict[str, Any] = {
    "models": {"base": "a/b", "experts": {"x": "a/c", "y": {"path": "a/d"}}},
    "benchmark": {"tasks": ["first", {"task": "second", "weight": 2}]},
    "space": {"parameters": {"density": 0.5}},
    "search": {"evaluations": 9},
}


@pytest.mark.parametrize(
    ("setting", "changed"),
    [
        ("search.evaluations=50", {"search": {"evaluations": 50}}),
        ("merge.options={normalise: true}", {"merge": {"options": {"normalise": True}}}),
        ("merge.options.note=a=b", {"merge": {"options": {"note": "a=b"}}}),
        ("search.hours=", {"search": {"evaluations": 9, "hours": None}}),
        ("search.evaluations=null", {"search": {}}),
        ("search.items_per_candidate=", {}),
        ("models.experts.y=null", {"models": {"base": "a/b", "experts": {"x": "a/c"}}}),
        ("merge.options.note=null", {"merge": {"options": {}}}),
        (
            "benchmark.tasks[1].weight=3",
            {"benchmark": {"tasks": ["first", {"task": "second", "weight": 3}]}},
        ),
        (
            "benchmark.tasks.0.metric=acc,none",
            {"benchmark": {"tasks": [{"task": "first", "metric": "acc,none"}, {"task": "second", "weight": 2}]}},
        ),
        (
            "models.experts.x.revision=main",
            {"models": {"base": "a/b", "experts": {"x": {"path": "a/c", "revision": "main"}, "y": {"path": "a/d"}}}},
        ),
        (
            "space.parameters.density.start=0.4",
            {"space": {"parameters": {"density": {"value": 0.5, "start": 0.4}}}},
        ),
        ('space.steps."weight[x]"=2', {"space": {"parameters": {"density": 0.5}, "steps": {"weight[x]": 2}}}),
    ],
)
def test_a_value_is_set_where_the_file_would_have_it(setting: str, changed: dict[str, Any]) -> None:
    assert with_settings(DATA, [setting], Config) == {**DATA, **changed}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("serch.evaluations=5", r"--set serch.evaluations: unknown key 'serch'. Did you mean 'search'\?"),
        ("search.evaluation=5", r"unknown key 'evaluation'. Did you mean 'evaluations'\?"),
        ("search.evaluations.x=5", r"search.evaluations is 9, which has no keys"),
        ("search.hours.x=5", r"search.hours has no keys"),
        ("benchmark.tasks.2.weight=5", r"benchmark.tasks is a list and has numbers 0 to 1, not '2'"),
        ("search.evaluations", r"give a value"),
        ("search..seed=1", r"keys with dots between"),
        ("=1", r"keys with dots between"),
        ("search.seed={", r"--set search.seed: line 1.*not valid YAML"),
    ],
)
def test_a_place_that_no_config_has_is_refused_by_name(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_settings(DATA, [setting], Config)


def test_later_settings_come_after_earlier_ones_and_the_data_stays_as_it_is() -> None:
    found = with_settings(DATA, ["search={seed: 1}", "search.scan=2", "search.seed=3"], Config)
    assert found["search"] == {"seed": 3, "scan": 2}
    assert DATA["search"] == {"evaluations": 9}


@pytest.mark.parametrize("section", [section for section in sections(Section) if section.model_fields])
def test_null_is_a_value_of_a_key_or_leaves_it_out(section: type[Section]) -> None:
    for key, field in section.model_fields.items():
        found, refused = None, False
        try:
            found = section.model_validate({**(DATA if section is Config else {}), key: None})
        except ValidationError as error:
            refused = any(wrong["loc"][:1] == (key,) for wrong in error.errors())
        left_out = key not in with_settings({key: 1}, [f"{key}=null"], section)
        assert left_out or not refused, key
        # Where null is taken although it is no value, it has to mean what leaving the key out does.
        if left_out and found is not None:
            assert getattr(found, key) == field.get_default(call_default_factory=True), key
