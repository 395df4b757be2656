"""What is known of a search before it is started, as plain values. Does not know how it is found out."""

from __future__ import annotations

from dataclasses import dataclass, field

from evomerge.inference.plan import Work
from evomerge.space.base import Dimension
from evomerge.study.experiment import Experiment


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFound:
    """Where one model of the config is."""

    name: str
    path: str
    state: str
    """folder, cache, unresolved, or recipe, which is merged first."""
    size_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """What a search will be, as far as it can be known on this machine now."""

    models: list[ModelFound]
    dtype: str | None = None
    arithmetic: str = ""
    """In which formats merged weights are kept and computed with, and why."""
    dimensions: list[Dimension] = field(default_factory=list)
    groups: int | None = None
    population: int | None = None
    in_flight: str | None = None
    """Candidates that are evaluated at any time, in words, where there are no generations."""
    items: dict[str, int] = field(default_factory=dict)
    """Items by split; empty if the benchmark couldn't be built here."""
    tokens: dict[str, Work] = field(default_factory=dict)
    """What answering all search items takes by how contexts are shared, cheapest first; the first form that the model
    answers alike is taken when workers start."""
    evaluations: dict[str, int] = field(default_factory=dict)
    """Candidate evaluations by phase: baselines, search, validation, test."""
    backend: str = ""
    live_bytes: int | None = None
    """The live model, one per worker."""
    export_bytes: int | None = None
    """The merged tensors as they are exported."""
    merged_bytes: int = 0
    """The models that are recipes, which the search merges first."""
    prepared_bytes: int | None = None
    """What the method and adapters keep besides, per worker; on a GPU also `state_bytes`."""
    state_bytes: int | None = None
    """What the method computes once for the run, in files that the workers of a machine map together."""
    baselines: list[str] = field(default_factory=list)
    """Merges of other methods that the search is compared with."""
    baseline_bytes: int = 0
    """The most that one of their methods keeps in a worker's memory, or maps, beside the search's own."""
    baseline_state_bytes: int = 0
    """What all of their methods compute once, in files like the search's own."""
    state_folder: str = ""
    """Where these files will lie; RUN stands for the run directory."""
    single_bytes: int = 0
    """The largest model that is scored by itself: a worker holds it beside the live one while it answers."""
    mapped_bytes: int | None = None
    """The models' files, memory-mapped once per node."""
    process_bytes: int | None = None
    """What Python and the libraries take in each worker, going by this process."""
    unresolved: list[str] = field(default_factory=list)
    """Models that aren't on this machine, one of each path and why."""
    unchecked: list[str] = field(default_factory=list)
    """What couldn't be looked at from here."""
    is_untrusted: bool = False
    """Whether the benchmark brings code that wasn't to be run, so that it wasn't looked at."""
    answers_parts: bool = False
    """Whether candidates may answer only some of the search items."""
    spending: list[str] = field(default_factory=list)
    """What the search spends where, and when it ends, in sentences."""
    notes: list[str] = field(default_factory=list)
    """How models that aren't whole checkpoints become experts, and what else of one's own will be run."""
    warnings: list[str] = field(default_factory=list)
    experiment: Experiment | None = field(default=None, repr=False)
    """The opened models with the benchmark, for whoever goes on from here; None if a model is unresolved or merged
    first, or the benchmark untrusted."""

    @property
    def memory_bytes_per_worker(self) -> int | None:
        """Memory of one worker beside the mapped files and the activations of a batch."""
        if self.live_bytes is None or self.prepared_bytes is None:
            return None
        return self.live_bytes + self.prepared_bytes
