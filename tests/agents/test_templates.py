"""Templates: the ids are those of the template's own rendering, in the style of real families."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from turnrl import UserError
from turnrl.agents.chat.chat import Chat
from turnrl.agents.chat.template import TODAY, template_of
from turnrl.agents.context.full_history import FullHistory
from turnrl.agents.models.tiny import train_tokenizer

TEXTS = [
    "you are in a kitchen\nthere is a door to the north\n\nyou see a key. It's 3 o'clock.",
    (
        'go north, take key, maybe idea, play hall attic; say "hello" to <think>all</think> user'
        " assistant"
    ),
] * 4
CUT = (
    "{% set c = m.content.split('</think>')[-1].strip() if '</think>' in m.content else"
    " m.content %}"
)


def style(
    header: str, content: str, end: str, opened: str = "", cut: bool = False, before: str = ""
) -> str:
    """A template: `header` with the role, `content`, `end`; reasoning is cut out of old answers."""
    body = (
        "{% if m.role == 'assistant' %}"
        + CUT
        + before
        + "{{ c }}{% else %}"
        + content
        + "{% endif %}"
        if cut
        else content
    )
    return (
        "{% for m in messages %}"
        + header
        + body
        + end
        + "{% endfor %}{% if add_generation_prompt %}{% set m = {'role': 'assistant'} %}"
        + header
        + opened
        + "{% endif %}"
    )


CHATML = ("<|im_start|>{{ m.role }}\n", "{{ m.content }}", "<|im_end|>\n")
GLM = "<|{{ m.role }}|>\n"
HARMONY = (
    "<|start|>system<|message|>Current date: {{ strftime_now('%Y-%m-%d') }}<|end|>{% for m in"
    " messages %}{% if m.role == 'assistant' %}{% if '<|channel|>' in m.content %}{{"
    " raise_exception('channels belong into other fields') }}{% endif"
    " %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}{% if loop.last and not"
    " add_generation_prompt %}<|return|>{% else %}<|end|>{% endif %}{% else %}<|start|>{{ m.role"
    " }}<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}{% if add_generation_prompt"
    " %}<|start|>assistant{% endif %}"
)


class Style(NamedTuple):
    """A template with the tokens it takes: special ones, ordinary ones, the end of a text."""

    template: str
    special: tuple[str, ...]
    ordinary: tuple[str, ...] = ()
    eos: str = "<|im_end|>"


STYLES = {
    # "\n" and runs of spaces are tokens of their own, and not special.
    "gemma": Style(
        "{{ bos_token }}"
        + style(
            "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n",
            "{{ m.content | trim }}",
            "<end_of_turn>\n",
        ),
        ("<bos>", "<start_of_turn>", "<end_of_turn>"),
        ("\n", "\n\n", "  ", "    "),
        "<end_of_turn>",
    ),
    "gemma, special white space": Style(
        style("<start_of_turn>{{ m.role }}\n", "{{ m.content | trim }}", "<end_of_turn>\n"),
        ("<start_of_turn>", "<end_of_turn>", "\n"),
        ("  ",),
        "<end_of_turn>",
    ),
    # Reasoning is cut out of earlier answers; some print an empty block in its place, some end a
    # turn with nothing.
    "glm": Style(
        style(GLM, "{{ m.content }}", "", cut=True, before="<think></think>\n"),
        ("<|user|>", "<|assistant|>", "<|system|>"),
        ("<think>", "</think>"),
        "<|user|>",
    ),
    "r1": Style(
        style(
            "<\uff5c{{ m.role }}\uff5c>",
            "{{ m.content }}",
            "<\uff5cend\uff5c>",
            "<think>\n",
            cut=True,
        ),
        ("<\uff5cend\uff5c>",),
        ("<\uff5cuser\uff5c>", "<\uff5cassistant\uff5c>", "<think>", "</think>"),
        "<\uff5cend\uff5c>",
    ),
    "nemotron": Style(
        style(*CHATML, opened="<think>\n", cut=True, before="<think></think>"),
        ("<|im_start|>", "<|im_end|>", "<think>", "</think>"),
    ),
    "phi reasoning": Style(
        style(
            "<|im_start|>{{ m.role }}<|im_sep|>",
            "{% if m.role == 'system' %}Answer as <think> words </think> answer. {% endif %}{{"
            " m.content }}",
            "<|im_end|>",
        ),
        ("<|im_start|>", "<|im_sep|>", "<|im_end|>"),
        ("<think>", "</think>"),
    ),
    # Today's date, and reasoning in channels.
    "llama 3.2": Style(
        "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\n"
        "Today Date: {{ strftime_now('%d %b %Y') }}<|eot_id|>"
        + style(
            "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n",
            "{{ m.content | trim }}",
            "<|eot_id|>",
        ),
        ("<|begin|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        (),
        "<|eot_id|>",
    ),
    "gpt-oss": Style(
        HARMONY,
        ("<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|return|>"),
        (),
        "<|return|>",
    ),
    # Contents as lists of parts only.
    "parts": Style(
        style(
            "<|im_start|>{{ m.role }}\n",
            "{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}",
            "<|im_end|>\n",
        ),
        ("<|im_start|>", "<|im_end|>"),
    ),
    # It reads what the world said, and prints some of it as JSON.
    "reader": Style(
        style(
            "<|im_start|>{{ m.role }}\n",
            "{% if m.content.startswith('<key>') %}{{ m.content | tojson }}"
            "{% else %}{{ m.content.replace('/quiet', '') }}{% endif %}",
            "<|im_end|>\n",
        ),
        ("<|im_start|>", "<|im_end|>"),
    ),
}


@cache
def bare_tokenizer(sentencepiece: bool) -> Any:
    """Byte-level BPE; or what sentencepiece makes: a space before a text, bytes as a fallback."""
    backend = Tokenizer(
        models.BPE(
            unk_token="<unk>" if sentencepiece else None, byte_fallback=sentencepiece, fuse_unk=True
        )
    )
    special = []
    if sentencepiece:
        special = ["<unk>", *(f"<0x{i:02X}>" for i in range(256))]
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        backend.decoder = decoders.Sequence(
            [
                decoders.Replace("\u2581", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
        alphabet: list[str] = []
    else:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        initial_alphabet=alphabet,
        special_tokens=special,
        show_progress=False,
        max_token_length=8,
    )
    backend.train_from_iterator(TEXTS, trainer)
    return backend


@cache
def tokenizer_of(name: str, sentencepiece: bool = False) -> Any:
    template, special, ordinary, eos = STYLES[name]
    bos = next((token for token in special if token in ("<bos>", "<|begin|>")), None)
    backend = Tokenizer.from_str(bare_tokenizer(sentencepiece).to_str())
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos, bos_token=bos)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in ordinary])
    tokenizer.chat_template = template
    return tokenizer


def reference(chat: Chat, name: str, header: str = "") -> str:
    """What transformers renders, at the date that Chat tells."""
    told = [
        {
            **m,
            "content": (
                m["content"].rpartition(header)[2]
                if header and m["role"] == "assistant"
                else m["content"]
            ),
        }
        for m in chat.context.messages(chat.history)
    ]
    if name == "parts":
        told = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in told]
    tokenizer = copy.deepcopy(chat.tokenizer)
    for form in ("%Y-%m-%d", "%d %b %Y"):
        tokenizer.chat_template = tokenizer.chat_template.replace(
            f"strftime_now('{form}')", f"'{TODAY.strftime(form)}'"
        )
    return str(tokenizer.apply_chat_template(told, tokenize=False, add_generation_prompt=True))


OBSERVED = [
    "You are in a kitchen.\n\nThere is:\n  - a door to the north\n    and a key\n",
    "It's a caf\u00e9. \U0001f511  Two   spaces /quiet\n> ",
    '<key>\nsays "no"',
    "the end",
]


@pytest.mark.parametrize("sentencepiece", [False, True], ids=["bytes", "sentencepiece"])
@pytest.mark.parametrize("system", ["", "Play.\nOne command."])
@pytest.mark.parametrize("thinking", [False, True], ids=["plain", "thinking"])
@pytest.mark.parametrize("name", STYLES)
def test_ids_are_those_of_the_rendering(
    name: str, thinking: bool, system: str, sentencepiece: bool
) -> None:
    tokenizer = tokenizer_of(name, sentencepiece)
    chat = Chat(tokenizer, FullHistory(), system=system)
    header = chat.continued("") if name == "gpt-oss" else ""
    for i, observation in enumerate(OBSERVED):
        prompt = chat.observe(observation)
        text = reference(chat, name, header)
        assert chat.ids == tokenizer(text, add_special_tokens=False)["input_ids"]
        assert prompt.extends == (i > 0 and not header and name not in ("glm", "r1", "nemotron"))
        said = f"<think>\nidea {i}\n</think>\n\ngo north" if thinking else "go north"
        chat.respond(chat.encode_response(chat.continued(said)), stopped=True)


def test_white_space_is_never_a_control_token() -> None:
    for name in ("gemma", "gemma, special white space"):
        tokenizer = tokenizer_of(name)
        newline = tokenizer.convert_tokens_to_ids("\n")
        chat = Chat(tokenizer, FullHistory())
        chat.observe("one\ntwo  three")
        assert chat.ids.count(newline) == 4
        assert newline in chat.encode_response("idea\ngo north")
    base = copy.deepcopy(tokenizer_of("gemma"))
    base.chat_template = None
    chat = Chat(base, FullHistory())
    chat.observe("one\ntwo\n\nthree")
    assert chat.ids == base("one\ntwo\n\nthree\n\n> ", add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("name", ["glm", "r1", "nemotron", "phi reasoning"])
def test_reasoning_is_said_in_the_tokens_that_a_model_has_for_it(name: str) -> None:
    tokenizer = tokenizer_of(name)
    said = Chat(tokenizer, FullHistory()).encode_response("<think>idea</think>go north")
    assert [
        said.count(tokenizer.convert_tokens_to_ids(tag)) for tag in ("<think>", "</think>")
    ] == [1, 1]


@pytest.mark.parametrize("name", ["glm", "r1", "nemotron"])
def test_reasoning_is_cut_out_of_earlier_answers_as_the_template_cuts_it(name: str) -> None:
    tokenizer = tokenizer_of(name)
    chat = Chat(tokenizer, FullHistory())
    for _ in range(2):
        chat.observe("hall")
        chat.respond(
            chat.encode_response(chat.continued("<think>\nidea\n</think>\n\ngo north \n")),
            stopped=True,
        )
    chat.observe("attic")
    assert "idea" not in tokenizer.decode(chat.ids)
    assert tokenizer.decode(chat.ids) == reference(chat, name)


def test_a_prompt_that_opens_reasoning_is_answered_from_inside() -> None:
    chat = Chat(tokenizer_of("r1"), FullHistory())
    assert chat.opened == "<think>\n"
    assert chat.continued("<think>idea</think>go") == "idea</think>go"
    assert chat.continued("go") == "\n</think>\n\ngo"
    assert Chat(tokenizer_of("glm"), FullHistory()).opened == ""


def test_reasoning_that_was_switched_off_in_words_is_not_open() -> None:
    tokenizer = copy.deepcopy(tokenizer_of("r1"))
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{% if add", "{% set off = '/no_think' in messages[0].content %}{% if add", 1
    ).replace(
        "<think>\n{% endif %}",
        "{% if off %}<think></think>{% else %}<think>\n{% endif %}{% endif %}",
    )
    for system, opened in (("Play. /no_think", ""), ("Play.", "<think>\n")):
        chat = Chat(tokenizer, FullHistory(), system=system)
        chat.observe("hall")
        assert chat.opened == opened
        assert chat.continued("go") == ("\n</think>\n\ngo" if opened else "go")


def test_an_answer_in_channels_is_shown_without_its_analysis() -> None:
    tokenizer = tokenizer_of("gpt-oss")
    chat = Chat(tokenizer, FullHistory())
    chat.observe("hall")
    said = (
        "<|channel|>analysis<|message|>idea<|end|><|start|>assistant<|channel|>final<|message|>go"
        " north<|return|>"
    )
    text = chat.respond(tokenizer(said, add_special_tokens=False)["input_ids"], stopped=True)
    assert text == said.removesuffix("<|return|>")
    assert not chat.observe("attic").extends
    told = tokenizer.decode(chat.ids)
    assert "idea" not in told
    assert (
        "<|start|>assistant<|channel|>final<|message|>go north<|end|><|start|>user<|message|>attic"
        in told
    )
    assert (
        tokenizer.decode(chat.encode_response(chat.continued("go")))
        == "<|channel|>final<|message|>go<|return|>"
    )


@pytest.mark.parametrize("name", STYLES)
def test_no_words_become_control_tokens(name: str) -> None:
    tokenizer = tokenizer_of(name)
    control = sorted(
        set(tokenizer.all_special_tokens) | {t for t in STYLES[name].special if t.strip()}
    )
    control = [t for t in control if t.strip()]
    ids = set(tokenizer.convert_tokens_to_ids(control))
    if name == "r1":  # not special, but what begins a turn
        ids |= set(
            tokenizer.convert_tokens_to_ids(["<\uff5cuser\uff5c>", "<\uff5cassistant\uff5c>"])
        )
        control += ["<\uff5cuser\uff5c>"]
    counts = []
    for words in (" ".join(control), "apples"):
        chat = Chat(tokenizer, FullHistory(), system=f"Rules: {words}")
        for _ in range(2):
            chat.observe(f"You see {words}\n{words}")
            chat.respond(chat.encode_response(chat.continued("<think>a</think>go")), stopped=True)
        chat.observe(words)
        counts.append([i for i in chat.ids if i in ids])
    assert counts[0] == counts[1]


def test_a_control_token_spelled_in_letters_stays_letters_where_the_template_rewrites() -> None:
    tokenizer = copy.deepcopy(tokenizer_of("glm"))
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<|tool|>"]}
    )  # the template never prints it
    chat = Chat(tokenizer, FullHistory())
    chat.observe("hall")
    spelled = [
        i
        for c in "<think>idea</think>go <|tool|> <|user|> north"
        for i in tokenizer(c)["input_ids"]
    ]
    chat.respond(spelled, stopped=False)
    chat.observe("attic")
    assert "idea" not in tokenizer.decode(chat.ids)
    assert "go <|tool|> <|user|> north" in tokenizer.decode(chat.ids)
    assert tokenizer.convert_tokens_to_ids("<|tool|>") not in chat.ids
    assert chat.ids.count(tokenizer.convert_tokens_to_ids("<|user|>")) == 2


def test_a_special_token_that_the_template_cuts_by_is_seen_by_it() -> None:
    tokenizer = copy.deepcopy(tokenizer_of("phi reasoning"))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|ponder|>", "<|done|>"]})
    tokenizer.chat_template = style(*CHATML[:2], "<|im_end|>\n", cut=True).replace(
        "</think>", "<|done|>"
    )
    chat = Chat(tokenizer, FullHistory())
    chat.observe("hall")
    chat.respond(
        tokenizer("<|ponder|>idea<|done|>go<|ponder|><|im_end|>")["input_ids"], stopped=True
    )
    chat.observe("attic")
    told = tokenizer.decode(chat.ids)
    assert "idea" not in told
    assert "go<|ponder|><|im_end|>" in told
    assert (
        tokenizer.convert_tokens_to_ids("<|ponder|>") not in chat.ids
    )  # it would be letters of the prompt


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}<|im_start|>{{ m.role }}<|im_end|>{% endfor %}",
        "{% for m in messages %}{{ m.role }}: {{ m.text }}{% endfor %}",
        "{{ messages[-1].content }}",
        "nothing",
        (
            "{% for m in messages %}{% if m.role != 'assistant' %}{{ m.content }}{% endif %}{%"
            " endfor %}"
        ),
    ],
)
def test_a_template_that_does_not_print_the_messages_is_refused_in_one_sentence(
    template: str,
) -> None:
    tokenizer = train_tokenizer(TEXTS, 400)
    tokenizer.chat_template = template
    with pytest.raises(UserError, match="does not print") as refused:
        Chat(tokenizer, FullHistory())
    assert "\n" not in str(refused.value)


def test_a_message_that_is_left_out_later_is_noticed() -> None:
    tokenizer = train_tokenizer(TEXTS, 400)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if loop.index0 != 4 %}{{ m.content }}<|im_end|>{% endif %}{%"
        " endfor %}"
    )
    chat = Chat(tokenizer, FullHistory())
    for _ in range(2):
        chat.observe("hall")
        chat.respond(chat.encode_response("go"), stopped=True)
    with pytest.raises(UserError, match="not print all"):
        chat.observe("attic")


def test_the_date_is_the_one_that_was_given() -> None:
    from datetime import date

    tokenizer = tokenizer_of("llama 3.2")
    for today, told in ((TODAY, "01 Jan 2025"), (date(2031, 12, 24), "24 Dec 2031")):
        chat = Chat(tokenizer, FullHistory(), today=today)
        chat.observe("hall")
        assert f"Today Date: {told}<|eot_id|>" in tokenizer.decode(chat.ids)


def test_arguments_reach_the_template() -> None:
    tokenizer = copy.deepcopy(tokenizer_of("phi reasoning"))
    tokenizer.chat_template = style(
        *CHATML, opened="{% if not enable_thinking | default(true) %}<think></think>{% endif %}"
    )
    for arguments, tags in (
        ({}, 0),
        ({"enable_thinking": False}, 1),
        ({"enable_thinking": True}, 0),
    ):
        chat = Chat(tokenizer, FullHistory(), arguments=arguments)
        chat.observe("hall")
        assert chat.ids.count(tokenizer.convert_tokens_to_ids("</think>")) == tags
    assert template_of(tokenizer).unknown_arguments(
        {"enable_thinking": 1, "thinking": 2, "bos_token": "x"}
    ) == [
        "bos_token",
        "thinking",
    ]


SAID = st.text(max_size=20) | st.sampled_from(
    ["<think>", "</think>", "<|user|>", "\n", "  ", "<|end|>", "/quiet", "<key>"]
)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(list(STYLES)),
    said=st.lists(st.tuples(SAID, SAID, SAID), min_size=1, max_size=3),
)
def test_whatever_is_said_the_text_is_that_of_the_rendering(
    name: str, said: list[tuple[str, str, str]]
) -> None:
    tokenizer = tokenizer_of(name)
    chat = Chat(tokenizer, FullHistory())
    header = chat.continued("") if name == "gpt-oss" else ""
    for observation, *words in said:
        chat.observe(f"see {observation}")
        text = reference(chat, name, header)
        assert "".join(tokenizer.decode(chat.ids).split()) == "".join(text.split())
        response = chat.encode_response(header + "".join(words))
        chat.respond(response, stopped=True)
        assert chat.ids[-len(response) :] == response
