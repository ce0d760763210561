"""Chat against chat templates: are its ids those of the template's own rendering?

    python benchmarks/templates.py FOLDER...

The folders are searched for tokenizers (folders with a tokenizer.json; its chat template counts as
one of the templates) and for templates (files that end in .jinja). Each template is paired with the
tokenizer that has most of the tokens it spells. Where that one lacks some it stands in, and the
missing ones are added to it as special tokens (tags in angle brackets as ordinary ones).

Four conversations of several turns are played through `Chat` with each pair, with and without
reasoning, and compared at every turn with ``tokenizer(rendering)``, where the rendering is that of
transformers' `apply_chat_template` at the date that Chat tells. In a last one the world spells
every special token, Jinja and private characters: its text must be that of the rendering, with no
special token that the same conversation does not have without them.

The last column counts turns of the conversation without reasoning that extended the prompt before
them.
"""

from __future__ import annotations

import argparse
import collections
import copy
import datetime
import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import transformers
from tokenizers import AddedToken
from transformers.utils import chat_template_utils
from turnrl import UserError
from turnrl.agents.chat.chat import Chat
from turnrl.agents.chat.control import special_tokens
from turnrl.agents.chat.marks import folded, merged, same
from turnrl.agents.chat.reasoning import PAIRS
from turnrl.agents.chat.template import PLAIN_TEMPLATE, TODAY
from turnrl.agents.context.full_history import FullHistory

SYSTEM = "You play a text game.\nAnswer with one command."
SEEN = [
    "You are in a kitchen.\n\nThere is:\n  - a door to the north\n  - a key (\u20ac 3)\n",
    "It's a caf\u00e9.  Two   spaces, \ttabs and \u4e2d\u6587 \U0001f511",
    "You can't go that way!\r\n> again?",
    "<b>Attic</b>: nothing here & {{ no }} {% magic %}",
    "The end.",
]
SAID = ["go north", "take the key, then look", 'say "hello"\nlook', "open door"]
WORD = re.compile(
    r"<[|\uff5c][^<>|\uff5c\n]{1,40}[|\uff5c]>|</?[a-z_:]{2,24}>|\[/?[A-Z_]{3,24}\]|<\|?[a-z_]+\|?>|<[a-z_]+\|>|\[[a-z]~\[|\][~a-z!]*b\[|\]~b\]"
)
"""What is spelled like a token in templates."""


class Pair(NamedTuple):
    """A template and the tokenizer that it is tried with."""

    name: str
    tokenizer: Any
    which: str


class Result(NamedTuple):
    """One row of the table."""

    turns: int
    tokens: int
    outcome: str
    extended: str


class Clock(datetime.datetime):
    """A clock that stands at the date that Chat tells."""

    @classmethod
    def now(cls, tz: Any = None) -> Clock:
        return cls(TODAY.year, TODAY.month, TODAY.day, 12)


def load(folders: list[Path]) -> tuple[dict[str, Any], dict[str, str | None]]:
    """Load the tokenizers, and the templates, by name, that lie below the folders."""
    tokenizers: dict[str, Any] = {}
    templates: dict[str, str | None] = {}
    for file in sorted(file for folder in folders for file in folder.rglob("tokenizer.json")):
        tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, local_files_only=True)
        tokenizers[file.parent.name] = tokenizer
        templates[f"{file.parent.name} (its own)"] = tokenizer.chat_template
    for file in sorted(file for folder in folders for file in folder.rglob("*.jinja")):
        if not (file.parent / "tokenizer.json").exists():
            templates[f"{file.parent.name}/{file.stem}"] = file.read_text("utf-8")
    return tokenizers, templates


def pair(name: str, template: str | None, tokenizers: dict[str, Any]) -> Pair:
    """Pair a template with the tokenizer that has most of what it spells."""
    own = tokenizers.get(name.removesuffix(" (its own)"))
    if own is not None:
        return Pair(name, own, "its own")
    words = set(WORD.findall(template or "")) | rendered_words(
        template, next(iter(tokenizers.values()))
    )
    has = {key: words & set(t.get_added_vocab()) for key, t in tokenizers.items()}
    best = max(tokenizers, key=lambda key: (len(has[key]), -len(tokenizers[key])))
    tokenizer = copy.deepcopy(tokenizers[best])
    tokenizer.chat_template = template
    missing = sorted(words - set(tokenizer.get_added_vocab()))
    tokenizer.add_tokens(
        [
            AddedToken(word, special=not re.fullmatch(r"</?[a-z_:]+>", word), normalized=False)
            for word in missing
        ]
    )
    return Pair(name, tokenizer, best + (f" + {len(missing)}" if missing else ""))


def rendered_words(template: str | None, tokenizer: Any) -> set[str]:
    """List what is spelled like a token in a conversation.

    Some templates put their tokens together from pieces.
    """
    messages = [{"role": role, "content": "x"} for role in ("user", "assistant", "user")]
    try:
        text = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)
    except Exception:
        return set()
    return set(WORD.findall(text)) - set(tokenizer.get_added_vocab())


def reference(chat: Chat) -> tuple[str, list[int]]:
    """Render the conversation by the template itself, independently of Chat: (text, ids)."""
    tokenizer, header = chat.tokenizer, chat.continued("")
    # A server gives such a template (gpt-oss, Solar) the last message of a response.
    messages: list[Any] = [
        {**m, "content": m["content"].rpartition(header)[2]} if header and not chat.opened else m
        for m in chat.context.messages(chat.history)
    ]
    source = tokenizer.chat_template or PLAIN_TEMPLATE
    for told in (messages, merged(messages), folded(messages), merged(folded(messages))):
        for listed in (False, True):
            shown = (
                [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in told]
                if listed
                else told
            )
            try:
                text = tokenizer.apply_chat_template(
                    shown, chat_template=source, tokenize=False, add_generation_prompt=True
                )
            except Exception:
                continue
            if all(
                beginning(m["content"]) in "".join(text.split())
                for m in told
                if m["role"] != "assistant"
            ):
                return text, tokenizer(text, add_special_tokens=False)["input_ids"]
    raise UserError("transformers renders nothing either")


