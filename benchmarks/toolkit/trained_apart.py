"""Five networks trained apart, averaged: as they are, matched to the first, by MergeMany and by C2M3.

    python benchmarks/toolkit/trained_apart.py --page trained_apart.html

Networks are trained here, on small sets of images that packages ship (needs the extra `toolkit`). Each average is
reported as it is, and with the statistics of its units repaired on the training images: by REPAIR, or by measuring
running statistics anew where the network normalises by them. The barrier is the loss of the average less the mean loss
of the five. Around cycles of three models, matched pair by pair or through C2M3's common place, it is counted how many
hidden units come back to themselves.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from statistics import mean, stdev
from time import perf_counter
from typing import Any

import torch
from data import Images, load
from networks import Quality, quality
from populations import KINDS, has_running_statistics, holding, train_apart, weights
from torch import Tensor, nn

from evomerge.alignment import ALIGNMENTS
from evomerge.alignment.repair import recompute_statistics, repair
from evomerge.alignment.spec import Map, Maps, Spec, composed, inverse
from evomerge.alignment.specs import spec_of
from evomerge.alignment.symmetries import Symmetries
from evomerge.report.figures import bars
from evomerge.report.page import Page, require_figures
from evomerge.streams import stream

BATCH = 256
METHODS = {"naive": None, "matched to the first": "weight_matching", "MergeMany": "merge_many", "C2M3": "c2m3"}
AS_IT_IS, REPAIRED = "as it is", "repaired"


def spec_for(kind: str, network: nn.Module) -> Spec:
    """The maps that leave such a network's function as it is."""
    shapes = {name: tuple(tensor.shape) for name, tensor in weights(network).items()}
    return spec_of(KINDS[kind].model_type, shapes, {}, Symmetries())


def maps_by(method: str | None, spec: Spec, networks: Sequence[nn.Module], seed: int) -> Sequence[Maps]:
    """Each network's maps, those onto the first one; None moves nothing."""
    if method is None:
        return [spec.identity() for _ in networks]
    models = [weights(network) for network in networks]
    return ALIGNMENTS.get(method)().align(spec, models, reference=0, generator=stream(seed, method)).onto(0)


def mapped(spec: Spec, maps: Sequence[Maps], networks: Sequence[nn.Module]) -> list[nn.Module]:
    """The networks, mapped."""
    return [
        holding(network, {name: spec.apply(own, name, tensor) for name, tensor in weights(network).items()})
        for own, network in zip(maps, networks, strict=True)
    ]


def averaged(networks: Sequence[nn.Module]) -> nn.Module:
    """A network with the mean of their tensors."""
    tensors = [weights(network) for network in networks]
    mean_of: dict[str, Tensor] = {name: torch.stack([each[name] for each in tensors]).mean(0) for name in tensors[0]}
    return holding(networks[0], mean_of)


def repaired(network: nn.Module, networks: Sequence[nn.Module], images: Images) -> nn.Module:
    """A copy whose units vary as those of the networks that it is an average of, on the training images."""
    copy = holding(network, weights(network))
    # In a random order already, as all splits are.
    batches = list(images.train.inputs.split(BATCH))
    if has_running_statistics(copy):
        recompute_statistics(copy, batches)
    else:
        repair(copy, networks, batches)
    return copy


def returning(spec: Spec, onto: Mapping[tuple[int, int], Maps], count: int) -> float:
    """The share of hidden units that come back to themselves, over all cycles of three models and both ways round.

    Args:
        spec: of the models.
        onto: by model and target, the maps that bring it there; the other way by their inverse if it isn't there.
        count: of models.
    """

    def way(start: int, end: int) -> Maps:
        return onto[start, end] if (start, end) in onto else inverse(onto[end, start])

    back = every = 0
    for one, two, three in combinations(range(count), 3):
        for stops in ((one, two, three, one), (one, three, two, one)):
            around: Mapping[str, Map] = spec.identity()
            for start, end in pairwise(stops):
                around = composed(way(start, end), around)
            for label, map_ in around.items():
                order = map_.arrays()["order"]
                back += int((order == torch.arange(len(order))).sum())
                every += spec.labels[label].sizes["unit"]
    return back / every


def pairwise_maps(spec: Spec, networks: Sequence[nn.Module], seed: int) -> dict[tuple[int, int], Maps]:
    """Each model matched to each one before it, pair by pair."""
    found = {}
    for target, start in combinations(range(len(networks)), 2):
        found[start, target] = maps_by("weight_matching", spec, [networks[target], networks[start]], seed)[1]
    return found


