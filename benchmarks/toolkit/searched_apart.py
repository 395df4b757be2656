"""Networks trained apart, brought together by C2M3, then searched: does evolution beat their plain average?

    python benchmarks/toolkit/searched_apart.py

A genome has a weight for every network and layer, starting from the plain average. Fitness is the negative
cross-entropy on the search images, which no network was trained on; accuracy and loss are reported on test images,
which nothing was chosen by. Controls cost as many evaluations: genomes drawn at random from the same ranges, and a
scan of one common weight for all networks and layers. The best single network is chosen on the search images too.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from data import Images, load
from networks import Quality, quality
from populations import KINDS, has_running_statistics, holding, train_apart, weights
from torch import nn
from torch.func import functional_call
from trained_apart import averaged, mapped, maps_by, repaired, spec_for, spread

from evomerge.algorithms import PROPOSERS
from evomerge.space.base import Dimension, Genome
from evomerge.streams import derive


class Merges:
    """Weighted sums of networks, one weight for each network and layer; a genome lists them network by network."""

    def __init__(self, networks: Sequence[nn.Module], images: Images) -> None:
        self._network, self._images = networks[0], images
        models = [weights(network) for network in networks]
        self._stacked = {name: torch.stack([model[name] for model in models]) for name in models[0]}
        self._layers = list(dict.fromkeys(name.rpartition(".")[0] for name in self._stacked))
        self._count = len(networks)

    def dimensions(self) -> list[Dimension]:
        """A weight from -0.2 to 0.8 for each network and layer, at first that of the plain average."""
        return [
            Dimension(name=f"{network}.{layer}", low=-0.2, high=0.8, initial=1 / self._count)
            for network in range(self._count)
            for layer in self._layers
        ]

    def common(self, weight: float) -> Genome:
        """The genome with one weight everywhere."""
        return np.full(self._count * len(self._layers), weight)

    def merged(self, genome: Genome) -> nn.Module:
        """The network that a genome stands for."""
        return holding(self._network, self._tensors(genome))

    @torch.no_grad()
    def fitness(self, genome: Genome) -> float:
        """Negative cross-entropy on the search images; higher is better."""
        split = self._images.search
        logits = functional_call(self._network, self._tensors(genome), (split.inputs,))
        return -nn.functional.cross_entropy(logits.double(), split.labels).item()

    def _tensors(self, genome: Genome) -> dict[str, torch.Tensor]:
        table = torch.from_numpy(np.reshape(genome, (self._count, -1)).astype(np.float32))
        places = {layer: place for place, layer in enumerate(self._layers)}
        return {
            name: torch.tensordot(table[:, places[name.rpartition(".")[0]]], stack, dims=1)
            for name, stack in self._stacked.items()
        }


def searched(merges: Merges, algorithm: str, *, budget: int, population: int, seed: int) -> Genome:
    """The best genome that an algorithm found in as many evaluations."""
    proposer = PROPOSERS.get(algorithm)(merges.dimensions(), seed=seed, population=population, step_size=0.1)
    best, best_fitness = merges.common(0.0), -np.inf
    for _ in range(budget // population):
        genomes = proposer.ask()
        fitness = np.array([merges.fitness(genome) for genome in genomes])
        proposer.tell(genomes, fitness[:, None])
        if fitness.max() > best_fitness:
            best, best_fitness = genomes[int(fitness.argmax())], float(fitness.max())
    return best


def measured(kind: str, images: Images, seed: int, options: argparse.Namespace) -> dict[str, tuple[Quality, Quality]]:
    """By what was done, quality on search and on test images."""
    networks = train_apart(KINDS[kind], images, options.models, seed=seed, epochs=options.epochs, folder=options.folder)
    if has_running_statistics(networks[0]):
        raise SystemExit(f"{kind} normalises by running statistics, which every candidate would have to measure anew")
    spec = spec_for(kind, networks[0])
    moved = mapped(spec, maps_by("c2m3", spec, networks, seed), networks)
    merges = Merges(moved, images)
    population = 16
    budget = options.evaluations // population * population
    settings = {"budget": budget, "population": population, "seed": derive(seed, "search", bits=31)}
    scan = [merges.common(weight) for weight in np.linspace(0, 0.8, budget)]
    plain = averaged(moved)
    apart = Merges(networks, images)
    found = {
        "best single network": max(networks, key=lambda network: -quality(network, images.search).loss),
        "average, not aligned": averaged(networks),
        "average, aligned": plain,
        "the same, repaired": repaired(plain, moved, images),
        "scan of one weight": merges.merged(max(scan, key=merges.fitness)),
        "random search": merges.merged(searched(merges, "random", **settings)),
        "CMA-ES": merges.merged(searched(merges, "cma", **settings)),
        "CMA-ES, not aligned": apart.merged(searched(apart, "cma", **settings)),
    }
    return {name: (quality(net, images.search), quality(net, images.test)) for name, net in found.items()}


def main() -> None:
    """Train, align, search and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=["mlp", "mlp1d", "vgg"], default=["mlp", "vgg"])
    parser.add_argument("--models", type=int, default=5, help="networks to merge")
    parser.add_argument("--seeds", type=int, default=3, help="sets of networks")
    parser.add_argument("--evaluations", type=int, default=400, help="candidates of each search")
    parser.add_argument("--epochs", type=int, help="of training, instead of each kind's own")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where trained networks are kept, and taken from")
    parser.add_argument("--json", type=Path, help="a file for the figures of each seed")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = {}
    for kind in options.kinds:
        images = load(KINDS[kind].data)
        every = []
        for seed in range(options.seeds):
            every.append(measured(kind, images, seed, options))
            print(f"  searched {kind} {seed}", flush=True)
        rows[kind] = every
        print(f"{kind} on {KINDS[kind].data}, {options.models} networks, {options.seeds} seeds")
        print(f"{'':<24}{'search loss':>18}{'test loss':>18}{'test accuracy, %':>18}{'less the average':>18}")
        for name in every[0]:
            search, test, accuracy, gain = zip(
                *(
                    (
                        each[name][0].loss,
                        each[name][1].loss,
                        100 * each[name][1].accuracy,
                        100 * (each[name][1].accuracy - each["average, aligned"][1].accuracy),
                    )
                    for each in every
                ),
                strict=True,
            )
            cells = spread(search, 3), spread(test, 3), spread(accuracy, 1), spread(gain, 1)
            print(f"{name:<24}" + "".join(f"{cell:>18}" for cell in cells))
        print(flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
