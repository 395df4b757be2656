"""Reference answers asked beside the items: their probabilities, what they change and don't, resuming and refusals."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge.config.config import Config
from evomerge.estimators.base import Responses
from evomerge.estimators.difference import Difference
from evomerge.execute.base import Executor, Failure, Job, Outcome
from evomerge.run.answers import PARTS
from evomerge.run.directory import open_run
from evomerge.run.estimates import told_of
from evomerge.run.ledger import EVALUATIONS
from evomerge.run.repair import repair
from evomerge.study.check import check
from evomerge.study.export import export
from evomerge.study.references import REFERENCE, reference_requests
from evomerge.study.search import resume, search
from evomerge.testing.runs import essence
from helpers.executors import Shuffled, executors, stopped
from helpers.letters import HELPED, PRUNERS, letters
from helpers.search import changed

pytestmark = pytest.mark.slow

however_pruned = pytest.mark.parametrize("helped", ["median"], indirect=True)
"""Of what is the same whether candidates are stopped alone or among a generation's."""


@pytest.fixture(scope="module")
def generating(tmp_path_factory: pytest.TempPathFactory, tiny_llama: dict[str, Path]) -> Config:
    return letters(tmp_path_factory.mktemp("letters"), tiny_llama)


@pytest.fixture(scope="module", params=[*PRUNERS])
def helped(request: pytest.FixtureRequest, generating: Config) -> Config:
    return changed(generating, search={**PRUNERS[request.param], **HELPED})


@pytest.fixture(scope="module")
def helped_run(tmp_path_factory: pytest.TempPathFactory, helped: Config) -> Path:
    directory = tmp_path_factory.mktemp("helped") / "run"
    search(helped, directory)
    return directory


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory, helped: Config) -> Path:
    """Stopped among the baselines, in the first generation and in the second. Don't write into it."""
    directory = tmp_path_factory.mktemp("unfinished") / "run"
    for outcomes in (8, 22, 30):
        with stopped(after=outcomes):
            search(helped, directory)
    return directory


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / PARTS).read_text().splitlines()]


def told(directory: Path) -> list[dict[str, Any]]:
    return [dict(line) for line in told_of(directory, open_run(directory).facts["study"])]


def asked(directory: Path) -> list[tuple[int, str, int]]:
    return [(line["trial"], line["split"], line["block"]) for line in lines(directory)]


@however_pruned
def test_the_covariate_is_the_probability_that_transformers_gives_to_the_reference_answer(
    tmp_path: Path, helped: Config, helped_run: Path
) -> None:
    run = open_run(helped_run)
    uniform = next(trial for trial in run.trials() if trial.kind == "uniform")
    export(helped_run, tmp_path / "merged", trial=uniform.number)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    evaluation = run.ledger().evaluation(uniform.number, "search")
    assert evaluation is not None
    assert evaluation.table is not None
    experiment = check(helped).experiment
    assert experiment is not None
    found = evaluation.table.tasks["tiny_letters"].covariates
    assert found is not None
    assert len(found) == 16
    for item, value in zip(experiment.benchmark.splits["search"], found, strict=True):
        document = item.document  # type: ignore[attr-defined]
        prompt = tokenizer(f"Question: {document['question']} Answer:")["input_ids"]
        whole = tokenizer(f"Question: {document['question']} Answer: {'aei'[document['answer']]}")["input_ids"]
        assert whole[: len(prompt)] == prompt
        with torch.no_grad():
            logs = model(torch.tensor([whole])).logits[0].double().log_softmax(dim=-1)
        answer = [float(logs[place - 1, whole[place]]) for place in range(len(prompt), len(whole))]
        assert value == pytest.approx(math.exp(sum(answer)), rel=1e-4)


def test_every_merge_is_asked_once_before_its_first_block_and_nothing_else_is(helped_run: Path) -> None:
    ledger, done = open_run(helped_run).ledger(), asked(helped_run)
    first: dict[int, str] = {}
    for number, split, _ in done:
        first.setdefault(number, split)
    kinds = {number: ledger.trial(number).kind for number in first}
    assert {first[number] for number, kind in kinds.items() if kind != "elite"} == {REFERENCE}
    # Its answers are those of the candidate that it is, and nothing is estimated any more.
    assert {first[number] for number, kind in kinds.items() if kind == "elite"} <= {"search"}
    assert len(done) == len(set(done))
    assert {block for _, split, block in done if split == REFERENCE} == {0}
    assert {len(line["answers"]) for line in lines(helped_run) if line["split"] == REFERENCE} == {16}


