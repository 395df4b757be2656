"""Chat templates run under limits: they come with the model, are small programs, and may never end.

Knows jinja as transformers runs it, in its sandbox. Doesn't know chats.
"""

from __future__ import annotations

import ctypes
import functools
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers.utils import chat_template_utils

from evomerge.errors import BenchmarkError

MAX_SECONDS = 10.0
"""For one chat; templates take milliseconds."""
MAX_CHARACTERS = 20_000_000
"""Of a text that a template makes; the longest context windows hold a fifth of it."""


class TooMuchError(Exception):
    """A template makes more than there is room for."""


class Bounded(ImmutableSandboxedEnvironment):
    """transformers' sandbox with a limit on what is made in one step, which no other thread could interrupt."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.filters = {name: _bounded(name, function) for name, function in self.filters.items()}

    @staticmethod
    def concat(pieces: Iterable[str]) -> str:
        """All output as one text. Raises: TooMuchError."""
        found: list[str] = []
        size = 0
        for piece in pieces:
            size += len(piece)
            if size > MAX_CHARACTERS:
                raise TooMuchError(f"it makes more than {MAX_CHARACTERS:,} characters")
            found.append(piece)
        return "".join(found)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """A product, power or formatted text. Raises: TooMuchError."""
        if operator == "%":
            _refuse_wide("format", left, (right,))
            too_much = False
        elif operator == "**":
            too_much = isinstance(left, int) and isinstance(right, int) and left.bit_length() * abs(right) > 10_000
        else:
            sizes = [len(side) if isinstance(side, str | list | tuple) else side for side in (left, right)]
            product = [abs(size) for size in sizes if isinstance(size, int)]
            too_much = len(product) == 2 and product[0] * product[1] > MAX_CHARACTERS and product != [left, right]
            too_much = too_much or any(size.bit_length() > 10_000 for size in product)
        if too_much:
            raise TooMuchError(f"{operator} makes more than {MAX_CHARACTERS:,} characters or digits")
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a function. Raises: TooMuchError for numbers by which texts can be widened."""
        # The sandbox wraps the method of a text that formats it.
        method = getattr(function, "__wrapped__", function)
        name, text = getattr(method, "__name__", ""), getattr(method, "__self__", None)
        _refuse_wide("format" if name.startswith("format") else name, text, (*args, *kwargs.values()))
        return super().call(context, function, *args, **kwargs)


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that refuses to make too much. Raises: TooMuchError."""
    # What jinja gives it besides, such as the environment, comes first.
    extra = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        subject, *others = args[extra:] or (None,)
        if name == "join":
            subject, others = next(iter([*others, *kwargs.values()]), ""), [subject]
        _refuse_wide(name, subject, (*others, *kwargs.values()))
        return function(*args, **kwargs)

    return checked


def _refuse_wide(name: str, subject: Any, arguments: Sequence[Any]) -> None:
    """Refuse a step whose text would be too long.

    Args:
        name: of the function or filter.
        subject: what it is applied to; of `join`, what stands between the parts.
        arguments: everything else that it is given.

    Raises: TooMuchError.
    """
    parts = [part for argument in arguments for part in (argument if isinstance(argument, tuple) else (argument,))]
    for value in parts:
        if isinstance(value, int) and abs(value) > MAX_CHARACTERS:
            raise TooMuchError(f"it calls a function with {value:.3g}")
    size = 0
    if not isinstance(subject, str):
        return
    if name == "format":
        size = sum(map(int, re.findall(r"\d{1,20}", subject))) + subject.count("*") * max(
            (value for value in parts if isinstance(value, int)), default=0
        )
    elif name == "replace" and len(parts) >= 2 and isinstance(parts[0], str) and isinstance(parts[1], str):
        size = subject.count(parts[0]) * len(parts[1])
    elif name == "join" and arguments and isinstance(arguments[0], Sized):
        size = len(subject) * len(arguments[0])
    elif name == "indent" and parts:
        width = parts[0]
        size = (subject.count("\n") + 1) * (width if isinstance(width, int) else len(str(width)))
    if size > MAX_CHARACTERS:
        raise TooMuchError(f"{name} makes more than {MAX_CHARACTERS:,} characters")


def rendered(render: Callable[[], str], *, seconds: float = MAX_SECONDS) -> str:
    """What a chat template makes of a chat.

    Args:
        render: calls transformers.
        seconds: most time that it may take.

    Raises: BenchmarkError if the template fails, takes too long or makes too much.
    """
    try:
        with _sandboxed(), _deadline(seconds):
            return render()
    except _OutOfTime:
        problem = f"doesn't end within {seconds:g} seconds on one chat"
    except BenchmarkError:
        raise
    except Exception as error:
        problem = f"fails on a chat ({type(error).__name__}: {error})"
    raise BenchmarkError(f"the base's chat template {problem}; correct it, or score without apply_chat_template")


class _OutOfTime(BaseException):
    pass


@contextmanager
def _sandboxed() -> Iterator[None]:
    """Let transformers compile templates in the bounded sandbox."""
    names = vars(chat_template_utils)
    before = names["ImmutableSandboxedEnvironment"]
    names["ImmutableSandboxedEnvironment"] = Bounded
    try:
        yield
    finally:
        names["ImmutableSandboxedEnvironment"] = before


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raise _OutOfTime in this thread, wherever it then is in Python code."""
    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
    thread = ctypes.c_ulong(threading.get_ident())
    lock = threading.Lock()
    over = False

    def stop() -> None:
        with lock:
            if not over:
                raise_in(thread, ctypes.py_object(_OutOfTime))

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            over = True
            raise_in(thread, None)
        timer.cancel()
