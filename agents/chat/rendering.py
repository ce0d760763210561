"""Rendering: a chat template in a sandbox of our own, equal for equal input.

It prints what `tokenizer.apply_chat_template` prints, with two differences. The clock is not read:
`strftime_now` tells a date that is given, and nothing random is known. And there are limits,
because a template comes with a checkpoint and is as little trusted as the weights: the steps of its
loops and calls are counted, and so is the text it makes::

    rendering = Rendering(tokenizer, source, {"enable_thinking": False}, date(2025, 1, 1))
    text = rendering([{"role": "user", "content": "Hello"}], None, generate=True)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import date, datetime, time
from functools import lru_cache, wraps
from typing import Any

from jinja2 import TemplateError, TemplateRuntimeError, ext, meta, nodes, pass_context
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

STEPS = 5_000_000
"""Loop steps and calls of one rendering at most: some seconds. A conversation of a thousand turns
takes a few thousand."""
LONGEST = 8_000_000
"""Characters of a text, or items of a list, at most."""
RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt", "strftime_now"})
"""Variables of a template that a conversation sets; arguments have other names."""
_SHORT = 65_536
"""Characters of a text that is joined without a look."""
_WIDEST = 10_000
"""Largest number that a text method or a filter may be given: widths, counts, indentations."""
_left: ContextVar[list[int]] = ContextVar("left")


class Rendering:
    """One chat template with its arguments and its date; calling it renders a conversation.

    It raises whatever the template raises.

    Args:
        tokenizer: its special tokens are variables of the template (`bos_token` and so on).
        source: the template, or named ones; None for the tokenizer's own. A name is chosen as
            transformers does.
        arguments: further variables of the template, such as `enable_thinking`.
        today: what `strftime_now` tells.
    """

    def __init__(
        self, tokenizer: Any, source: str | None, arguments: Mapping[str, Any], today: date
    ) -> None:
        self.tokenizer, self.source = tokenizer, source
        noon = datetime.combine(today, time(12))
        self._variables = {
            **tokenizer.special_tokens_map,
            **arguments,
            "strftime_now": noon.strftime,
        }

    def __call__(self, messages: Sequence[Mapping[str, Any]], tools: Any, *, generate: bool) -> str:
        """Render a conversation as text, with the generation prompt if `generate`."""
        template = _compiled(self.tokenizer.get_chat_template(self.source, tools))
        token = _left.set([STEPS])
        try:
            return str(
                template.render(
                    messages=[dict(m) for m in messages],
                    tools=tools,
                    documents=None,
                    add_generation_prompt=generate,
                    **self._variables,
                )
            )
        finally:
            _left.reset(token)

    def variables(self) -> set[str]:
        """List the names that the template reads and does not define."""
        sources = self.tokenizer.chat_template if self.source is None else self.source
        every = sources.values() if isinstance(sources, dict) else [sources]
        environment = _Environment()
        return set().union(
            *(meta.find_undeclared_variables(environment.parse(source)) for source in every)
        )


@lru_cache(maxsize=64)
def _compiled(source: str) -> Any:
    return _Environment().from_string(source)


class _Generation(ext.Extension):
    """The tag ``{% generation %}``, whose blocks mark what the model wrote: printed as they are."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    """The template environment of transformers without clock and chance, and with bounds.

    Items of loops are counted, and the sizes of texts and numbers are limited.
    """

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, ext.loopcontrols]
        )
        del self.filters["random"], self.globals["lipsum"]
        self.filters["tojson"] = _to_json
        self.filters = {name: _bounded(function) for name, function in self.filters.items()}
        self.filters |= {"counted": _counted, "sized": _sized}
        self.globals["raise_exception"] = _refuse

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, "counted", [], [], None, None, lineno=loop.lineno)
        _size_concatenations(tree)
        tree.set_environment(self)
        return tree

    @staticmethod
    def concat(pieces: Iterable[str]) -> str:
        """Join the output of the template, a block or a macro."""
        kept, length = [], 0
        for piece in pieces:
            kept.append(piece)
            length += len(piece)
            _check_size(length)
        return "".join(kept)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute an operation on two values, if the result has a reasonable size."""
        if operator == "+" and type(left) is type(right) is str and len(left) + len(right) < _SHORT:
            return left + right
        if operator == "**" or (
            operator == "*" and isinstance(left, int) and isinstance(right, int)
        ):
            bits = left.bit_length() if isinstance(left, int) else 64
            grown = bits * right if operator == "**" else bits + right.bit_length()
            _check_size(100 * abs(grown))
        elif operator == "*":
            _check_size(
                _length(left) * abs(right) if isinstance(right, int) else abs(left) * _length(right)
            )
        elif operator == "+" and not isinstance(left, int | float):
            _spend(_check_size(_length(left) + _length(right)) >> 8)
        elif operator == "%" and isinstance(left, str):
            _check_format(left)
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Bind the sandbox's own `str.format`, for texts that ask for reasonable widths."""
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            _check_format(value.__self__)
        return wrapped

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Make a call, and count it as the loop steps that take as long."""
        _spend(20)
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            _check_text_method(owner, getattr(__obj, "__name__", ""), args, kwargs)
        return super().call(__context, __obj, *args, **kwargs)


def _size_concatenations(node: nodes.Node) -> None:
    """Send every ``a ~ b`` below `node` through the filter `sized`."""
    for field, value in node.iter_fields():
        children = value if isinstance(value, list) else [value]
        for i, child in enumerate(children):
            if not isinstance(child, nodes.Node):
                continue
            _size_concatenations(child)
            if isinstance(child, nodes.Concat):
                children[i] = nodes.Filter(child, "sized", [], [], None, None, lineno=child.lineno)
        setattr(node, field, children if isinstance(value, list) else children[0])


def _spend(steps: int) -> None:
    left = _left.get()
    left[0] -= steps
    if left[0] < 0:
        raise TemplateRuntimeError(f"its loops take more than {STEPS} steps")


def _check_size(length: int) -> int:
    if length > LONGEST:
        raise TemplateRuntimeError(f"it makes a text of more than {LONGEST} characters")
    return length


def _length(value: Any) -> int:
    return len(value) if hasattr(value, "__len__") else 1


def _check_format(text: str) -> None:
    digits = [int(run) for run in "".join(c if c.isdecimal() else " " for c in text).split()]
    if "*" in text or any(number > _WIDEST for number in digits):
        raise TemplateRuntimeError("it formats text with a width that is too large")


def _check_text_method(
    text: str, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    given = [*args, *kwargs.values()]
    if name == "replace" and len(given) > 1:
        _check_size(text.count(str(given[0])) * _length(given[1]))
    elif name == "join" and given:
        _check_size(
            len(text) * _length(given[0]) + sum(map(_length, given[0]))
            if _length(given[0]) > 1
            else 0
        )
    elif any(isinstance(number, int) and number > _WIDEST for number in given):
        raise TemplateRuntimeError(f"it calls {name} with a number above {_WIDEST}")
    _spend(len(text) >> 8)


def _bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a filter so that it counts as a step and takes no huge numbers."""

    @wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        _spend(5)
        texts = [argument for argument in args if isinstance(argument, str)]
        if function.__name__ == "do_replace" and len(texts) > 2:
            _check_size(texts[0].count(texts[1]) * len(texts[2]))
        elif any(
            isinstance(number, int) and number > _WIDEST for number in (*args[1:], *kwargs.values())
        ):
            raise TemplateRuntimeError(f"it gives a filter a number above {_WIDEST}")
        elif function.__name__ == "do_format" and texts:
            _check_format(texts[0])
        return function(*args, **kwargs)

    return bounded


@pass_context
def _counted(context: Context, items: Iterable[Any]) -> Iterator[Any]:
    """Yield the items of a loop, and count each as a step."""
    left = _left.get()
    for item in items:
        left[0] -= 1
        if left[0] < 0:
            _spend(0)
        yield item


@pass_context
def _sized(context: Context, text: Any) -> Any:
    _spend(_check_size(_length(text)) >> 8)
    return text


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """Write JSON without HTML's escapes."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _refuse(message: str) -> None:
    raise TemplateError(message)
