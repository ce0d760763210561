"""Checkpoints as people have them: in shards, in bfloat16, with rows, tokens and ends to spare."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from turnrl import UserError
from turnrl.agents.agent import LanguageAgent
from turnrl.agents.chat.chat import Chat
from turnrl.agents.context.full_history import FullHistory
from turnrl.agents.engines.base import Completion, Sampling
from turnrl.agents.engines.torch.engine import TorchEngine
from turnrl.agents.models.config import LoraConfig, ModelConfig
from turnrl.agents.models.forward import score
from turnrl.agents.models.load import Loaded, load
from turnrl.agents.models.save import save
from turnrl.agents.parsers.line import Line

from ..families import build, tokenizer_of


def written(folder: Path, name: str = "Qwen2.5", **options: Any) -> Path:
    """A checkpoint as plain transformers writes it."""
    build(name).save_pretrained(folder, **options)
    tokenizer_of(name).save_pretrained(folder)
    return folder


def edited(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), **changes}), "utf-8")


def loaded(folder: Path, **changes: Any) -> Loaded:
    return load(ModelConfig(name=str(folder), max_context=256, **changes))


def test_shards_are_one_model_and_a_missing_one_is_told_by_name(tmp_path: Path) -> None:
    folder = written(tmp_path / "model", max_shard_size="40KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    assert (folder / "model.safetensors.index.json").is_file()
    weights = loaded(folder).model.state_dict()
    for name, tensor in build("Qwen2.5").state_dict().items():
        assert torch.equal(weights[name], tensor), name
    shards[1].unlink()
    with pytest.raises(UserError, match=f"cannot be loaded: .*{shards[1].name}") as error:
        loaded(folder)
    assert "\n" not in str(error.value)


def test_bfloat16_weights_are_trained_as_float32_masters(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    build("Qwen2.5").to(torch.bfloat16).save_pretrained(folder)
    tokenizer_of("Qwen2.5").save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text("utf-8"))["dtype"] == "bfloat16"
    model = loaded(folder).model
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    for name, tensor in load_file(folder / "model.safetensors").items():
        assert torch.equal(model.state_dict()[name], tensor.float())
    # A step that bfloat16 would round away stays, in the file too.
    weight = model.model.layers[0].mlp.up_proj.weight
    with torch.no_grad():
        weight.mul_(1 + 1e-4)
    kept = save(model, tokenizer_of("Qwen2.5"), tmp_path / "trained")
    plain = AutoModelForCausalLM.from_pretrained(kept, dtype="auto")
    assert plain.dtype == torch.float32
    assert torch.equal(plain.model.layers[0].mlp.up_proj.weight, weight)
    half = loaded(folder, dtype="bfloat16").model
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_head_is_tied_or_not_as_the_config_says(tied: bool, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    build("Qwen2.5", tie_word_embeddings=tied).save_pretrained(folder)
    tokenizer_of("Qwen2.5").save_pretrained(folder)
    file = folder / "model.safetensors"
    weights = load_file(file)
    assert ("lm_head.weight" in weights) != tied
    model = loaded(folder).model
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert (head.data_ptr() == embedding.data_ptr()) == tied
    with torch.no_grad():
        head.add_(0.5)
    again = loaded(save(model, tokenizer_of("Qwen2.5"), tmp_path / "again")).model
    assert torch.equal(again.get_output_embeddings().weight, head)
    assert torch.equal(again.get_input_embeddings().weight, embedding)
    if not tied:
        del weights["lm_head.weight"]
        save_file(weights, file, metadata={"format": "pt"})
        with pytest.raises(UserError, match=r"incomplete: it has no weights for lm_head\.weight"):
            loaded(folder)


def with_a_hole(tokenizer: Any) -> PreTrainedTokenizerFast:
    """The tokenizer without one of its tokens: nothing has that id any more."""
    data = json.loads(tokenizer.backend_tokenizer.to_str())
    [(hole, _)] = [(t, i) for t, i in data["model"]["vocab"].items() if i == 290]
    del data["model"]["vocab"][hole]
    data["model"]["merges"] = [
        pair for pair in data["model"]["merges"] if "".join(pair) != hole and hole not in pair
    ]
    from tokenizers import Tokenizer

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(data)),
        eos_token=tokenizer.eos_token,
        chat_template=tokenizer.chat_template,
    )


def sample(engine: TorchEngine, prompt: list[int], tokens: int) -> Completion:
    async def work() -> Completion:
        async with engine.conversation("a") as talk:
            return await talk.generate(prompt, Sampling(max_tokens=tokens, seed=3))

    return asyncio.run(work())


@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
@pytest.mark.parametrize("family", ["Llama-3", "Gemma-2"])
def test_rows_without_a_token_are_never_said(family: str, lora: bool, tmp_path: Path) -> None:
    """Not even where their logits are by far the largest, nor where they lie between tokens."""
    folder = written(tmp_path / "model", family)
    tokenizer = with_a_hole(tokenizer_of(family))
    tokenizer.save_pretrained(folder)
    known = set(tokenizer.get_vocab().values())
    adapters = {"lora": LoraConfig(rank=2)} if lora else {}
    made = loaded(folder, **adapters)
    rows = made.model.get_output_embeddings().weight
    assert rows.shape[0] == 384
    unknown = sorted(set(range(384)) - known)
    assert unknown[0] == 290
    assert unknown[1] == max(known) + 1
    model = made.model
    head = model.get_output_embeddings()
    hidden: list[torch.Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, args: hidden.append(args[0].detach()))
    with torch.no_grad():
        model(torch.tensor([[3, 4, 5]]))
        rows[unknown] = 30 * hidden[-1][0, -1]
    hook.remove()
    engine = TorchEngine(model, made.tokenizer, max_context=256)
    prompt = made.tokenizer("Now red")["input_ids"]
    said = sample(engine, prompt, 200)
    assert set(said.token_ids) <= known
    ids = torch.tensor([[*prompt, *said.token_ids]])
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    mask[0, len(prompt) :] = True
    trained = score(model, ids, mask).logprobs_BL[mask].tolist()
    assert trained == pytest.approx(said.logprobs, abs=1e-4), "the update leaves them out too"
    with torch.no_grad():
        logits_LV = model(ids).logits[0, len(prompt) - 1 : -1].float()
    logits_LV[:, unknown] = -torch.inf
    plain = logits_LV.log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0]
    assert plain.tolist() == pytest.approx(said.logprobs, abs=1e-4)


def test_a_tokenizer_without_a_padding_token_needs_none(tmp_path: Path) -> None:
    made = loaded(written(tmp_path / "model", "Llama-3"))
    assert made.tokenizer.pad_token is None
    engine = TorchEngine(made.model, made.tokenizer, max_context=256)

    async def together() -> tuple[Completion, Completion]:
        async with engine.conversation("a") as a, engine.conversation("b") as b:
            return await asyncio.gather(
                a.generate([5, 6, 7], Sampling(max_tokens=5, seed=1)),
                b.generate(list(range(40)), Sampling(max_tokens=5, seed=2)),
            )

    assert [len(said.token_ids) for said in asyncio.run(together())] == [5, 5]


def test_added_tokens_with_new_rows_are_said_and_read(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(written(tmp_path / "model"))
    model = build("Qwen2.5")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|done|>"]})
    tokenizer.add_tokens(["<move>"])
    model.resize_token_embeddings(len(tokenizer))
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", "<|done|>")
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    made = loaded(tmp_path / "model")
    done, move = made.tokenizer.convert_tokens_to_ids(["<|done|>", "<move>"])
    chat = Chat(made.tokenizer, FullHistory())
    chat.observe("Now red <|done|>")
    assert chat.ids.count(done) == 2, "of the template's own, none of the world's"
    response = chat.encode_response("<move>red")
    assert response[0] == move
    assert response[-1] == done
    assert made.model.get_output_embeddings().weight.shape[0] == len(tokenizer)


def ends_of(folder: Path, ends: list[int]) -> list[str | None]:
    """How a response ends whose model says nothing but one of the ends."""
    reasons: list[str | None] = []
    for end in ends:
        made = loaded(folder)
        head = made.model.get_output_embeddings()
        bias = torch.zeros(head.weight.shape[0])
        bias[end] = 1000.0
        head.bias = torch.nn.Parameter(bias)
        engine = TorchEngine(made.model, made.tokenizer, max_context=256)
        agent = LanguageAgent(engine, made.tokenizer, FullHistory(), Line(), Sampling(max_tokens=4))
        chat = agent.chat("", None)
        chat.observe("Now red")

        async def work(engine: TorchEngine, chat: Chat) -> Completion:
            async with engine.conversation("a") as talk:
                return await talk.generate(
                    chat.ids, Sampling(max_tokens=4, stop_token_ids=chat.stop_token_ids)
                )

        said = asyncio.run(work(engine, chat))
        assert said.token_ids[0] == end
        assert chat.respond(said.token_ids, stopped=said.finish_reason == "stop") == ""
        reasons.append(said.finish_reason)
    return reasons


def test_every_end_of_a_generation_config_ends_a_response(tmp_path: Path) -> None:
    """As Llama 3 and Gemma have it: one end of a text, one of a turn, one of a message."""
    folder = written(tmp_path / "model", "Phi-3")
    names = ["<|endoftext|>", "<|end|>", "<|user|>"]
    ends = tokenizer_of("Phi-3").convert_tokens_to_ids(names)
    edited(folder / "generation_config.json", eos_token_id=ends)
    assert ends_of(folder, ends) == ["stop"] * 3
    # What was trained keeps them, and so does a config that alone says it.
    made = loaded(folder, lora=LoraConfig(rank=2))
    again = save(made.model, made.tokenizer, tmp_path / "again")
    assert ends_of(again, ends[2:]) == ["stop"]
    edited(folder / "config.json", eos_token_id=ends)
    (folder / "generation_config.json").unlink()
    assert ends_of(folder, ends[2:]) == ["stop"]


def test_a_model_of_the_hub_has_the_ends_of_its_generation_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = written(tmp_path / "model", "Phi-3")
    ends = tokenizer_of("Phi-3").convert_tokens_to_ids(["<|endoftext|>", "<|user|>"])
    edited(folder / "generation_config.json", eos_token_id=ends)
    kept, commit = tmp_path / "hub" / "models--somebody--small", "0123456789abcdef" * 2 + "01234567"
    shutil.copytree(folder, kept / "snapshots" / commit)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    made = load(ModelConfig(name="somebody/small", max_context=128))
    assert set(ends) < set(Chat(made.tokenizer, FullHistory()).stop_token_ids)
    save(made.model, made.tokenizer, tmp_path / "saved")
    assert str(tmp_path) not in (tmp_path / "saved" / "tokenizer_config.json").read_text("utf-8")
