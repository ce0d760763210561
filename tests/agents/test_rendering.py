"""Rendering: what transformers prints, without its clock, and never for long."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from turnrl import UserError
from turnrl.agents.chat.chat import Chat
from turnrl.agents.chat.rendering import Rendering
from turnrl.agents.context.full_history import FullHistory
from turnrl.agents.models.tiny import train_tokenizer

TOKENIZER = train_tokenizer(["go north"] * 4, 400)
MESSAGES = [{"role": "user", "content": "hi <b>\n"}, {"role": "assistant", "content": "go"}]
TOOLS = [{"type": "function", "function": {"name": "act", "description": "Do \u00e4 thing."}}]


def rendered(source: str, arguments: dict[str, Any] | None = None, tools: Any = None) -> str:
    return Rendering(TOKENIZER, source, arguments or {}, date(2026, 2, 3))(
        MESSAGES, tools, generate=True
    )


@pytest.mark.parametrize(
    "source",
    [
        (
            "  {%- for m in messages %}\n    {% if loop.first %}\n{{ m.content | trim }}\n    {%"
            " endif %}\n{% endfor %}"
        ),
        (
            "{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ loop.last }}{{"
            " loop.nextitem }};{% endfor %}"
        ),
        (
            "{% for m in messages[::-1] %}{% if m.role == 'user' %}{% break %}{% endif %}{{"
            " m.content }}{% endfor %}"
        ),
        "{% for m in messages if m.role == 'user' %}{{ m.role }}{% else %}none{% endfor %}",
        (
            "{% macro say(m, n=2) %}{{ m.content ~ n }}{% endmacro %}{% for m in messages %}{{"
            " say(m) }}{% endfor %}"
        ),
        (
            "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor"
            " %}{{ ns.n * 3 }}"
        ),
        (
            "{{ messages | tojson(indent=1) }}{{ eos_token }}{{ bos_token }}{{"
            " add_generation_prompt }}{{ tools }}"
        ),
        (
            "{% for k, v in messages[0] | items %}{{ k }}={{ v }};{% endfor %}{{ 'a' * 3 + 'b' ~ 1"
            " ~ 2 }}"
        ),
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
        (
            "{% for t in tools %}{{ t | tojson }}{% endfor %}{{ '%s-%5s' | format('x', 'y') }}{{"
            " 'x'.join(['a', 'b']) }}"
        ),
        (
            "{{ thinking }}{{ messages[0]['content'].split('<')[-1] }}{{ 'a-b'.replace('-', '+')"
            " }}{{ messages | length }}"
        ),
        (
            "{{ '{:>4}'.format('x') }}{{ messages | selectattr('role', 'equalto', 'user') | list |"
            " length }}"
        ),
    ],
)
def test_it_prints_what_transformers_prints(source: str) -> None:
    want = TOKENIZER.apply_chat_template(
        MESSAGES,
        tools=TOOLS,
        chat_template=source,
        tokenize=False,
        add_generation_prompt=True,
        thinking=False,
    )
    assert rendered(source, {"thinking": False}, TOOLS) == want


def test_the_clock_is_not_read() -> None:
    assert (
        rendered("{{ strftime_now('%Y-%m-%d') }}{{ strftime_now('%d %b %Y') }}")
        == "2026-02-0303 Feb 2026"
    )
    for chance in ("{{ [1, 2] | random }}", "{{ lipsum() }}"):
        with pytest.raises(Exception, match=r"random|lipsum"):
            rendered(chance)


ENDLESS = {
    "nested loops": (
        "{% set r = range(99999) %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}"
    ),
    "recursion": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"
    ),
    "endless recursion": "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "a long range": "{% for i in range(10 ** 9) %}{% endfor %}",
    "doubling by ~": (
        "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{%"
        " endfor %}"
    ),
    "doubling by +": (
        "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{%"
        " endfor %}"
    ),
    "doubling a list": (
        "{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{%"
        " endfor %}"
    ),
    "squaring": (
        "{% set n = namespace(x=9) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}"
    ),
    "doubling blocks": (
        "{% set n = namespace(x='ab') %}{% for i in range(99) %}"
        "{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}{% endfor %}"
    ),
    "a long text": "{{ 'x' * 10 ** 12 }}",
    "a large number": "{{ 10 ** 10 ** 9 }}",
    "a wide format": "{{ '%0999999999d' % 1 }}",
    "a wide format filter": "{{ '%0999999999d' | format(1) }}",
    "another wide format": "{{ '{:>999999999}'.format('x') }}",
    "a wide filter": "{{ 'x' | center(10 ** 10) }}",
    "a wide method": "{{ 'x'.ljust(10 ** 10) }}",
    "replacing": "{% set x = 'x' * 99999 %}{{ x.replace('x', x) }}",
    "much output": "{% set x = 'x' * 99999 %}{% for i in range(99999) %}{{ x }}{% endfor %}",
    "deep brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_that_would_never_end_is_refused_in_one_sentence(name: str) -> None:
    tokenizer = train_tokenizer(["go north"] * 4, 400)
    tokenizer.chat_template = ENDLESS[name]
    with pytest.raises(UserError, match="template cannot be used: ") as refused:
        Chat(tokenizer, FullHistory())
    assert "\n" not in str(refused.value)


def test_a_long_conversation_stays_far_below_the_limits() -> None:
    source = (
        "{% for m in messages %}{% for c in messages %}{% endfor %}{{ m.content.strip() | trim ~"
        " '.' }}{% endfor %}"
    )
    many = [{"role": "user", "content": "x" * 300}] * 1000
    assert (
        len(Rendering(TOKENIZER, source, {}, date(2026, 2, 3))(many, None, generate=False))
        == 301_000
    )
