"""`execution:` and `export:`, where candidates are evaluated and what is written at the end."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from evomerge.config.section import Positive, Section


class ExecutionConfig(Section):
    """Where and how candidates are evaluated. May change between resumes without changing the experiment."""

    backend: str = "auto"
    """Name of an executor. auto: Ray when a cluster address is given or several GPUs or workers are to be used, else
    inline."""
    workers: Positive | None = None
    """Number of Ray workers that there must be room for; None: as many as the cluster has room for at the start."""
    max_workers: Positive | None = None
    """As many workers as the cluster gets room for while the search runs, up to so many; None: none join later."""
    cpus_per_worker: Annotated[float, Field(gt=0)] | None = None
    """Processor cores for each Ray worker; None chooses by the machine."""
    gpus_per_worker: Annotated[float, Field(ge=0)] | None = None
    """GPUs for each worker; None chooses by the machine. A fraction of one lets Ray workers share it. 2 or more
    are for a model that is larger than one: whole layers lie on each, and they work one after the other."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of merged weights and of the export; auto: the base checkpoint's."""
    compute_dtype: Literal["auto", "stored", "float32"] = "auto"
    """What the live model computes in with these weights. stored: their own dtype. auto: that too, unless a CPU is to
    compute and has no arithmetic for it, which is measured; then float32, of which each 16-bit weight is a number.
    A run goes on in what it began with."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where models live; auto: a GPU if there is one."""
    batch_tokens: Positive | None = None
    """Tokens per forward pass; None sizes it to memory."""
    max_length: Positive | None = None
    """Context window in tokens; None: the model's own."""
    timeout_s: Annotated[float, Field(gt=0)] | None = None
    """Longest time for one candidate."""
    retries: Annotated[int, Field(ge=0)] = 2
    """How often a candidate is tried again after its worker died."""
    ray_address: str | None = None
    """Address of a Ray cluster; None: the one this process runs in, or a local one."""
    prepared_directory: str | None = None
    """Where workers share what the merge method computes once; None: in the run directory. A fast disk of each node,
    such as $TMPDIR, spares a slow shared one; ~ and variables are those of the worker's machine."""

    mirror: str | None = None
    """A folder on object storage, such as s3://bucket/runs/one, to which the run directory is uploaded as it grows. A
    search whose run directory isn't there any more continues from it."""

    @field_validator("gpus_per_worker")
    @classmethod
    def _whole_beyond_one(cls, gpus: float | None) -> float | None:
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise ValueError(f"{gpus:g} GPUs: give a fraction of one GPU, or a whole number of them")
        return gpus

    @field_validator("mirror")
    @classmethod
    def _is_a_url(cls, url: str | None) -> str | None:
        if url is not None and "://" not in url:
            raise ValueError("give a URL, such as s3://bucket/runs/one; a folder of this machine is file:///folder")
        return url

    @model_validator(mode="after")
    def _no_less_than_at_the_start(self) -> ExecutionConfig:
        if self.max_workers is not None and self.workers is not None and self.max_workers < self.workers:
            raise ValueError(f"max_workers: {self.max_workers} is below workers: {self.workers}")
        return self

    @field_validator("prepared_directory")
    @classmethod
    def _the_same_everywhere(cls, path: str | None) -> str | None:
        if path is not None and not path.startswith(("/", "~", "$")):
            raise ValueError("give an absolute path, or one that begins with ~ or a variable: workers start elsewhere")
        return path


class ExportConfig(Section):
    """How winning merges are written."""

    shard_size: str = "5GB"
    """Largest size of a safetensors file, such as 2GB."""
    directory: str | None = None
    """Export the winner there when the search ends; None: only on `evomerge export`."""
    license: str | None = None
    """Licence of the merge, for its card, such as apache-2.0; None: that of its models, if all have the same."""
    language: tuple[str, ...] = ()
    """Languages of the merge, for its card, such as sw; none: those of the tasks and of its models."""
