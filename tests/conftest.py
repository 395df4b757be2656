"""Fixtures for every test: no network, no shared caches, one torch thread, small real models."""

from __future__ import annotations

import gc
import math
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from functools import cache
from pathlib import Path
from typing import Any

# Before any import of datasets or transformers, which read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="evomerge-datasets-")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings

# To explain a failure Hypothesis traces every line. In a process that had run thousands of tests CPython 3.11 was seen
# to spin on that for an hour, so that a broken law held up everything instead of being reported.
# How long an example takes says how busy the machine is.
settings.register_profile(
    "unexplained",
    parent=settings(),
    phases=[phase for phase in Phase if phase is not Phase.explain],
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("unexplained")

# Triton reads this once, too. Its interpreter runs kernels for GPUs where there is none.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# A shell starts background jobs with SIGINT ignored, which every process started by a test would inherit.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


NO_TIME = "no time was left for slow tests"
RAY_S = 1500
"""After how many seconds a test of Ray has failed, which may wait several times for what starts on a busy machine."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage among what is imported meanwhile: it stays, and looking takes a tenth of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--slow-until",
        type=float,
        default=math.inf,
        metavar="TIME",
        help="begin no slow test, and none of Ray, after this time in seconds since 1970; the others come first",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the files that have slow tests, so that no process is left alone with one of them at the end.

    Where their time is limited, begin with the files that have none, and end with Ray's; the others come in another
    order each time, so that those which a slow machine has no time for aren't always the same.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    rays = {item.path for item in items if item.get_closest_marker("ray")}
    until = config.getoption("slow_until")
    if math.isinf(until):
        items.sort(key=lambda item: item.path not in slow)
    else:
        # The same order in every process of one run.
        draw = random.Random(until)
        place = {path: draw.random() for path in sorted(slow)}
        items.sort(key=lambda item: (item.path in slow, item.path in rays, place.get(item.path, 0.0)))
    for item in items:
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.timeout(RAY_S))


def pytest_collection_finish() -> None:
    """Look for garbage less often, and not among imported libraries and collected tests, which stay.

    Training a model looks for it at every start, which took longer than the training of small ones.
    """
    gc.set_threshold(20_000, 20, 20)
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the files whose tests were not run for want of time: nothing is known of what they look at."""
    left = Counter(
        report.nodeid.partition("::")[0]
        for report in terminalreporter.stats.get("skipped", ())
        if isinstance(report.longrepr, tuple) and NO_TIME in report.longrepr[2]
    )
    if left:
        terminalreporter.section(f"not run: {left.total()} slow tests, for which no time was left")
        for file, count in sorted(left.items()):
            terminalreporter.line(f"{count:5} of {file}")


def pytest_unconfigure() -> None:
    """Objects that are kept out of the collector's sight look like leaks at the end."""
    gc.unfreeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    is_slow = item.get_closest_marker("slow") or item.get_closest_marker("ray")
    if is_slow and time.time() > item.config.getoption("slow_until"):
        pytest.skip(NO_TIME)
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no GPU here")


@pytest.fixture(scope="session", autouse=True)
def _one_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _no_wait_for_disks() -> Iterator[None]:
    """What a killed process has written is there without it; only a power cut, which no test tries, could tell."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A Ray with four CPUs and two pretended GPUs, which takes seconds to start. Executors find it and leave it."""
    import ray

    from evomerge.execute.ray.cluster import private_environment

    settings: dict[str, Any] = {"num_cpus": 4, "num_gpus": 2, "include_dashboard": False, "log_to_driver": False}
    with private_environment():
        ray.init(address="local", **settings)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a tiny Llama family: "base", "a" and "b". Don't write into them."""
    from evomerge.testing.models import tiny_family

    return tiny_family(tmp_path_factory.mktemp("tiny_llama"), "llama")


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a tiny Llama family of four layers, whose heads are their own. Don't write into them."""
    from evomerge.testing.models import tiny_family

    return tiny_family(tmp_path_factory.mktemp("family"), "llama", layers=4, tied=False)


@pytest.fixture(scope="session")
def family_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Path]]:
    """Folders of the tiny family that `tiny_family` makes of these arguments, once. Don't write into them."""
    from evomerge.testing.models import tiny_family

    return cache(lambda *wanted, **settings: tiny_family(tmp_path_factory.mktemp("family"), *wanted, **settings))


@pytest.fixture(scope="session")
def stock_results_alone() -> Iterator[None]:
    """lm-eval's own runs don't ask the system for versions of everything, which takes seconds and isn't looked at."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real benchmark data beside the checkout; tests that need it are skipped where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no benchmark data beside the checkout")
    return folder
