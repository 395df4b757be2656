"""Every launcher keeps the laws, and its manifest or script is what the target publishes as its form."""

from __future__ import annotations

import json
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from evomerge.config.config import Config
from evomerge.errors import ConfigError
from evomerge.launch import LAUNCHERS
from evomerge.launch.base import Job, Plan, memory_gib, options_of
from evomerge.testing.launcher_laws import check_launcher

SCHEMAS = Path(__file__).parent / "schemas"
RUN = "/shared/my runs/One 2"
NEEDED: dict[str, dict[str, Any]] = {
    "slurm": {"nodes": 4, "gpus": "8", "memory": "200G", "partition": "gpu", "setup": ". '/a b/activate'"},
    "ray-job": {"address": "http://head:8265", "cpus": 1, "memory": "4G", "resources": '{"head": 1}'},
    "kuberay": {"image": "registry/evomerge:1", "volume": "runs:/shared", "nodes": 3, "env": ("A=b=c",)},
    "skypilot": {"volume": "runs:/shared", "gpus": "A100:8", "memory": "64G", "cpus": 8, "nodes": 2, "spot": True},
    "ray-cluster": {"region": "us-west-2", "instance": "g5.12xlarge", "nodes": 3, "gpus": "4", "image": "an/image"},
}


def ray_schema() -> Any:
    spec = find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    return json.loads((Path(spec.origin).parent / "autoscaler" / "ray-schema.json").read_text())


def document(plan: Plan, name: str) -> list[Any]:
    text = plan.files[name]
    assert isinstance(text, str)
    return list(yaml.safe_load_all(text))


@pytest.mark.parametrize("name", LAUNCHERS.names())
def test_every_launcher_keeps_the_laws(name: str, tmp_path: Path) -> None:
    check_launcher(LAUNCHERS.get(name), tmp_path, NEEDED[name], RUN)


def test_a_ray_job_of_kuberay_has_the_form_of_its_definition_and_all_files_of_the_experiment(tmp_path: Path) -> None:
    plan = check_launcher(LAUNCHERS.get("kuberay"), tmp_path, NEEDED["kuberay"], RUN)
    files, job = document(plan, "rayjob.yaml")
    jsonschema.validate(job, json.loads((SCHEMAS / "rayjob.json").read_text()))
    cluster = job["spec"]["rayClusterSpec"]
    pod = cluster["workerGroupSpecs"][0]["template"]["spec"]
    assert cluster["workerGroupSpecs"][0]["replicas"] == 2
    assert pod["securityContext"] == {"fsGroup": 1000, "fsGroupChangePolicy": "OnRootMismatch"}
    items = {item["path"]: files["data"][item["key"]] for item in pod["volumes"][0]["configMap"]["items"]}
    assert items["tasks/one.yaml"] == "task: one\n"
    assert set(items) == {"my search.yaml", "tasks/one.yaml"}
    assert pod["containers"][0]["env"] == [{"name": "A", "value": "b=c"}]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "--run '/shared/my runs/One 2'" in job["spec"]["entrypoint"]
    assert job["metadata"]["name"] == files["metadata"]["name"] == "one-2"


def test_a_task_of_skypilot_and_clusters_of_rays_launcher_have_their_published_forms(tmp_path: Path) -> None:
    plan = check_launcher(LAUNCHERS.get("skypilot"), tmp_path / "sky", NEEDED["skypilot"], RUN)
    (task,) = document(plan, "skypilot.yaml")
    jsonschema.validate(task, json.loads((SCHEMAS / "skypilot.json").read_text()))
    assert task["resources"]["accelerators"] == "A100:8"
    assert task["resources"]["memory"] == "64+"
    launcher, schema = LAUNCHERS.get("ray-cluster"), ray_schema()
    for kind, options in (
        ("aws", NEEDED["ray-cluster"]),
        ("local", {"hosts": "10.0.0.1, 10.0.0.2", "key": "~/.ssh/k"}),
    ):
        plan = check_launcher(launcher, tmp_path / kind, options, RUN)
        (cluster,) = document(plan, "ray-cluster.yaml")
        jsonschema.validate(cluster, schema)
        assert cluster["provider"]["type"] == kind
        assert cluster["max_workers"] == {"aws": 2, "local": 1}[kind]