def measured(kind: str, images: Images, seed: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for the networks themselves, and one for each way to average them."""
    count = options.models
    networks = train_apart(KINDS[kind], images, count, seed=seed, epochs=options.epochs, folder=options.folder)
    spec = spec_for(kind, networks[0])
    ends = [quality(network, images.test) for network in networks]
    own = Quality(mean(end.accuracy for end in ends), mean(end.loss for end in ends))
    common = {"kind": kind, "seed": seed}
    rows: list[dict[str, Any]] = [{**common, "method": "ends", AS_IT_IS: own, REPAIRED: own}]
    for name, method in METHODS.items():
        start = perf_counter()
        maps = maps_by(method, spec, networks, seed)
        seconds = perf_counter() - start
        moved = mapped(spec, maps, networks)
        merged = averaged(moved)
        row: dict[str, Any] = {**common, "method": name, "seconds": seconds, AS_IT_IS: quality(merged, images.test)}
        row[REPAIRED] = quality(repaired(merged, moved, images), images.test)
        if method == "c2m3":
            row["returning"] = returning(
                spec, {(place, 0): own for place, own in enumerate(maps)} | through(maps), count
            )
        rows.append(row)
    rows.append({**common, "method": "pairs", "returning": returning(spec, pairwise_maps(spec, networks, seed), count)})
    return rows


def through(maps: Sequence[Maps]) -> dict[tuple[int, int], Maps]:
    """From each model to each other one, through the common place."""
    return {
        (start, end): composed(inverse(maps[end]), maps[start])
        for start in range(len(maps))
        for end in range(len(maps))
        if start != end
    }


def spread(values: Sequence[float], digits: int) -> str:
    """Mean ± standard deviation over seeds."""
    deviation = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{deviation}"


COLUMNS = ("", "accuracy, %", "repaired", "barrier, nats", "repaired", "alignment, s")


def table(rows: Sequence[dict[str, Any]], kind: str) -> list[tuple[str, ...]]:
    """The lines of the table of one kind of network."""
    found = []
    ends = {row["seed"]: row[AS_IT_IS] for row in rows if row["kind"] == kind and row["method"] == "ends"}
    for name in ("ends", *METHODS):
        own = [row for row in rows if row["kind"] == kind and row["method"] == name]
        cells = [name]
        for which in (AS_IT_IS, REPAIRED):
            cells.append(spread([100 * row[which].accuracy for row in own], 1))
        for which in (AS_IT_IS, REPAIRED):
            losses = [row[which].loss - (0 if name == "ends" else ends[row["seed"]].loss) for row in own]
            cells.append(f"({spread(losses, 3)})" if name == "ends" else spread(losses, 3))
        seconds = [row["seconds"] for row in own if "seconds" in row]
        cells.append(f"{mean(seconds):.1f}" if seconds and name != "naive" else "")
        found.append(tuple(cells))
    return found


def cycles(rows: Sequence[dict[str, Any]], kind: str) -> str:
    """How many units come back, in a sentence."""
    shares = {
        method: spread([100 * row["returning"] for row in rows if row["kind"] == kind and row["method"] == method], 1)
        for method in ("pairs", "C2M3")
    }
    return (
        f"Around cycles of three models {shares['pairs']}% of the hidden units come back to themselves when they are "
        f"matched pair by pair, and {shares['C2M3']}% through C2M3's common place."
    )


def page(rows: Sequence[dict[str, Any]], kinds: Sequence[str], title: str) -> Page:
    """Tables and bars of all kinds."""
    found = Page("Networks trained apart, averaged", title)
    for kind in kinds:
        lines = table(rows, kind)
        found.heading(kind)
        found.table(COLUMNS, lines)
        found.say(cycles(rows, kind))
        series = {
            which: [
                mean(100 * row[which].accuracy for row in rows if row["kind"] == kind and row["method"] == name)
                for name in METHODS
            ]
            for which in (AS_IT_IS, REPAIRED)
        }
        found.figure(bars(f"{kind}: the average of five", list(METHODS), series, y="accuracy on test images, %"))
    return found


def main() -> None:
    """Train, average and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["mlp", "vgg", "resnet"])
    parser.add_argument("--models", type=int, default=5, help="networks in each average")
    parser.add_argument("--seeds", type=int, default=3, help="sets of networks")
    parser.add_argument("--epochs", type=int, help="of training, instead of each kind's own")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where trained networks are kept, and taken from")
    parser.add_argument("--json", type=Path, help="a file for the figures of each seed")
    parser.add_argument("--page", type=Path, help="a file for tables and figures as HTML")
    options = parser.parse_args()
    if options.page is not None:
        require_figures()
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []
    for kind in options.kinds:
        images = load(KINDS[kind].data)
        for seed in range(options.seeds):
            rows += measured(kind, images, seed, options)
        print(f"{kind} on {KINDS[kind].data}, {options.models} networks, {options.seeds} seeds")
        lines = [COLUMNS, *table(rows, kind)]
        print("\n".join(f"{line[0]:<22}" + "".join(f"{cell:>17}" for cell in line[1:]) for line in lines))
        print(cycles(rows, kind) + "\n", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    if options.page is not None:
        page(rows, options.kinds, f"{options.models} networks, {options.seeds} seeds, mean ± deviation.").write(
            options.page
        )


if __name__ == "__main__":
    main()
