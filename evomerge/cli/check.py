"""`evomerge check`: what is wrong with a config, and what its search will take."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from evomerge.cli import complete
from evomerge.cli.settings import RunAhead, Settings, again, merged_ahead
from evomerge.errors import ConfigError, counted

if TYPE_CHECKING:
    from rich.console import Console

    from evomerge.config.config import Config
    from evomerge.inference.plan import Work
    from evomerge.study.experiment import Experiment
    from evomerge.study.pilot import PilotReport
    from evomerge.study.preflight import Preflight

_SHOWN_DIMENSIONS = 12
_WORTH_TELLING = 1.1
_STATES = {
    "folder": "a folder",
    "cache": "in the hub's cache",
    "unresolved": "not on this machine",
    "recipe": "merged first",
}


def check(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG",
            autocompletion=complete.configs_and_runs,
            help="The experiment's YAML file, a recipe or mergekit file, or a run directory.",
            show_default=False,
        ),
    ],
    pilot: Annotated[
        bool, typer.Option("--pilot", help="Also time one candidate, to estimate the whole search.")
    ] = False,
    dimensions: Annotated[bool, typer.Option("--dimensions", help="List every searched coefficient.")] = False,
    trust_tasks: Annotated[
        bool,
        typer.Option("--trust-tasks", help="Load code of your own, of tasks or a function, as a search does."),
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Of a damaged run directory: keep all that can be proven good.")
    ] = False,
    set_: Settings = None,
    run: RunAhead = None,
) -> None:
    """Validate a config and show its cost: dimensions, groups, memory, disk. Scores nothing without --pilot.

    Works without network, and says what it couldn't look at then. Code of your own, of tasks or a function, isn't run
    without --trust-tasks. Exit code 1 if anything is wrong.

    Of a run directory, it reads every line and compares the files with each other. Of a recipe or mergekit file, it
    lists the merges to be made, one after the other, and looks whether their models fit.

    **Examples:** `evomerge check configs/swahili.yaml --pilot`, `evomerge check runs/swahili --repair`,
    `evomerge check configs/swahili.yaml --set merge.method=ties`
    """
    if config.is_dir():
        if set_:
            raise ConfigError(f"{config}: --set is for a config; the one of a run stays as the run has it")
        from evomerge.cli.check_run import check_run

        check_run(config, repair=repair)
        return
    if repair:
        raise ConfigError(f"{config}: --repair is for a run directory, and this isn't one")
    from evomerge.study.check_merge import holds_merges

    if holds_merges(config):
        if set_ or pilot or dimensions or run:
            raise ConfigError(f"{config}: is a merge; --set, --pilot, --run and --dimensions are for a search's config")
        _check_merges(config)
        return
    from evomerge.cli.console import say, stdout
    from evomerge.config.config import Config
    from evomerge.study.check import check as run_check

    experiment = Config.from_file(config, settings=set_ or ())
    console = stdout()
    report = run_check(experiment, where=str(config), trust_tasks=trust_tasks)
    _show(console, report, every_dimension=dimensions)
    if pilot:
        _show_pilot(console, report, _opened(report, experiment, config, run))
    where = "" if run is None or report.unresolved else f" --run {shlex.quote(str(run))}"
    say(console, _conclusion(report, shlex.quote(str(config)) + where + again(set_)))


def _opened(report: Preflight, experiment: Config, config: Path, run: Path | None) -> Experiment:
    """What a pilot tries, with models that are recipes merged. Raises: ConfigError where something is missing."""
    if report.unresolved or report.is_untrusted:
        needs = "every model on this machine" if report.unresolved else "a benchmark that it may load (--trust-tasks)"
        raise ConfigError(f"{config}: the pilot needs {needs}; what is missing is listed above")
    if report.experiment is not None:
        return report.experiment
    from evomerge.cli.console import say, stdout
    from evomerge.study.advice import left_out
    from evomerge.study.experiment import open_experiment

    folders = merged_ahead(experiment, config, run, lambda what: say(stdout(), what))
    opened = open_experiment(folders, where=str(config))
    # Of outlines it couldn't be known.
    for sentence in left_out(opened.space):
        say(stdout(), f"Note: {sentence}")
    return opened


def _check_merges(file: Path) -> None:
    """Show the merges of a file in the order in which they are made."""
    from evomerge.cli.console import say, stdout, table
    from evomerge.score.numbers import size
    from evomerge.study.check_merge import check_merges

    found, console = check_merges(file), stdout()
    shown = table("merge", "method", "of", "size", right=("size",))
    for merge in found.merges:
        bytes_ = "" if merge.size_bytes is None else size(merge.size_bytes)
        name = "OUT" if merge.name is None else f"OUT-{merge.name}"
        shown.add_row(Text(name), merge.method or "", Text(", ".join(merge.merges)), bytes_)
    console.print(shown, "")
    for note in found.notes:
        say(console, f"Note: {note}")
    for unchecked in found.unchecked:
        say(console, Text.assemble(("Not checked: ", "yellow"), unchecked))
    clean = "Nothing wrong was found in what could be looked at" if found.unchecked else "No mistake was found"
    say(console, f"{clean}. Next: evomerge merge {shlex.quote(str(file))} OUT")


def _conclusion(report: Preflight, config: str) -> str:
    """What the check comes to, and the next command."""
    if report.unchecked:
        found = "Nothing wrong was found in what could be looked at"
    elif report.warnings:
        found = "No mistake was found; see the warnings above"
    else:
        found = "No mistake was found"
    return f"{found}. Next: evomerge {'prefetch' if report.unresolved else 'search'} {config}"


def _show(console: Console, report: Preflight, *, every_dimension: bool) -> None:
    from evomerge.cli.console import say, table
    from evomerge.score.numbers import size

    models = table("model", "from", "is", "size", right=("size",))
    for model in report.models:
        bytes_ = "" if model.size_bytes is None else size(model.size_bytes)
        style = "yellow" if model.state == "unresolved" else None
        models.add_row(model.name, Text(model.path), _STATES[model.state], bytes_, style=style)
    console.print(models, "")
    if report.dimensions:
        console.print(_sizes(report), "")
        _show_dimensions(console, report, every=every_dimension)
    for note in report.notes:
        say(console, f"Note: {note}")
    for warning in report.warnings:
        say(console, Text.assemble(("Warning: ", "yellow"), warning))
    for unchecked in report.unchecked:
        say(console, Text.assemble(("Not checked: ", "yellow"), unchecked))


_FORMS = {
    "shared": "prefixes shared by items",
    "packed": "answers that share their context",
    "plain": "nothing shared",
}


def _tokens(work: Mapping[str, Work], whom: str) -> str:
    """What the search items take in each form, for a candidate or for one that answers them all; and which is taken."""
    (best, least), *others = work.items()
    rest = ", ".join(f"{one.padded:,} with {_FORMS[form]}" for form, one in others if one.cost > least.cost)
    unless = "; tried out on the model when workers start" if best != "plain" else ""
    padded = f"{least.padded:,} with padding" + (f", against {rest}{unless}" if rest else "")
    return f"{least.tokens:,} {whom}, with {_FORMS[best]} ({padded})"


def _sizes(report: Preflight) -> Table:
    from evomerge.score.numbers import size

    grid = Table.grid(padding=(0, 2))
    over = "" if report.groups is None else f" over {counted(report.groups, 'parameter group')}"
    rows = [
        ("searched", counted(len(report.dimensions), "coefficient") + over),
        ("population", _population(report)),
        (
            "evaluations",
            f"at most {', '.join(f'{count} {phase}' for phase, count in report.evaluations.items())}"
            + (", each of all items that one may answer" if report.answers_parts else ""),
        ),
    ]
    if report.items:
        rows.append(("items", ", ".join(f"{count} {split}" for split, count in report.items.items())))
    if report.spending:
        rows.append(("spends", "; ".join(report.spending)))
    if report.tokens:
        whom = "a candidate that answers all items" if report.answers_parts else "a candidate"
        rows.append(("tokens", _tokens(report.tokens, whom)))
    places = {"inline": "in this process", "ray": "on Ray workers"}
    rows.append(("runs", f"{places.get(report.backend, f'by executor {report.backend}')}, in {report.arithmetic}"))
    if report.memory_bytes_per_worker is not None and report.live_bytes is not None:
        prepared = f" ({size(report.live_bytes)} live, the rest prepared)" if report.prepared_bytes else ""
        mapped = size(report.mapped_bytes or 0)
        merge = f"{size(report.memory_bytes_per_worker)} a worker for the merge{prepared}"
        if report.single_bytes:
            merge += f", {size(report.single_bytes)} more while a model is scored by itself"
        rest = f"and what a batch needs; {mapped} of files mapped, shared by the workers of a machine"
        rows.append(("memory", f"{merge}{_process(report)}, {rest}"))
        states = ""
        if report.state_bytes:
            states = f", {size(report.state_bytes)} prepared"
            where = f"{size(report.state_bytes)} once for the run, in {report.state_folder}"
            rows.append(("prepared", f"{where}; mapped, shared by the workers of a machine"))
        if report.baselines:
            rows.append(("baselines", _baselines(report)))
        items = "besides, a few hundred bytes for each item of each candidate"
        merged = f", {size(report.merged_bytes)} for what is merged first" if report.merged_bytes else ""
        rows.append(("disk", f"{size(report.export_bytes or 0)} for the export{states}{merged}; {items}"))
    for key, value in rows:
        grid.add_row(Text(key, style="dim"), Text(value))
    return grid


def _population(report: Preflight) -> str:
    """How many candidates the algorithm learns from at once, and how many are being evaluated."""
    if report.in_flight is None:
        return f"{report.population} candidates a generation"
    return f"{report.population}, without generations; in flight: {report.in_flight}"


def _baselines(report: Preflight) -> str:
    """The merges of other methods, and what they take."""
    from evomerge.score.numbers import size

    named = f"{len(report.baselines)} of other methods ({', '.join(report.baselines)}), each evaluated once a split"
    prepared = ""
    if report.baseline_bytes:
        prepared = f"; up to {size(report.baseline_bytes)} more a worker while one is scored"
    if report.baseline_state_bytes:
        prepared += f", {size(report.baseline_state_bytes)} more on disk"
    return named + prepared


def _process(report: Preflight) -> str:
    """What Python and the libraries take, where it is known."""
    from evomerge.score.numbers import size

    return f" + {size(report.process_bytes)} for Python and its libraries" if report.process_bytes else ""


def _show_dimensions(console: Console, report: Preflight, *, every: bool) -> None:
    from evomerge.cli.console import say, table

    shown = report.dimensions if every else report.dimensions[:_SHOWN_DIMENSIONS]
    listed = table("coefficient", "from", "to", "start", right=("from", "to", "start"))
    for dimension in shown:
        listed.add_row(Text(dimension.name), f"{dimension.low:g}", f"{dimension.high:g}", f"{dimension.initial:g}")
    console.print(listed)
    if len(shown) < len(report.dimensions):
        say(console, f"and {len(report.dimensions) - len(shown)} more; all of them: --dimensions")
    console.print()


def _show_pilot(console: Console, preflight: Preflight, experiment: Experiment) -> None:
    from evomerge.cli.console import say
    from evomerge.score.numbers import duration, size
    from evomerge.study.maps import with_maps
    from evomerge.study.pilot import pilot, time_preparing

    def doing(what: str) -> None:
        say(console, f"{what} ...")
        console.file.flush()

    experiment = with_maps(experiment, lambda what: doing(f"pilot: {what}"))
    doing("pilot: timing the method on a few tensors")
    estimate = time_preparing(experiment)
    if estimate:
        say(console, f"preparing the method: about {duration(estimate)} by one worker, going by a few tensors")
    report = pilot(experiment, preflight.evaluations, report=lambda what: doing(f"pilot: {what}"))
    phases = ", ".join(f"{phase} {duration(seconds)}" for phase, seconds in report.seconds.items())
    say(console, f"one candidate on the search items: {duration(sum(report.seconds.values()))} ({phases})")
    say(console, f"peak memory of a worker: {size(report.peak_bytes)}{'' if report.on_gpu else _parts(preflight)}")
    if preflight.state_bytes:
        among = "" if report.workers == 1 else ", which they share out"
        say(console, f"the method is prepared once for the run: {duration(report.prepare_s)} by one worker{among}")
    else:
        say(console, f"each worker prepares the method once: {duration(report.prepare_s)}")
    workers = counted(report.workers, "worker")
    costs = ", ".join(f"{cost:.2g} times on {split}" for split, cost in report.costs.items() if split != "search")
    say(console, f"the whole search: about {duration(3600 * report.hours)} with {workers}, start-up aside")
    say(console, f"(answers take as long as on the search items, {costs} items, going by tokens or items)")
    _show_cores(console, preflight, experiment, report, doing)


def _show_cores(
    console: Console, preflight: Preflight, experiment: Experiment, pilot: PilotReport, doing: Callable[[str], None]
) -> None:
    from evomerge.cli.console import say
    from evomerge.errors import MissingPackageError
    from evomerge.study.cores import time_cores

    needed = (preflight.memory_bytes_per_worker or 0) + (preflight.process_bytes or 0)
    try:
        splits = time_cores(experiment, pilot, needed, report=lambda what: doing(f"pilot: {what}"))
    except MissingPackageError as error:
        say(console, f"whether several workers are faster on this machine wasn't timed: {error}")
        return
    for split in splits:
        named = f"{counted(split.workers, 'worker')} of {counted(split.threads, 'thread')}"
        rate = f"{split.per_minute:,.0f}" if split.per_minute >= 10 else f"{split.per_minute:.2g}"
        say(console, f"{named}: {rate} candidates a minute")
    if splits:
        first, best = splits[0], max(splits, key=lambda split: split.per_minute)
        gain = best.per_minute / first.per_minute
        if gain < _WORTH_TELLING:
            say(console, "as the config says, one worker is about as fast as several on this machine")
        else:
            changes = f"--set execution.workers={best.workers} --set execution.cpus_per_worker={best.threads}"
            say(console, f"several workers are {gain:.2g} times as fast on this machine: {changes}")


def _parts(preflight: Preflight) -> str:
    """What a worker's memory is made of, where it is the process's own."""
    from evomerge.score.numbers import size

    merge = preflight.memory_bytes_per_worker
    if merge is None or not preflight.process_bytes:
        return ""
    return (
        f" (about {size(preflight.process_bytes)} Python and libraries, {size(merge)} the merge, the rest mapped files "
        "and a batch)"
    )
