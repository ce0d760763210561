"""Read a pretrained model and its tokenizer: a folder in Hugging Face format, or a Hub id."""

from __future__ import annotations

import difflib
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from ...foundation.errors import UserError
from ...foundation.manifest import check_manifest
from .lora import need_peft
from .quiet import brief, quiet

BUILT_IN = ("tiny", "smollm2")


def read_pretrained(name: str, dtype: Any) -> tuple[Any, Any]:
    """Read a model and its tokenizer from a folder, or from the Hub. Raises UserError."""
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
            f"model '{name}': the checkpoint cannot be loaded: {brief(error)}"
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
        return _settled(name, *_read(name, dtype, local_files_only=True))
    except Exception as error:
        problem = error
    if _hub_answers():
        try:
            return _settled(name, *_read(name, dtype, local_files_only=False))
        except Exception as error:
            problem = error
    raise UserError(
        f"model '{name}' is neither {' nor '.join(BUILT_IN)} nor a folder, and it could not be"
        f" fetched from the Hugging Face Hub (no such model, or no network): {brief(problem)}"
    )


def _settled(name: str, model: Any, tokenizer: Any) -> tuple[Any, Any]:
    """Tell a tokenizer of the Hub where its files are: more than its own is read from there."""
    from huggingface_hub import constants, try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json", cache_dir=constants.HF_HUB_CACHE)
    if isinstance(found, str):
        tokenizer.name_or_path = str(Path(found).parent)
    return model, tokenizer


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


def _adapted(name: str, dtype: Any) -> tuple[Any, Any]:
    """Load a folder of adapters, on the base model that it names."""
    from transformers import AutoTokenizer

    try:
        with quiet():
            model = need_peft().AutoPeftModelForCausalLM.from_pretrained(
                name, dtype=dtype, is_trainable=True, trust_remote_code=False
            )
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        _has_its_tokenizer(Path(name), tokenizer)
        return model, tokenizer
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"model '{name}': the adapters cannot be loaded: {brief(error)}") from None
