"""What a check says of reference answers, and which searches can't have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from evomerge.config.config import Config
from evomerge.errors import ConfigError
from evomerge.study.check import check
from evomerge.study.pilot import pilot
from evomerge.study.references import REFERENCE, reference_requests
from evomerge.study.search import search
from helpers.letters import HELPED, letters
from helpers.search import changed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def generating(tmp_path_factory: pytest.TempPathFactory, tiny_llama: dict[str, Path]) -> Config:
    return letters(tmp_path_factory.mktemp("letters"), tiny_llama)


def test_check_says_what_it_adds_and_a_pilot_times_it(generating: Config) -> None:
    report = check(changed(generating, search=HELPED))
    (note,) = [note for note in report.notes if "reference answer" in note]
    assert report.experiment is not None
    requests = reference_requests(report.experiment)
    most = sum(len(one.context) + len(one.continuation) for one in requests)
    assert "16 requests of" in note
    tokens = int(note.partition("16 requests of ")[2].partition(" tokens")[0].replace(",", ""))
    assert most / 2 < tokens <= most
    assert f"generates up to {16 * 6}" in note
    found = pilot(report.experiment, report.evaluations, repeats=1)
    assert found.seconds[REFERENCE] > 0
    assert not [note for note in check(generating).notes if "reference answer" in note]


@pytest.mark.parametrize(
    ("section", "keys", "words"),
    [
        ("search", {"estimator": "none"}, "covariate helps to estimate the scores .* set search.estimator: difference"),
        ("search", {"estimator": "none", "pruner": "none", "block": None}, "with search.pruner and search.block"),
        ("search", {"estimator": "gp_irt"}, "'gp_irt' makes no use of covariates; use estimator: difference"),
        ("search", {"covariate": "loss"}, "search.covariate: must be none or reference"),
        ("benchmark", {"tasks": [{"task": "tiny_choice"}]}, "answers of tiny_choice aren't generated"),
        ("benchmark", {"tasks": [{"task": "untold"}]}, r"tasks\[0\].task: untold, item \w+: .*has no target"),
    ],
)
def test_a_covariate_that_cannot_be_had_is_refused_before_anything_starts(
    tmp_path: Path, generating: Config, section: str, keys: dict[str, Any], words: str
) -> None:
    folder = Path(generating.benchmark.include_path[0])
    data = yaml.safe_load((folder / "letters.yaml").read_text())
    (folder / "untold.yaml").write_text(yaml.safe_dump({**data, "task": "untold", "doc_to_target": ""}))
    with pytest.raises(ConfigError, match=words):
        search(changed(changed(generating, search=HELPED), **{section: keys}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