@however_pruned
def test_answers_and_scores_of_the_same_merges_are_the_same_to_the_last_bit_without_it(
    tmp_path: Path, helped: Config, helped_run: Path
) -> None:
    search(changed(helped, search={"covariate": "none", "evaluations": 8}), tmp_path / "plain")
    same = 0
    runs = [open_run(directory).ledger() for directory in (helped_run, tmp_path / "plain")]
    one, other = ({trial.recipe_key: trial.number for trial in ledger.trials()} for ledger in runs)
    for key in one.keys() & other.keys():
        for split in ("search", "validation", "test"):
            with_it, without = runs[0].evaluation(one[key], split), runs[1].evaluation(other[key], split)
            if with_it is None or without is None:
                continue
            same += 1
            assert (with_it.score, with_it.tie_break) == (without.score, without.tie_break)
            assert with_it.aggregates == without.aggregates
            assert with_it.table is not None
            assert without.table is not None
            for name, task in without.table.tasks.items():
                assert task.covariates is None
                assert with_it.table.tasks[name].values == task.values
                assert with_it.table.tasks[name].answers == task.answers
    assert same > 10
    assert not [line for line in lines(tmp_path / "plain") if line["split"] == REFERENCE]
    # As runs of earlier releases have it.
    assert "covariate" not in json.loads((tmp_path / "plain" / "run.json").read_text())["identity"]["search"]


def test_what_is_told_is_the_regression_of_what_is_on_disk(helped: Config, helped_run: Path) -> None:
    """Gathered here from the run's files alone: complete models' tables, a stopped one's blocks and its reference."""
    experiment = check(helped).experiment
    assert experiment is not None
    benchmark, ledger = experiment.benchmark, open_run(helped_run).ledger()
    blocks = benchmark.blocks("search", 4)
    by_trial: dict[tuple[int, str], list[Any]] = {}
    for line in lines(helped_run):
        by_trial.setdefault((line["trial"], line["split"]), []).append(line["answers"])
    compared = 0
    for one in told(helped_run):
        assert one["estimator"] in {"difference", "difference without covariate", "mean"}
        if one["estimator"] != "difference":
            continue
        scores, covariates, ends, stops = [], [], [], []
        for trial in ledger.trials():
            evaluation = ledger.evaluation(trial.number, "search")
            later = trial.generation is not None and trial.generation > one["generation"]
            if evaluation is None or evaluation.table is None or later or trial.kind in {"elite", "mean"}:
                continue
            if trial.kind.is_checkpoint:
                ends.append(len(scores))
            table = evaluation.table.tasks["tiny_letters"]
            scores.append(np.array(table.values["exact_match,letter"], dtype=float))
            covariates.append(np.array(table.covariates))
        for number in one["trials"]:
            if (number, REFERENCE) not in by_trial:
                break
            row = np.full(16, np.nan)
            for block, answers in zip(blocks, by_trial[number, "search"], strict=False):
                for item, (text, _) in zip(sorted(block), answers, strict=True):
                    letters = [letter for letter in text if letter in "aei"]
                    right = "aei"[benchmark.splits["search"][item].document["answer"]]  # type: ignore[attr-defined]
                    row[item] = float(bool(letters) and letters[0] == right)
            answers = by_trial[number, REFERENCE][0]
            logs = [log for log, _ in answers]
            stops.append(len(scores))
            scores.append(row)
            covariates.append(np.float32(np.exp(logs)).astype(float))
        else:
            responses = Responses(scores=np.array(scores), covariates=np.array(covariates), endpoints=tuple(ends))
            expected = Difference({}).estimate(responses, stops)
            complete = [trial.score for trial in ledger.generation(one["generation"]) if trial.score is not None]
            assert complete
            assert one["told"] == pytest.approx(np.minimum(expected.values, max(complete)).tolist())
            assert one["errors"] == pytest.approx(expected.errors.tolist())
            compared += 1
    # The other pruner's run is too short for its estimator to be believed.
    assert compared or helped.search.pruner != "median"


