"""Errors, interruptions and exit codes, as the shell sees them."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest

import evomerge.cli
import evomerge.cli.setup
from evomerge.__main__ import main
from evomerge.cli.guard import print_any_text
from evomerge.errors import RunError
from helpers.commands import run as run_command

pytestmark = pytest.mark.slow


def evomerge_process(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "evomerge", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_a_users_error_is_one_line_on_stderr_with_exit_code_1(tmp_path: Path) -> None:
    done = evomerge_process("status", tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == f"Error: {tmp_path}: not a run directory: there is no run.json in it\n"


def test_debug_shows_the_traceback_and_then_the_message(tmp_path: Path) -> None:
    by_option = evomerge_process("--debug", "status", tmp_path)
    by_environment = evomerge_process("status", tmp_path, env={**os.environ, "EVOMERGE_DEBUG": "1"})
    for done in (by_option, by_environment):
        assert done.returncode == 1
        assert "Traceback (most recent call last)" in done.stderr
        assert done.stderr.splitlines()[-1].startswith("Error: ")


@pytest.mark.parametrize(
    "arguments", [["serach"], ["search"], ["trials", "x", "--format", "xml"], ["demo", "--seed", "a"]]
)
def test_a_wrong_command_line_exits_with_2_and_says_what_is_wrong(cli: Any, arguments: list[str]) -> None:
    done = cli(*arguments)
    assert done.exit_code == 2
    assert "Usage: " in done.stderr


def test_the_program_alone_shows_its_help(cli: Any) -> None:
    assert "evomerge demo" in cli().output


def test_a_message_with_brackets_is_printed_as_it_is(cli: Any, tmp_path: Path) -> None:
    done = cli("status", tmp_path / "[bold]")
    assert "[bold]" in done.stderr


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only"), (errno.EACCES, "permission denied")],
)
def test_trouble_with_the_disk_names_the_file_and_the_remedy(
    cli: Any, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number), "/some/file")

    monkeypatch.setattr(Path, "open", fail)
    done = cli("init", "x.yaml")
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: /some/file: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_folder_that_cannot_be_written_is_a_plain_message(cli: Any) -> None:
    done = cli("init", "/proc/x.yaml")
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: /proc/x.yaml: ")


def test_a_closed_pipe_is_silent(run: Path) -> None:
    command = f"{sys.executable} -m evomerge trials {run} --format json | head -c 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stdout == "["
    assert "Traceback" not in done.stderr


def test_an_error_of_ours_keeps_its_traceback(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evomerge.cli.setup, "files", lambda name: {}["bug"])
    assert isinstance(cli("init", "x.yaml").exception, KeyError)


def worked(body: str) -> subprocess.CompletedProcess[str]:
    """A process in which a command of the guarded kind runs these lines."""
    script = f"""
import sys
from pathlib import Path
import typer
from evomerge.cli.guard import Commands, stoppable
app = typer.Typer(cls=Commands)
@app.callback()
def options(debug: bool = False): ...
@app.command()
def work(file: Path):
{textwrap.indent(body, "    ")}
app()
"""
    command = [sys.executable, "-c", script, "work", "an experiment.yaml"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("recorded", [True, False])
def test_a_stopped_search_says_how_to_go_on(tmp_path: Path, number: int, code: int, recorded: bool) -> None:
    directory = tmp_path / "a run"
    directory.mkdir()
    if recorded:
        (directory / "run.json").write_text("{}")
    done = worked(
        f"""
import os, time
with stoppable(Path({str(directory / "run.json")!r}), again="evomerge resume"):
    os.kill(os.getpid(), {int(number)})
    time.sleep(10)
"""
    )
    assert done.returncode == code
    if recorded:
        assert done.stderr == "stopped; continue with: evomerge resume\n"
    else:
        assert (
            done.stderr
            == "stopped before anything was recorded; start again with: evomerge work 'an experiment.yaml'\n"
        )


@pytest.mark.parametrize(
    ("recorded", "said"),
    [
        (True, "gone. Nothing recorded is lost; continue with: evomerge work 'an experiment.yaml'"),
        (False, "gone. Start again with: evomerge work 'an experiment.yaml'"),
    ],
)
def test_a_lost_cluster_ends_at_once_with_75_and_says_how_to_go_on(tmp_path: Path, recorded: bool, said: str) -> None:
    if recorded:
        (tmp_path / "run.json").write_text("{}")
    done = worked(
        f"""
