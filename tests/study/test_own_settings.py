"""Models with a config or tokenizer of their own: scored as lm-eval scores their folders, and merged as the base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import yaml
from lm_eval.tasks import TaskManager

from evomerge.config.config import Config
from evomerge.errors import ResumeError
from evomerge.files.atomic import read_json, write_json
from evomerge.run.directory import open_run
from evomerge.study.check import check
from evomerge.study.export import export
from evomerge.study.search import search
from evomerge.testing.models import tiny_family
from evomerge.testing.runs import essence
from helpers.checkpoints import edit_config
from helpers.search import Interrupt, changed, write_config

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("stock_results_alone")]

TASKS = {
    "pages": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{t}}",
        "metric_list": [{"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}],
    },
    "spell": {
        "output_type": "generate_until",
        "doc_to_text": "{{t}}",
        "doc_to_target": "{{t[:6]}}",
        "generation_kwargs": {"until": ["."], "max_gen_toks": 12},
        "metric_list": [{"metric": "chrf", "aggregation": "chrf", "higher_is_better": True}],
    },
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of log-likelihoods of long texts and one of generated text, each over a few documents."""
    folder = tmp_path_factory.mktemp("tasks")
    text = "The river rises in the hills and runs past the market town down to the sea. A farmer has twelve goats; "
    for split in ("train", "validation"):
        rows = [{"t": f"{split} {number} {text[number * 3 :]} {'Watoto wanasoma. ' * number}"} for number in range(6)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, task in TASKS.items():
        data = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {
                "data_files": {split: str(folder / f"{split}.jsonl") for split in ("train", "validation")}
            },
            "training_split": "train",
            "validation_split": "validation",
            **task,
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(data))
    return folder


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Expert `far` has other positions and a longer window, `chat` another chat template and other ends of text."""
    folders = tiny_family(tmp_path_factory.mktemp("family"), "qwen2", ("far", "chat", "same"), scale=0.15)
    short, far = ({"rope_theta": theta, "rope_type": "default"} for theta in (1e4, 1e6))
    for folder in folders.values():
        edit_config(folder, rope_parameters=short, max_position_embeddings=64)
    edit_config(folders["far"], rope_parameters=far, max_position_embeddings=512)
    settings = json.loads((folders["chat"] / "tokenizer_config.json").read_text())
    template = "{% for message in messages %}<s>{{ message['content'] }} goat {% endfor %}"
    (folders["chat"] / "chat_template.jinja").write_text(template)
    (folders["chat"] / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": "<unk>"}))
    (folders["chat"] / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 40, 41, 42, 43, 44, 45]}))
    edit_config(folders["same"], transformers_version="4.40.0", use_cache=False, attention_dropout=0.1)
    return folders


def config_of(path: Path, family: dict[str, Path], tasks: Path, task: str, **changes: Any) -> Config:
    splits = {
        "search": {"split": "train", "fraction": 0.5},
        "validation": {"split": "train", "fraction": 0.5},
        "test": {"split": "validation"},
    }
    return Config.from_file(
        write_config(
            path / "config.yaml",
            family,
            tasks,
            merge={"method": "linear"},
            space={"granularity": "all"},
            benchmark={"tasks": [task], "splits": splits, **changes.pop("benchmark", {})},
            search={"evaluations": 4, "population": 4, "scan": 1, "shortlist": 1, **changes.pop("search", {})},
            **changes,
        )
    )


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, family: dict[str, Path], tasks: Path) -> Config:
    """An experiment with an expert that has settings of its own, and one that has none."""
    models = {name: family[name] for name in ("base", "far", "same")}
    return config_of(tmp_path_factory.mktemp("config"), models, tasks, "pages")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, pages: Config) -> Path:
    """Its finished search. Don't write into it."""
    directory = tmp_path_factory.mktemp("pages") / "run"
    search(pages, directory)
    return directory


def result_of(run: Path) -> dict[str, Any]:
    result = open_run(run).result()
    assert result is not None
    return result


def stock(folder: Path, tasks: Path, task: str, **settings: Any) -> float:
    """What lm-eval itself finds for a folder on the task's validation documents."""
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(folder), "dtype": "float32"},
        tasks=[task],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        device="cpu",
        batch_size=1,
        bootstrap_iters=0,
        **settings,
    )
    metric = TASKS[task]["metric_list"][0]["metric"]  # type: ignore[index]
    return float(found["results"][task][f"{metric},none"])


