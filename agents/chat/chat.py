"""Chat: one conversation as exact token ids, for any tokenizer with a chat template::

    chat = Chat(tokenizer, FullHistory(), system="You play a text game.")
    prompt = chat.observe("You are in a kitchen.")            # Prompt(new_ids=[...], extends=False)
    completion = await engine.generate(chat.ids, ...)
    text = chat.respond(completion.token_ids, stopped=completion.finish_reason == "stop")
    prompt = chat.observe("You are in a garden.")             # only what is new, extends=True

How it stays exact. The template is rendered with marks after what the player wrote and in place of
what the world said. The rendering is thereby a list of *runs* (template text and the world's words)
between *responses*. Runs are tokenised, responses are not: their sampled ids are used as they are.
If the new list begins with the old one, only the last run is new and the prompt extends; if the
template or the context changed anything earlier (reasoning dropped, a counter at the top, a window
that moved on) a new sequence begins. The text is always that of the template's own rendering: a
template that reads what was said, instead of only printing it, is shown the words and not the
marks.

What the world or the player wrote never becomes a control token: where its text spells one, the
text is cut inside the spelling and both sides are tokenised alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from ..context.base import Context, History, shown
from .marks import Part
from .template import TODAY, template_of


@dataclass(slots=True)
class Prompt:
    """The tokens to feed before the next response; its fields are those of a Turn."""

    new_ids: list[int]
    extends: bool
    repeated: int = 0


class Chat:
    """One conversation as exact tokens. Call `observe` and `respond` in turns, `observe` first.

    Args:
        tokenizer: a Hugging Face tokenizer.
        context: what is shown at each turn.
        system: instructions; folded into the first user message where the template knows no system
            role.
        tools: JSON schemas for templates that print them.
        arguments: variables of the chat template, such as ``{"enable_thinking": False}``.
        today: the date that the template is told.

    Raises UserError if the tokenizer's chat template cannot be used.
    """

    def __init__(
        self,
        tokenizer: Any,
        context: Context,
        *,
        system: str = "",
        tools: list[dict[str, Any]] | None = None,
        arguments: Mapping[str, Any] | None = None,
        today: date = TODAY,
    ) -> None:
        self.context = context
        self.history = History(system=system)
        self.ids: list[int] = []
        """All ids of the current sequence, prompts and responses, verbatim."""
        self.tokenizer = tokenizer
        self._template = template_of(tokenizer, arguments, today)
        self._tools = tools
        self._responses: list[list[int]] = []
        self._ends: list[int | None] = []
        self._parts: list[Part] = []

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """Return the ids that end a response in this template."""
        return self._template.stop_token_ids

    @property
    def opened(self) -> str:
        """Return the end of the prompt from a tag on that opens reasoning for the player.

        Empty if the prompt opens none.
        """
        opened, last = self._template.opened, self._parts[-1] if self._parts else ()
        # Some templates open it or not by what was said (/no_think).
        closed = last and not isinstance(last, int) and not last[-1][0].endswith(opened)
        return "" if closed else opened

    def observe(self, observation: str) -> Prompt:
        """Take what the world said; return the tokens to feed before the next response.

        Raises UserError if the template refuses the messages, RuntimeError if a response is due.
        """
        if len(self.history.observations) != len(self.history.responses):
            raise RuntimeError("observe() was called twice without respond()")
        # Lone surrogates cannot be tokenised; a world that read a broken file may still say them.
        self.history.observations.append(observation.encode("utf-8", "replace").decode("utf-8"))
        old, responses = self._parts, self.history.responses
        self._parts = parts = self._template.parts(
            shown(self.context, self.history), responses, self._tools
        )
        if (
            old
            and len(parts) == len(old) + 2
            and parts[-2] == len(responses) - 1
            and parts[: len(old)] == old
        ):
            last = parts[-1]
            assert not isinstance(last, int)
            new = self._template.encode(last, self._ends[-1], inside=True)
            self.ids += new
            return Prompt(new, True)
        new = self._assemble(parts)
        self.ids = list(new)
        return Prompt(new, False, len(new) - self._news(parts) if responses else 0)

    def _news(self, parts: list[Part]) -> int:
        """Count the ids of a rewritten prompt that say something new; 0 where this is unknown."""
        last = parts[-1]
        if len(parts) < 2 or parts[-2] != len(self._responses) - 1 or isinstance(last, int):
            return 0
        return len(self._template.encode(last, self._ends[-1], inside=True))

    def respond(self, response_ids: Sequence[int], *, stopped: bool) -> str:
        """Take the ids that the player wrote; return them as text, without the stop token.

        Args:
            response_ids: as sampled, the stop token included.
            stopped: the response ended by itself, not by its length limit. Only then is a last id
                that is a stop token taken for the end of the turn (the template's own is then not
                fed again).

        Raises RuntimeError if an observation is due.
        """
        if len(self.history.observations) != len(self.history.responses) + 1:
            raise RuntimeError("respond() was called before observe()")
        ids = list(response_ids)
        end = ids[-1] if stopped and ids and ids[-1] in self.stop_token_ids else None
        text = self._template.decode(ids if end is None else ids[:-1])
        self._responses.append(ids)
        self._ends.append(end)
        self.history.responses.append(text)
        self.ids += ids
        return text

    def encode_response(self, text: str) -> list[int]:
        """Return the ids a player would sample to write this text and stop: for demonstrations."""
        return self._template.encode_response(text) + list(self.stop_token_ids[:1])

    def continued(self, text: str) -> str:
        """Return what a model of this template writes after the prompt to say a text.

        With the header that belongs to an answer (gpt-oss), and without the tag of reasoning that
        the prompt opens, or with reasoning that is closed at once. ``parser.parse(chat.opened +
        chat.continued(text))`` reads `text`.
        """
        return self._template.continued(text, self.opened)

    def _assemble(self, parts: list[Part]) -> list[int]:
        ids: list[int] = []
        end: int | None = None
        for part in parts:
            if isinstance(part, int):
                ids += self._responses[part]
                end = self._ends[part]
            else:
                ids += self._template.encode(part, end, inside=bool(ids))
                end = None
        return ids