import atexit
from evomerge.errors import LostClusterError
atexit.register(print, "what Ray leaves to be done at the end")
sys.stdout.write("flushed")
with stoppable(Path("no/run.json"), Path({str(tmp_path / "run.json")!r})):
    raise LostClusterError("gone")
"""
    )
    assert (done.returncode, done.stdout) == (75, "flushed")
    assert done.stderr == f"Error: {said}\n"


def test_ctrl_c_elsewhere_stops_with_130(cli: Any, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from evomerge.run import directory as run_directory

    def interrupt(directory: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_directory, "open_run", interrupt)
    done = cli("status", run)
    assert done.exit_code == 130
    assert done.stderr == "stopped\n"


def test_a_message_of_several_lines_stays_so(cli: Any, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from evomerge.run import directory as run_directory

    def fail(directory: Path) -> None:
        raise RunError("first\nsecond")

    monkeypatch.setattr(run_directory, "open_run", fail)
    assert cli("status", run).stderr == "Error: first\nsecond\n"


def test_control_characters_from_files_never_reach_the_terminal(tmp_path: Path) -> None:
    named = tmp_path / "named.yaml"
    named.write_text(
        '"\\x1b[31mred": 1\nmodels: {base: "\\x1b]0;x\\x07", experts: {"a\\x9b": b}}\nbenchmark: {tasks: [x]}\n'
    )
    merge = tmp_path / "merge.yaml"
    merge.write_text('merge_method: "\\x1b[2Jties"\nmodels: []\n')
    for arguments in (("check", named), ("merge", merge, tmp_path / "out"), ("recipe", merge), ("status", "\x1b[1m")):
        done = run_command(arguments)
        assert done.returncode == 1
        assert "\\x1b" in done.stderr
        assert not any(letter < " " and letter != "\n" for letter in done.stdout + done.stderr)


NOISE = """
import sys, warnings
from evomerge.cli.guard import quiet_libraries
quiet_libraries(sys.argv[1:])
from tqdm import tqdm
from transformers.utils import logging
list(tqdm(range(3)))
warnings.warn("a library's warning")
logging.get_logger("transformers").warning("a library's remark")
"""


@pytest.mark.parametrize(("arguments", "is_quiet"), [(["search"], True), (["--debug", "search"], False)])
def test_bars_and_remarks_of_other_libraries_stay_out_of_the_output(arguments: list[str], is_quiet: bool) -> None:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TQDM", "TRANSFORMERS", "PYTHONWARNINGS", "EVOMERGE_DEBUG"))
    }
    done = subprocess.run(
        [sys.executable, "-c", NOISE, *arguments], capture_output=True, text=True, env=environment, check=True
    )
    assert (done.stdout + done.stderr == "") == is_quiet


@pytest.mark.parametrize("when", ["loading", "running"])
def test_ctrl_c_before_any_command_runs_is_a_word_too(
    when: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command line takes a second to load, on a slow disk many."""

    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    class Pressed:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "evomerge.cli":
                pressed()

    if when == "loading":
        monkeypatch.delitem(sys.modules, "evomerge.cli")
        monkeypatch.setattr(sys, "meta_path", [Pressed(), *sys.meta_path])
    else:
        monkeypatch.setattr(evomerge.cli, "main", pressed)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 130
    assert capsys.readouterr().err == "stopped\n"


class Stream(TextIOWrapper):
    """What is printed goes to bytes, in an encoding that lacks most characters."""

    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__(BytesIO(), encoding="ascii")
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal

    def printed(self) -> bytes:
        self.flush()
        assert isinstance(self.buffer, BytesIO)
        return self.buffer.getvalue()


def test_no_locale_ends_a_command_over_a_character(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONIOENCODING", raising=False)
    terminal, file = Stream(is_terminal=True), Stream(is_terminal=False)
    monkeypatch.setattr(sys, "stdout", file)
    monkeypatch.setattr(sys, "stderr", terminal)
    print_any_text()
    for stream in (file, terminal):
        print("Yorùbá ± 2", end="", file=stream)
    assert file.printed() == "Yorùbá ± 2".encode()
    assert terminal.printed() == rb"Yor\xf9b\xe1 \xb1 2"


@pytest.mark.parametrize(("asked", "encoding"), [("", "utf-8"), ("ascii", "ascii")])
def test_a_pipe_has_utf_8_in_any_locale_unless_told_otherwise(asked: str, encoding: str) -> None:
    plain = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": asked}
    command = [sys.executable, "-m", "evomerge", "methods"]
    done = subprocess.run(command, capture_output=True, check=True, env={**os.environ, **plain})
    assert done.stdout.decode(encoding).isascii() == (encoding == "ascii")