def on_test(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {model["name"]: model for model in result["test"]["models"]}


@pytest.mark.parametrize("task", list(TASKS))
@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
def test_every_given_model_scores_what_lm_eval_finds_for_its_folder(
    tmp_path: Path, family: dict[str, Path], tasks: Path, task: str, chat: bool
) -> None:
    settings = {"apply_chat_template": True} if chat else {}
    config = config_of(tmp_path, family, tasks, task, benchmark=settings)
    models = on_test(search(config, tmp_path / "run").data)
    sign = -1 if task == "pages" else 1
    for name, folder in family.items():
        assert models[name]["score"] == pytest.approx(sign * stock(folder, tasks, task, **settings), abs=1e-6), name
    assert models["far"]["own_settings"] == ["max_position_embeddings", "rope_parameters.rope_theta"]
    assert "tokenizer.chat_template" in models["chat"]["own_settings"]
    assert not {"own_settings"} & {*models["base"], *models["same"], *models["winner"]}


def test_a_merge_is_still_scored_and_exported_with_the_bases_config(tmp_path: Path, tasks: Path, run: Path) -> None:
    out = export(run, tmp_path / "out")
    assert json.loads((out / "config.json").read_text())["max_position_embeddings"] == 64
    assert on_test(result_of(run))["winner"]["score"] == pytest.approx(-stock(out, tasks, "pages"), abs=1e-6)
    assert "(own settings)" in (out / "README.md").read_text()


def test_a_given_model_is_exported_with_its_own_config(tmp_path: Path, tasks: Path, run: Path) -> None:
    score = on_test(result_of(run))["far"]["score"]
    (trial,) = [trial for trial in open_run(run).trials() if trial.name == "far"]
    out = export(run, tmp_path / "out", trial=trial.number)
    assert json.loads((out / "config.json").read_text())["max_position_embeddings"] == 512
    assert -stock(out, tasks, "pages") == pytest.approx(score, abs=1e-6)


@pytest.mark.parametrize("block", [None, 2], ids=["whole", "blocks"])
def test_an_interrupted_search_ends_as_if_it_hadnt_been(
    tmp_path: Path, family: dict[str, Path], tasks: Path, block: int | None
) -> None:
    models = {name: family[name] for name in ("base", "far", "chat")}
    config = config_of(tmp_path, models, tasks, "pages", search={"block": block})
    search(config, tmp_path / "whole")
    for after in (2, 7):
        with pytest.raises(KeyboardInterrupt):
            search(config, tmp_path / "parts", observer=Interrupt(after))
    search(config, tmp_path / "parts")
    assert essence(tmp_path / "parts") == essence(tmp_path / "whole")


def test_a_run_that_began_with_the_bases_settings_for_all_goes_on_so(
    tmp_path: Path, family: dict[str, Path], tasks: Path, pages: Config
) -> None:
    with pytest.raises(KeyboardInterrupt):
        search(pages, tmp_path / "run", observer=Interrupt(1))
    facts = read_json(tmp_path / "run" / "run.json")
    assert facts.pop("as_themselves") == {"far": ["max_position_embeddings", "rope_parameters.rope_theta"]}
    write_json(tmp_path / "run" / "run.json", facts)
    scored = on_test(search(pages, tmp_path / "run").data)
    plain = Path(shutil.copytree(family["far"], tmp_path / "plain"))
    shutil.copyfile(family["base"] / "config.json", plain / "config.json")
    assert scored["far"]["score"] == pytest.approx(-stock(plain, tasks, "pages"), abs=1e-6)
    assert "own_settings" not in scored["far"]


def test_a_run_isnt_continued_with_a_model_whose_settings_have_changed(
    tmp_path: Path, family: dict[str, Path], tasks: Path
) -> None:
    far = Path(shutil.copytree(family["far"], tmp_path / "far"))
    config = config_of(tmp_path, {**family, "far": far}, tasks, "pages")
    with pytest.raises(KeyboardInterrupt):
        search(config, tmp_path / "run", observer=Interrupt(1))
    edit_config(far, rms_norm_eps=1e-2)
    with pytest.raises(ResumeError, match="far"):
        search(config, tmp_path / "run")


def test_check_says_what_of_a_config_changes_the_function(tmp_path: Path, family: dict[str, Path], tasks: Path) -> None:
    found = check(config_of(tmp_path, family, tasks, "pages"))
    merge, own = [note for note in found.notes if note.startswith("expert 'far'")]
    assert "rope_parameters.rope_theta 1000000.0 (base 10000.0)" in merge
    assert "a merge has the base's" in merge
    assert "is scored as it is by itself" in own
    assert not [note for note in found.notes if "'same'" in note]
    assert found.single_bytes == found.live_bytes


@pytest.mark.ray
def test_ray_workers_score_given_models_by_themselves_too(
    tmp_path: Path, pages: Config, run: Path, local_ray: None
) -> None:
    there = changed(pages, execution={"backend": "ray", "workers": 2})
    search(there, tmp_path / "there")
    assert on_test(result_of(tmp_path / "there")) == on_test(result_of(run))
