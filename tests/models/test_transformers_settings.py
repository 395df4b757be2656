"""A config with its type's defaults: nothing is changed where it is read, and what can't be made is as it was."""

from __future__ import annotations

import logging
from copy import deepcopy

from evomerge.models.transformers_settings import filled_in, settings_of, without_remarks

NESTED = {
    "model_type": "gemma3",
    "text_config": {"hidden_size": 32, "num_hidden_layers": 2, "rope_parameters": {"full_attention": {}}},
    "vision_config": {"hidden_size": 32},
}


def test_a_config_stays_as_it_is_down_to_its_nested_sections() -> None:
    config = deepcopy(NESTED)
    assert settings_of(config).text_config.hidden_size == 32
    assert config == NESTED


def test_what_transformers_does_not_know_is_as_it_was() -> None:
    strange = {"model_type": "none-of-its-own", "hidden_size": 7}
    assert settings_of(strange) is None
    assert filled_in(strange) == strange
    assert filled_in({"model_type": "llama", "hidden_size": 64})["num_hidden_layers"] == 32


def test_remarks_are_heard_again_afterwards() -> None:
    from transformers.utils import logging as theirs

    before = theirs.get_verbosity()
    with without_remarks():
        assert theirs.get_verbosity() == logging.ERROR
    assert theirs.get_verbosity() == before