def test_a_ray_jobs_entry_point_asks_for_what_it_is_given_and_runs_on_a_copy_beside_the_run(tmp_path: Path) -> None:
    plan = check_launcher(LAUNCHERS.get("ray-job"), tmp_path, NEEDED["ray-job"], RUN)
    (command,) = plan.commands
    asked = dict(pairwise(command))
    assert asked["--entrypoint-num-cpus"] == "1"
    assert asked["--entrypoint-memory"] == str(4 * 2**30)
    assert json.loads(asked["--entrypoint-resources"]) == {"head": 1}
    assert asked["--submission-id"].startswith("one-2-")
    assert "'/shared/my runs/One 2.experiment/my search.yaml'" in command[-1]
    assert set(plan.files) == {"upload/my search.yaml", "upload/tasks/one.yaml"}
    assert "2 files" in plan.notes[0]


def write_config(path: Path) -> Path:
    models = {"base": "owner/base", "experts": {"one": "owner/one"}}
    path.write_text(
        yaml.safe_dump({"models": models, "benchmark": {"tasks": ["one"]}, "execution": {"backend": "inline"}})
    )
    return path


def plan_of(target: str, config: Path, run: str = RUN, **options: Any) -> Plan:
    launcher = LAUNCHERS.get(target)
    given = options_of(launcher, {**NEEDED[target], **options})
    experiment = Config.from_file(config)
    return launcher().plan(Job(config=config, experiment=experiment, run=run, folder=config.parent, options=given))


@pytest.mark.parametrize(
    ("target", "options", "said"),
    [
        ("kuberay", {"volume": None}, "give --volume NAME:PATH"),
        ("kuberay", {"volume": "runs:/elsewhere"}, "isn't on the volume, which is mounted at /elsewhere"),
        ("kuberay", {"image": None}, "give --image"),
        ("kuberay", {"gpus": "A100"}, "--gpus 'A100': expected the number"),
        ("skypilot", {"gpus": "8"}, "a kind and how many, such as A100-80GB:8"),
        ("skypilot", {"memory": "much"}, "--memory 'much': expected an amount such as 64G"),
        ("ray-job", {"address": ""}, "give --address"),
        ("ray-job", {"env": ("KEY",)}, "expected KEY=VALUE"),
        ("ray-job", {"resources": "head"}, "expected JSON"),
        ("ray-cluster", {"region": None}, "give --region"),
        ("slurm", {"partition": "a\n#SBATCH --x"}, "can't stand in a line #SBATCH --partition="),
    ],
)
def test_options_that_a_target_cannot_do_are_refused_by_name(
    target: str, options: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    config = write_config(tmp_path / "c.yaml")
    with pytest.raises(ConfigError) as refused:
        plan_of(target, config, **{"nodes": 1, **options} if "nodes" in NEEDED[target] else options)
    assert said in str(refused.value)


def test_a_relative_run_is_refused_where_the_search_starts_elsewhere_and_several_machines_need_workers(
    tmp_path: Path,
) -> None:
    config = write_config(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match="must be absolute"):
        plan_of("ray-job", config, run="runs/one")
    with pytest.raises(ConfigError, match=r"execution\.backend: inline evaluates in one process"):
        plan_of("slurm", config)


def test_a_mirror_takes_the_place_of_a_volume(tmp_path: Path) -> None:
    config = write_config(tmp_path / "c.yaml")
    config.write_text(config.read_text().replace("backend: inline", "mirror: s3://bucket/runs/one"))
    for target, name in (("kuberay", "rayjob.yaml"), ("skypilot", "skypilot.yaml")):
        text = plan_of(target, config, volume=None).files[name]
        assert isinstance(text, str)
        assert "persistentVolumeClaim" not in text
        assert "volumes:\n  /shared" not in text


def test_amounts_of_memory_are_read_in_binary_units() -> None:
    assert [memory_gib(text) for text in ("64G", "512 MiB", "2tb")] == [64.0, 0.5, 2048.0]