def beginning(text: str) -> str:
    """Return what must be in a rendering without white space if it holds a text."""
    return "".join(text.split()[:3])


def said(chat: Chat, thinking: bool) -> list[str]:
    """Write what the player says, as a model of this template would."""
    if not thinking:
        return [chat.continued(text) for text in SAID]
    if (header := chat.continued("")).startswith("<|channel|>"):
        analysis = "<|channel|>analysis<|message|>"
        return [
            f"{analysis}Idea {i}<|end|><|start|>assistant{header}{text}"
            for i, text in enumerate(SAID)
        ]
    source = str(chat.tokenizer.chat_template)
    opening, closing = next((p for p in PAIRS if p[1] in source), PAIRS[0])
    return [
        chat.continued(f"{opening}\nIdea {i}\n{closing}\n\n{text}") for i, text in enumerate(SAID)
    ]


def written(chat: Chat, text: str) -> list[int]:
    """Write a response as ids.

    The messages of gpt-oss have control tokens inside, which a demonstration has not.
    """
    if text.startswith("<|channel|>"):
        return [
            *chat.tokenizer(text, add_special_tokens=False)["input_ids"],
            chat.stop_token_ids[0],
        ]
    return chat.encode_response(text)


def play(tokenizer: Any, system: str, thinking: bool) -> Result:
    """Play one conversation, compared at every turn."""
    chat = Chat(tokenizer, FullHistory(), system=system)
    outcome, extended = "equal", 0
    for i, response in enumerate([*said(chat, thinking), None]):
        extended += chat.observe(SEEN[i]).extends
        text, ids = reference(chat)
        if chat.ids != ids and outcome == "equal":
            outcome = difference(chat, text, ids)
        if response is not None:
            chat.respond(written(chat, response), stopped=True)
    return Result(len(SEEN), len(chat.ids), outcome, f"{extended} of {len(SAID)}")


def difference(chat: Chat, text: str, ids: list[int]) -> str:
    """Say how the ids differ from the rendering's."""
    pairs = enumerate(zip(chat.ids, ids, strict=False))
    first = next((i for i, (a, b) in pairs if a != b), min(len(chat.ids), len(ids)))
    here, there = (chat.tokenizer.decode(some[first : first + 6]) for some in (chat.ids, ids))
    if same(chat.tokenizer.decode(chat.ids), chat.tokenizer.decode(ids)):
        return f"white space or cuts: {here!r}, rendering {there!r}"
    return f"NOT EQUAL: {here!r}, rendering {there!r}"


def attack(tokenizer: Any) -> str:
    """Let the world spell what it must not, and say what became of it."""
    control = special_tokens(tokenizer)
    counts, texts = [], []
    words = [
        *sorted(control, key=lambda word: (-len(word), word))[:40],
        "{{ messages }}",
        "\ue000",
        "</think>",
    ]
    for hostile in (" ".join(words), "nothing"):
        chat = Chat(tokenizer, FullHistory(), system=f"Rules. {hostile}")
        for response in said(chat, True)[:2]:
            chat.observe(f"You see {hostile} here.\n{hostile}")
            chat.respond(written(chat, response), stopped=True)
        chat.observe(f"You see {hostile} here.")
        ids = set(tokenizer.convert_tokens_to_ids(sorted(control)))
        counts.append(collections.Counter(i for i in chat.ids if i in ids))
        texts.append(same(tokenizer.decode(chat.ids), tokenizer.decode(reference(chat)[1])))
    if counts[0] != counts[1]:
        return "INJECTED"
    return "none" if all(texts) else "none, other text"


def row(tried: Pair) -> str:
    """Write a line of the table."""
    try:
        results = [
            play(tried.tokenizer, system, thinking)
            for system in (SYSTEM, "")
            for thinking in (False, True)
        ]
        injected = attack(tried.tokenizer)
    except UserError as error:
        return f"| {tried.name} | {tried.which} | | | refused: {str(error)[:120]} | | |"
    outcomes = list(dict.fromkeys(result.outcome for result in results))
    told = "equal" if outcomes == ["equal"] else "; ".join(o for o in outcomes if o != "equal")
    turns, tokens = sum(r.turns for r in results), sum(r.tokens for r in results)
    return (
        f"| {tried.name} | {tried.which} | {turns} | {tokens} | {told} | {injected} |"
        f" {results[0].extended} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--only", default="", help="templates whose name contains this")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    chat_template_utils.datetime = Clock
    tokenizers, templates = load(args.folders)
    print(
        "| template | tokenizer | turns | tokens | ids | special tokens from the world | extended |"
    )
    print("|---|---|---|---|---|---|---|")
    counted: collections.Counter[str] = collections.Counter()
    for name, template in templates.items():
        if args.only in name:
            line = row(pair(name, template, tokenizers))
            counted[re.split(r"[:;]", line.split("|")[5].strip())[0]] += 1
            print(line.replace("\n", " "), flush=True)
    print("\n" + ", ".join(f"{count} {outcome}" for outcome, count in counted.most_common()))


if __name__ == "__main__":
    main()
