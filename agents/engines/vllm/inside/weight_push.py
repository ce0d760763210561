"""Give a vLLM server what a training asks of it: new weights while it runs, and turnrl's sampling.

The server loads this module by ``--worker-extension-cls weight_push.WeightPush``; it runs in the
server's own environment and imports nothing of turnrl.

**Weights.** On a CPU, vLLM packs the weights of linear layers for its kernels and throws the
originals away. ``load_weights`` then fills tensors that nobody reads: it answers that all is well,
and the server plays on with the old ones. Here the originals are kept, and packed again after each
push.

**Sampling.** Tokens are drawn by the same rule as in the torch engine, so that equal seeds give
equal tokens: its file is loaded by its path, without its package. A request asks for it by
``vllm_xargs``; others are served as vLLM does.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import vllm
import vllm.model_executor.layers.utils as layer_utils
from safetensors.torch import load_file
from vllm.v1.outputs import LogprobsTensors, SamplerOutput
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

ASKED = "turnrl"
"""Key of the sampling parameters among the ``vllm_xargs`` of a request."""

_pack = layer_utils.dispatch_cpu_unquantized_gemm
_vllm_sample = GPUModelRunner._sample


def _rule() -> ModuleType:
    """Load how the torch engine samples."""
    path = Path(__file__).resolve().parents[2] / "torch" / "sampling.py"
    spec = importlib.util.spec_from_file_location("turnrl_sampling", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


RULE = _rule()


@lru_cache(maxsize=4096)
def _read(asked: str) -> SimpleNamespace:
    return SimpleNamespace(**json.loads(asked))


def _keep_and_pack(layer: torch.nn.Module, remove_weight: bool) -> None:
    """Pack the weight of a linear layer and keep it, so that it can be replaced."""
    _pack(layer, remove_weight=False)


def _sample(self: Any, logits: Any, spec_decode_metadata: Any) -> SamplerOutput:
    """Sample a token for each row: those of turnrl by its rule, others as vLLM does."""
    rows = [self.requests[name] for name in self.input_batch.req_ids]
    asked = [(row.sampling_params.extra_args or {}).get(ASKED) for row in rows]
    ours = [b for b, text in enumerate(asked) if text is not None]
    if not ours or spec_decode_metadata is not None:
        return _vllm_sample(self, logits, spec_decode_metadata)
    theirs = None
    if len(ours) < len(rows):
        theirs = _vllm_sample(self, logits.clone(), None)
        logits = logits[ours]
    samplings = [_read(asked[b]) for b in ours]
    # The random number of a token depends on its place in the response, also after a response was
    # put off and taken up again; what was drawn in an earlier request counts.
    places = [s.drawn + len(rows[b].output_token_ids) for b, s in zip(ours, samplings, strict=True)]
    drawn, logprobs = RULE.SamplingBatch(samplings, logits.device).sample(logits, places)
    ids_B1 = torch.tensor(drawn, dtype=torch.int32, device=logits.device)[:, None]
    logprobs_B1 = torch.tensor(logprobs, dtype=torch.float32, device=logits.device)[:, None]
    if theirs is None:
        ranks_B = torch.zeros(len(ours), dtype=torch.int32, device=logits.device)
        return SamplerOutput(ids_B1, LogprobsTensors(ids_B1, logprobs_B1, ranks_B))
    theirs.sampled_token_ids[ours] = ids_B1
    if theirs.logprobs_tensors is not None:
        theirs.logprobs_tensors.logprob_token_ids[ours, :1] = ids_B1
        theirs.logprobs_tensors.logprobs[ours, :1] = logprobs_B1
    return theirs


layer_utils.dispatch_cpu_unquantized_gemm = _keep_and_pack
GPUModelRunner._sample = _sample


class WeightPush:
    """Methods that a worker of the server gets, for ``/collective_rpc``."""

    model_runner: Any

    def turnrl_about(self) -> dict[str, Any]:
        """Say what this worker is."""
        return {
            "process": os.getpid(),
            "device": self.model_runner.device.type,
            "dtype": str(self.model_runner.dtype).removeprefix("torch."),
            "vllm": vllm.__version__,
        }

    def turnrl_push(self, folder: str) -> dict[str, Any]:
        """Take the weights of a folder in Hugging Face format."""
        model = self.model_runner.get_model()
        known = {name for name, _ in model.named_parameters()}
        loaded: set[str] = set()
        for file in sorted(Path(folder).glob("*.safetensors")):
            loaded |= set(model.load_weights(load_file(file).items()))
        for layer in model.modules():
            weight = getattr(layer, "weight", None)
            if hasattr(layer, "cpu_linear") and weight is not None and weight.ndim == 2:
                _keep_and_pack(layer, False)
        return {"process": os.getpid(), "missing": sorted(known - loaded)[:3]}
