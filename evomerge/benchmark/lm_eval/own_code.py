"""Which files a config's tasks are made of, and which code they run when they are loaded, found without running any.

A task's YAML names Python functions by `!function`, and metrics of Hugging Face's evaluate, which are scripts.
What is shipped with lm-eval is trusted; what comes with task files of one's own is named here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from evomerge.benchmark.lm_eval.isolation import undisturbed
from evomerge.benchmark.lm_eval.tasks import own_tasks, task_manager
from evomerge.config.benchmark import BenchmarkConfig
from evomerge.files.places import YAML_ENDS, local

_FUNCTION = "!function"
_MODULE = "the module "


def own_code(config: BenchmarkConfig, where: str) -> dict[str, tuple[str, ...]]:
    """The Python files and modules that tasks of the config run, by the tasks' names; without those of lm-eval.

    Args:
        config: the `benchmark` section.
        where: the config's file, for messages.

    Raises: BenchmarkError, as `load_tasks`, for folders that aren't there.
    """
    if not config.include_path and not any(entry.overrides for entry in config.tasks):
        return {}
    with undisturbed():
        index = task_manager(config, where).task_index
    found: dict[str, dict[str, None]] = {}
    for entry in config.tasks:
        for name in _members(entry.task, index, set()):
            code = found.setdefault(name, {})
            code.update(dict.fromkeys(_scripts(entry.overrides)))
            path = index[name].yaml_path
            if path is not None and not _is_shipped(path):
                functions = dict.fromkeys(_functions(Path(path), set()))
                code.update(functions)
                code.update(dict.fromkeys(_scripts(index[name].cfg or {}, functions=bool(functions))))
    return {name: tuple(code) for name, code in found.items() if code}


def own_files(config: BenchmarkConfig, where: str) -> dict[str, Path]:
    """The files that tasks of one's own are made of, by name: each YAML, what it includes, its functions' code.

    Of folders in `include_path`, YAML and Python files beside any of these are among them, which code may import.

    Args:
        config: the `benchmark` section.
        where: the config's file, for messages.

    Returns: such as "0/swahili/task.yaml", below the first folder, or "outside/home/me/shared.yaml".
    Raises: BenchmarkError for folders that aren't there.
    """
    if not config.include_path:
        return {}
    with undisturbed():
        index = own_tasks(config, where).task_index
    used: set[Path] = set()
    for entry in config.tasks:
        for name in _members(entry.task, index, set()):
            code = _functions(Path(index[name].yaml_path), used)
            used |= {Path(function) for function in code if not function.startswith(_MODULE)}
    folders = [Path(folder).resolve() for folder in config.include_path]
    found: dict[str, Path] = {}
    for path in sorted(path for path in used if path.is_file() and not _is_shipped(path)):
        number = next((number for number, folder in enumerate(folders) if path.is_relative_to(folder)), None)
        if number is None:
            found[f"outside{path.as_posix()}"] = path
            continue
        beside = sorted(file for file in path.parent.iterdir() if _is_of_a_task(file))
        found |= {f"{number}/{file.relative_to(folders[number]).as_posix()}": file for file in (path, *beside)}
    return found


def _is_of_a_task(file: Path) -> bool:
    return file.name.endswith((*YAML_ENDS, ".py")) and not file.name.startswith(".") and file.is_file()


def _members(name: Any, index: Mapping[str, Any], seen: set[str]) -> Iterator[str]:
    """A task, or a group or tag, with everything in it that is registered, each once."""
    if not isinstance(name, str) or name in seen or name not in index:
        return
    seen.add(name)
    entry = index[name]
    if entry.yaml_path is not None:
        yield name
    for member in sorted(entry.tags) if entry.yaml_path is None else _listed((entry.cfg or {}).get("task")):
        yield from _members(member, index, seen)


def _listed(tasks: Any) -> Iterator[Any]:
    """Names in the list of a group, also in groups that are written out inside it."""
    for part in tasks if isinstance(tasks, list) else ():
        if isinstance(part, Mapping):
            yield part.get("group")
            yield part.get("task")
            yield from _listed(part.get("task"))
        else:
            yield part


class _Reader(yaml.SafeLoader):
    """Notes functions, as lm-eval's own loader would find them, and passes over other tags."""


_Reader.add_constructor(_FUNCTION, lambda loader, node: _Function(str(getattr(node, "value", ""))))


class _Function(str):
    __slots__ = ()


def _functions(path: Path, seen: set[Path]) -> Iterator[str]:
    """Files and modules of the functions that a YAML names, or files that it includes."""
    path = local(path).resolve()
    if path in seen:
        return
    seen.add(path)
    try:
        data = yaml.load(path.read_bytes(), Loader=_Reader)
    except Exception:
        # lm-eval's reader may understand what this one doesn't, so it is named.
        yield str(path)
        return
    includes = data.get("include") if isinstance(data, dict) else None
    for part in includes if isinstance(includes, list) else [includes]:
        if isinstance(part, str):
            yield from _functions(path.parent / part, seen)
    for function in _values(data):
        module = function.rpartition(".")[0]
        file = path.parent / f"{module.replace('.', '/')}.py"
        if not (file.exists() and _is_shipped(file)):
            yield str(file.resolve()) if file.exists() else f"{_MODULE}{module}"


def _values(data: Any) -> Iterator[_Function]:
    waiting, seen = [data], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, _Function):
            yield value
        elif isinstance(value, dict | list) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, dict) else value)


def _scripts(settings: Mapping[str, Any], *, functions: bool = False) -> Iterator[str]:
    """Metrics that evaluate would look for and run; with `functions`, paths stand for functions, named elsewhere."""
    from lm_eval.api.registry import metric_registry

    metrics = settings.get("metric_list")
    for metric in metrics if isinstance(metrics, list) else ():
        name = metric.get("metric") if isinstance(metric, Mapping) else None
        if not isinstance(name, str) or (functions and name.startswith("/")):
            continue
        if metric.get("hf_evaluate") is True or name not in metric_registry:
            yield f"the metric {name} of Hugging Face's evaluate"


def _is_shipped(path: Path) -> bool:
    """Whether a file comes with lm-eval."""
    import lm_eval.tasks

    return local(path).resolve().is_relative_to(Path(lm_eval.tasks.__file__).resolve().parent)
