"""Whether what `evomerge analyse` knows helps a search: starting weights and first steps, against none.

    python benchmarks/toolkit/analysis_prior.py --seeds 5 --work DIR
    python benchmarks/toolkit/analysis_prior.py --seeds 3 --work DIR --config CONFIG

For each seed the small demo's models are trained, or those of an experiment of one's own are taken, and one merge is
searched from each of three starts with the same seed and the same number of evaluations, without a uniform scan: the
method's default; the weights with which all experts change the base equally far; these with first steps by dimension.
With `--factor` one expert's task vector is multiplied, which makes distances uneven on purpose. Reported are the
winner's accuracy on held-out items, and on search items the mean of the first generation and the best of all: means
over the seeds with their standard errors.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.torch import load_file, save_file

import evomerge
from evomerge.analysis.prior import Prior, prior_of
from evomerge.config.config import Config
from evomerge.demo.build import SMALL, build_demo
from evomerge.files.atomic import json_text

ARMS = ("default", "start", "start and steps")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--factor", type=float, default=1.0, help="of the second expert's task vector")
    parser.add_argument("--evaluations", type=int, default=24)
    parser.add_argument("--work", type=Path, required=True, help="folder for models and runs; kept for the next time")
    parser.add_argument("--config", type=Path, help="an experiment over the parameter `weight`, instead of the demo's")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS, help="of these starts alone")
    options = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in options.arms}
    for seed in range(options.seeds):
        folder = options.work / f"seed-{seed}"
        config = (
            build_demo(folder, seed=seed, settings=SMALL)
            if options.config is None
            else own(options.config, folder, seed)
        )
        if options.factor != 1.0:
            config = scaled(folder, options.factor)
        prior = look(config)
        for arm in options.arms:
            run = folder / f"run {options.factor:g} {arm} {options.evaluations}"
            found[arm].append(measured(seeded(config, prior, arm, options.evaluations), run))
            print(json.dumps({"seed": seed, "arm": arm, "starts": dict(prior.starts), **found[arm][-1]}), flush=True)
    print("\n| start | test accuracy | first generation, search | best, search |")
    print("|---|---|---|---|")
    for arm, rows in found.items():
        print(f"| {arm} | " + " | ".join(spread([row[key] for row in rows]) for key in rows[0]) + " |")
    for arm in options.arms:
        if arm == ARMS[0] or ARMS[0] not in options.arms:
            continue
        gains = [one["test"] - two["test"] for one, two in zip(found[arm], found[ARMS[0]], strict=True)]
        print(f"{arm} over default, test, paired by seed: {spread(gains)}")


def own(path: Path, folder: Path, seed: int) -> Path:
    """A copy of an experiment with this seed."""
    config = Config.from_file(path)
    seeded = config.model_copy(update={"search": config.search.model_copy(update={"seed": seed})})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(seeded.to_yaml(), encoding="utf-8")
    return folder / "config.yaml"


def scaled(folder: Path, factor: float) -> Path:
    """A config whose last expert, a model or an adapter, has its task vector times a factor."""
    config = Config.from_file(folder / "config.yaml").relative_to(folder)
    name, expert = list(config.models.experts.items())[-1]
    source, target = Path(expert.path), (folder / "experts" / f"{name}-{factor:g}").absolute()
    if not target.exists():
        shutil.copytree(source, target)
        adapter = target / "adapter_config.json"
        if adapter.exists():
            settings = json.loads(adapter.read_text(encoding="utf-8"))
            adapter.write_text(json_text({**settings, "lora_alpha": settings["lora_alpha"] * factor}), encoding="utf-8")
        else:
            base = load_file(Path(config.models.base.path) / "model.safetensors")
            tensors = {
                key: base[key] + factor * (tensor - base[key])
                for key, tensor in load_file(source / "model.safetensors").items()
            }
            save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    data = config.model_dump(mode="json")
    data["models"]["experts"][name]["path"] = str(target)
    path = folder / f"config-{factor:g}.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return path


def look(config: Path) -> Prior:
    """What the analysis of its models says for its space."""
    found = evomerge.analyse(Config.from_file(config), spectra="none")
    file = config.with_name(f"{config.stem}-analysis.json")
    file.write_text(json_text(found.to_dict()), encoding="utf-8")
    return prior_of(file, Config.from_file(config).space)


def seeded(config: Path, prior: Prior, arm: str, evaluations: int) -> Config:
    """The experiment from one of the starts."""
    data: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8"))
    data["search"] |= {"scan": 1, "evaluations": evaluations, "budget": {}, "initial": "default"}
    data["space"]["parameters"]["weight"]["high"] = prior.high
    if arm != ARMS[0]:
        data["space"]["parameters"]["weight"]["start"] = dict(prior.starts)
    if arm == ARMS[2]:
        data["space"]["steps"] = dict(prior.steps)
    return Config.from_data(data).relative_to(config.parent)


def measured(config: Config, run: Path) -> dict[str, float]:
    """Accuracy of the winner on test items, and on search items in the first generation and at the end."""
    result = evomerge.search(config, run)
    test = {model["kind"]: model["score"] for model in result.data["test"]["models"]}
    candidates = [one for one in evomerge.open_run(run).trials() if one.generation is not None]
    scores = [(one.generation, one.score) for one in candidates if one.score is not None]
    first = [score for generation, score in scores if generation == min(number for number, _ in scores)]
    winner = test.get("winner", test.get("uniform", float("nan")))
    return {"test": winner, "first": float(np.mean(first)), "best": max(score for _, score in scores)}


def spread(values: list[float]) -> str:
    """Mean with its standard error."""
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) / len(values) ** 0.5:.3f}"


if __name__ == "__main__":
    main()
