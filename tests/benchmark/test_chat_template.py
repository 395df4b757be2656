"""A base's chat template: as transformers renders it, and ended where it doesn't end by itself."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from evomerge.benchmark.lm_eval.chat_template import rendered
from evomerge.errors import BenchmarkError

CHAT = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "how many?"}]
USUAL = (
    "{% set ns = namespace(turns=0) %}{% for m in messages %}{% set ns.turns = ns.turns + 1 %}"
    "{{ '=' * 3 }}{{ m['role'] }}: {{ m['content'].upper() | trim }}\n{% endfor %}"
    "{{ ns.turns * 2 }} {{ 2 ** 5 }} {{ range(3) | list }}{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tiny_llama: dict[str, Path]) -> Any:
    return AutoTokenizer.from_pretrained(tiny_llama["base"])


def apply(tokenizer: Any, template: str) -> str:
    text: str = tokenizer.apply_chat_template(CHAT, tokenize=False, chat_template=template, add_generation_prompt=True)
    return text


def test_formatted_and_widened_texts_are_those_of_jinja(tokenizer: Any) -> None:
    template = (
        "{{ 'x' | center(5) }}|{{ '%3d%%' % 7 }}|{{ '%s-%s' | format(1, 2) }}|{{ '{:>4}'.format(3) }}|{{ 7 % 4 }}|"
        "{{ 'a b' | replace('a', 'c') }}|{{ [1, 2] | join(', ') }}|{{ 'a\\nb' | indent(2) }}|{{ {'k': 1} | tojson }}"
    )
    expected = '  x  |  7%|1-2|   3|3|c b|1, 2|a\n  b|{"k": 1}'
    assert rendered(lambda: apply(tokenizer, template)) == apply(tokenizer, template + " ").rstrip() == expected


def test_a_template_makes_the_text_that_transformers_makes(tokenizer: Any) -> None:
    expected = "===system: BE BRIEF\n===user: HOW MANY?\n4 32 [0, 1, 2]assistant:"
    assert rendered(lambda: apply(tokenizer, USUAL)) == expected
    assert apply(tokenizer, USUAL + " ") == f"{expected} "


LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize("in_thread", [False, True])
def test_a_template_that_does_not_end_is_ended(tokenizer: Any, in_thread: bool) -> None:
    found: list[str] = []

    def run() -> None:
        with pytest.raises(BenchmarkError) as error:
            rendered(lambda: apply(tokenizer, LOOPS), seconds=0.5)
        found.append(str(error.value))

    start = time.monotonic()
    if in_thread:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    else:
        run()
    assert time.monotonic() - start < 60
    assert "chat template doesn't end within 0.5 seconds" in found[0]


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{{ 'x' * 100000 }}{% endfor %}",
        "{{ 'x' * 10000000000 }}",
        "{{ [1] * 10000000000 }}",
        "{{ 9 ** (9 ** 9) }}",
        "{{ 'x'.ljust(10000000000) }}",
        "{{ 'x' | center(10000000000) }}",
        "{{ 'x' | center(width=10000000000) }}",
        "{{ ['x'] | map('center', 10000000000) | list }}",
        "{{ '%10000000000d' | format(1) }}",
        "{{ '%*d' | format(10000000000, 1) }}",
        "{{ '%10000000000d' % 1 }}",
        "{{ '%*d' % (10000000000, 1) }}",
        "{{ '{:10000000000}'.format(1) }}",
        "{{ '{:{}}'.format(1, 10000000000) }}",
        "{{ ('x' * 10000000) | replace('x', 'y' * 10000000) }}",
        "{{ ('x' * 10000000).replace('x', 'y' * 10000000) }}",
        "{{ range(99999) | join('x' * 10000000) }}",
        "{{ ('x' * 10000000).join(['a'] * 10000000) }}",
        "{{ ('\\n' * 10000000) | indent('x' * 10000000) }}",
        "{% set ns = namespace(n=3) %}{% for i in range(99) %}{% set ns.n = ns.n * ns.n %}{% endfor %}{{ ns.n }}",
    ],
)
def test_a_template_that_makes_too_much_is_refused_at_once(tokenizer: Any, template: str) -> None:
    with pytest.raises(BenchmarkError, match=r"chat template fails on a chat \(TooMuchError: "):
        rendered(lambda: apply(tokenizer, template))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('\x1b[31mno system') }}", r"TemplateError: \\x1b\[31mno system"),
        ("{% for %}", "TemplateSyntaxError"),
        ("{{ a.b.c }}", "UndefinedError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError|UndefinedError"),
    ],
)
def test_what_a_template_raises_is_said(tokenizer: Any, template: str, message: str) -> None:
    with pytest.raises(BenchmarkError, match=message):
        rendered(lambda: apply(tokenizer, template))
