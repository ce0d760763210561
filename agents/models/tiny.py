"""Tiny: a Qwen2-style model and its tokenizer from scratch, small enough to learn on a CPU.

The tokenizer is byte-level BPE trained on the world's own text, so a whole observation is a few
dozen tokens. The chat template is ChatML without line breaks between messages; each message header
is one token, so a turn costs four tokens beside its words::

    <|im_start|>user\\n You are in a kitchen. <|im_end|> <|im_start|>assistant\\n go north
    <|im_end|>

Both save in Hugging Face format and load with `AutoModelForCausalLM` and `AutoTokenizer`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .induction import ROPE_BASE, write_copying

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
HEADERS = tuple(f"{START}{role}\n" for role in ("system", "user", "assistant"))
"""Message headers: plain ChatML as text, one token each."""
TAGS = ("<think>", "</think>", "<action>", "</action>", "<tool_call>", "</tool_call>")
"""Tokens of the response formats. Not special: they are ordinary vocabulary, kept when decoding."""
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] +"
    " '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%"
    " endif %}"
)
_WITHOUT_TAGS = 256 + 3 + len(HEADERS)


def train_tokenizer(texts: Iterable[str], vocabulary: int, marks: Sequence[str] = ()) -> Any:
    """Train a `PreTrainedTokenizerFast` of at most `vocabulary` entries.

    There are fewer if the texts hold no more pairs to merge.

    Words carry their leading space and digits stand alone, so that a name is the same token
    wherever it stands in a sentence, and numbers are read digit by digit. Any text round-trips.
    Same texts, same tokenizer. Each of `marks` is a token as those in `TAGS` are. Raises ValueError
    if `vocabulary` is too small for the bytes and them.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tags = tuple(dict.fromkeys((*TAGS, *marks)))
    smallest = len(tags) + _WITHOUT_TAGS
    if vocabulary < smallest:
        raise ValueError(f"a tokenizer needs at least {smallest} entries, not {vocabulary}")
    backend = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(tags),
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[PAD, START, END, *HEADERS],
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in tags])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[START, *HEADERS],
        chat_template=TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build(
    tokenizer: Any,
    *,
    layers: int = 3,
    width: int = 96,
    heads: int = 4,
    kv_heads: int | None = None,
    intermediate: int | None = None,
    max_context: int = 1024,
    init_std: float = 0.02,
    copying: bool = False,
    seed: int = 0,
) -> Any:
    """Make a `Qwen2ForCausalLM` with tied embeddings and random weights, in evaluation mode.

    With `copying` it repeats what it has read from the start: `turnrl.agents.models.induction`.

    The vocabulary is exactly the tokenizer's: a random model never samples an id without a token.
    The global random state is left as it was. Raises ValueError for sizes that do not divide.
    """
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    kv_heads = kv_heads or heads
    if width % heads or (width // heads) % 2:
        raise ValueError(f"width {width} over {heads} heads must be an even number for each head")
    if heads % kv_heads:
        raise ValueError(f"kv_heads {kv_heads} must divide heads {heads}")
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=intermediate or 3 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=max_context,
        initializer_range=init_std,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_BASE if copying else 10_000.0},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config)
    if copying:
        write_copying(model, seed)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_length=max_context,
    )
    return model.eval()