def test_a_search_that_was_interrupted_anywhere_asks_nothing_twice_and_is_told_the_same(
    tmp_path: Path, unfinished: Path, helped_run: Path
) -> None:
    shutil.copytree(unfinished, tmp_path / "run")
    resume(tmp_path / "run")
    assert essence(tmp_path / "run") == essence(helped_run)
    assert told(tmp_path / "run") == told(helped_run)
    assert sorted(asked(tmp_path / "run")) == sorted(asked(helped_run))


def test_the_order_in_which_workers_answer_changes_nothing(tmp_path: Path, helped: Config, helped_run: Path) -> None:
    with executors(Shuffled):
        search(helped, tmp_path / "run")
    assert essence(tmp_path / "run") == essence(helped_run)
    assert told(tmp_path / "run") == told(helped_run)


@pytest.mark.ray
@however_pruned
def test_workers_of_ray_answer_the_same(tmp_path: Path, helped: Config, helped_run: Path, local_ray: None) -> None:
    search(changed(helped, execution={"backend": "ray", "workers": 2, "cpus_per_worker": 0.5}), tmp_path / "run")
    assert essence(tmp_path / "run") == essence(helped_run)
    assert told(tmp_path / "run") == told(helped_run)


def test_reference_answers_that_a_disk_lost_are_asked_again(tmp_path: Path, unfinished: Path, helped_run: Path) -> None:
    shutil.copytree(unfinished, tmp_path / "run")
    pruned = {trial.number for trial in open_run(tmp_path / "run").trials() if trial.state == "pruned"}
    kept = [
        line
        for line in (tmp_path / "run" / PARTS).read_text().splitlines(keepends=True)
        if (data := json.loads(line))["split"] != REFERENCE or data["trial"] not in pruned
    ]
    assert pruned
    (tmp_path / "run" / PARTS).write_text("".join(kept))
    assert repair(tmp_path / "run")
    resume(tmp_path / "run")
    assert essence(tmp_path / "run") == essence(helped_run)
    assert told(tmp_path / "run") == told(helped_run)


def test_covariates_cost_no_item_evaluations_and_a_budget_of_items_buys_as_many(
    tmp_path: Path, generating: Config
) -> None:
    limits = {"evaluations": 100, "population": 4, "scan": 2, "budget": {"items": 112}}
    for name, keys in (("with", HELPED), ("without", {})):
        search(changed(generating, search=limits | keys), tmp_path / name)
        blocks = [split for _, split, _ in asked(tmp_path / name)]
        assert (REFERENCE in blocks) == (name == "with")
        candidates = {trial.number for trial in open_run(tmp_path / name).trials() if trial.kind == "candidate"}
        items = 4 * sum(split == "search" and number in candidates for number, split, _ in asked(tmp_path / name))
        assert 112 - 16 * 4 < items <= 112


class Fails:
    """An executor that can't answer a reference of trial 6."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.workers, self.add_requests, self.close = executor.workers, executor.add_requests, executor.close

    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[Job, Outcome]]:
        for job, outcome in self._executor.run(jobs):
            fails = job.split == REFERENCE and job.number == 6
            yield job, Failure(reason="not_finite", message="nan", request=5) if fails else outcome


@however_pruned
def test_a_reference_answer_that_fails_is_named_by_its_item(tmp_path: Path, helped: Config) -> None:
    """Also where an item makes two requests, and its reference is one."""
    folder = Path(helped.benchmark.include_path[0])
    data = yaml.safe_load((folder / "letters.yaml").read_text())
    (folder / "twice.yaml").write_text(yaml.safe_dump({**data, "task": "twice", "repeats": 2}))
    few = {"evaluations": 4, "population": 4, "scan": 2}
    twice = changed(helped, benchmark={"tasks": [{"task": "twice"}]}, search=few)
    with executors(Fails):
        search(twice, tmp_path / "run")
    assert open_run(tmp_path / "run").ledger().trial(6).kind == "candidate"
    evaluations = [json.loads(line) for line in (tmp_path / "run" / EVALUATIONS).read_text().splitlines()]
    experiment = check(twice).experiment
    assert experiment is not None
    assert len(experiment.benchmark.requests("search")) == 2 * len(reference_requests(experiment))
    item = experiment.benchmark.splits["search"][5]
    failure = next(line["failure"] for line in evaluations if line["trial"] == 6)
    assert failure == f"not_finite: nan (item {item.id} of twice)"
