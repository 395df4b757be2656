"""Observers by themselves: what they are given in a config, and what webhooks and commands tell."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import ConfigError, ExecutionError, MissingPackageError
from evomerge.observers import OBSERVERS
from evomerge.observers.base import Ended

DONE = Ended(run="swahili", directory="/runs/swahili", state="done", text="swahili is done. It won.", winner=7)
FAILED = Ended(run="swahili", directory="/runs/swahili", state="failed", text="swahili has failed: no", error="no")
STOPPED = Ended(run="swahili", directory="/runs/swahili", state="stopped", text="swahili was stopped.")


@contextmanager
def server(status: int = 200) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The address of a server that keeps what is posted."""
    posted: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{made.server_port}/hook", posted
        made.shutdown()
        thread.join()


def test_a_webhook_is_posted_the_end_and_failures_but_not_that_somebody_stopped_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with server() as (url, posted):
        monkeypatch.setenv("HOOK", url)
        for ended in (DONE, FAILED, STOPPED):
            OBSERVERS.get("webhook")("$HOOK").end(ended)
    assert posted == [DONE.to_data(), FAILED.to_data()]
    with server(503) as (url, _), pytest.raises(ExecutionError, match="answers with status 503"):
        OBSERVERS.get("webhook")(url).end(DONE)


def test_a_command_gets_json_and_variables_and_its_failure_is_said(tmp_path: Path) -> None:
    out = tmp_path / "told"
    command = OBSERVERS.get("command")(f'echo "$EVOMERGE_STATE $EVOMERGE_WINNER" > {out}; cat >> {out}')
    command.end(STOPPED)
    assert not out.exists()
    command.end(DONE)
    first, rest = out.read_text().split("\n", 1)
    assert (first, json.loads(rest)) == ("done 7", DONE.to_data())
    with pytest.raises(ExecutionError, match="ended with status 3: no such user"):
        OBSERVERS.get("command")("echo no such user >&2; exit 3").end(DONE)


@pytest.mark.parametrize(
    ("name", "setting", "words"),
    [
        ("webhook", None, "needs an address"),
        ("webhook", "$NOT_SET_ANYWHERE", r"\$NOT_SET_ANYWHERE: expected http"),
        ("command", 3, "needs a command of the shell"),
        ("tensorboard", ["a"], "takes a folder, or nothing"),
    ],
)
def test_settings_that_mean_nothing_are_refused(name: str, setting: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        OBSERVERS.get(name)(setting)


@pytest.mark.parametrize(
    ("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("mlflow", "mlflow.tracking"), ("wandb", "wandb")]
)
def test_a_package_that_is_missing_is_named_with_the_remedy(
    name: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackageError, match=rf"pip install 'evomerge\[{name}\]'"):
        OBSERVERS.get(name)(None)
