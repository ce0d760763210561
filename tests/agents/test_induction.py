"""A tiny model that copies before it is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from turnrl import UserError
from turnrl.agents.models import tiny
from turnrl.agents.models.config import ModelConfig
from turnrl.agents.models.load import load
from turnrl.agents.models.save import save

LETTERS = "bcdfghjklmnpqrstvwxz"
TEXTS = [f" {a}{b}{c}" * 2 for a in LETTERS for b in "aeiou" for c in LETTERS]


def copied(model: torch.nn.Module, vocabulary: int, gap: int) -> float:
    """Share of a passage's tokens that are predicted when it comes again, `gap` tokens later.

    No other token comes twice, so that there is one right guess.
    """
    generator = torch.Generator().manual_seed(1)
    once_BL = torch.stack(
        [torch.randperm(vocabulary, generator=generator)[: 66 + gap] for _ in range(16)]
    )
    passage_BP = once_BL[:, 50:66]
    with torch.no_grad():
        guesses_BP = model(torch.cat([once_BL, passage_BP], dim=1)).logits[:, -16:-1].argmax(-1)
    return float((guesses_BP == passage_BP[:, 1:]).float().mean())


@pytest.mark.parametrize(
    ("layers", "width", "heads"), [(2, 96, 4), (3, 96, 4), (3, 128, 4), (4, 96, 2)]
)
def test_repeats_what_it_read_hundreds_of_tokens_ago(layers: int, width: int, heads: int) -> None:
    tokenizer = tiny.train_tokenizer(TEXTS, 1000)
    size: dict[str, Any] = {"layers": layers, "width": width, "heads": heads, "max_context": 1024}
    model, plain = (tiny.build(tokenizer, copying=copying, **size) for copying in (True, False))
    for gap in (0, 100, 400):
        assert copied(model, len(tokenizer), gap) > 0.7
        assert copied(plain, len(tokenizer), gap) < 0.05


@pytest.mark.parametrize(("width", "heads"), [(96, 4), (96, 2), (128, 4)])
def test_half_of_the_first_layers_heads_look_at_the_previous_token_wherever_it_is(
    width: int, heads: int
) -> None:
    tokenizer = tiny.train_tokenizer(TEXTS, 400)
    model = tiny.build(
        tokenizer, copying=True, layers=2, width=width, heads=heads, max_context=2048
    )
    model.set_attn_implementation("eager")
    tokens_BL = torch.randint(len(tokenizer), (1, 2000), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        attention_HLL = model(tokens_BL, output_attentions=True).attentions[0][0]
    previous_HL = attention_HLL.diagonal(offset=-1, dim1=1, dim2=2)
    assert float(previous_HL[: heads // 2].min()) > 0.9


@pytest.mark.parametrize(("width", "heads", "share"), [(96, 4, 0.6), (96, 2, 0.8), (128, 4, 0.8)])
def test_of_several_numbers_that_followed_a_name_the_latest_is_expected(
    width: int, heads: int, share: float
) -> None:
    """Eight numbers after the same name, thirty other tokens between them; then the name again."""
    tokenizer = tiny.train_tokenizer(TEXTS, 1000)
    model = tiny.build(
        tokenizer, copying=True, layers=2, width=width, heads=heads, max_context=1024
    )
    generator = torch.Generator().manual_seed(2)
    rows, latest = [], []
    for _ in range(64):
        name, *others = torch.randperm(len(tokenizer), generator=generator)[:249].tolist()
        parts = [others[start : start + 31] for start in range(0, 248, 31)]
        rows.append([token for part in parts for token in (name, *part)] + [name])
        latest.append(parts[-1][0])
    with torch.no_grad():
        guesses_B = model(torch.tensor(rows)).logits[:, -1].argmax(-1)
    assert float((guesses_B == torch.tensor(latest)).float().mean()) > share


def test_recipes_ask_for_it_and_saved_models_keep_it(tmp_path: object) -> None:
    loaded = load(ModelConfig(copying=True), corpus=lambda: TEXTS)
    folder = save(loaded.model, loaded.tokenizer, f"{tmp_path}/model")
    again = load(ModelConfig(name=str(folder)))
    assert copied(again.model, len(again.tokenizer), 100) > 0.7


def test_seeds_differ_and_repeat() -> None:
    tokenizer = tiny.train_tokenizer(TEXTS, 400)
    one, same, other = (
        tiny.build(tokenizer, copying=True, seed=seed).state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ({"layers": 1}, "copying takes two layers"),
        ({"width": 96, "heads": 3}, "an even number of heads"),
        ({"kv_heads": 2}, "kv_heads the same"),
        ({"width": 8, "heads": 4}, "at least 4 dimensions"),
    ],
)
def test_sizes_that_leave_no_room_for_it(sizes: dict[str, int], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load(ModelConfig(copying=True, **sizes), corpus=lambda: TEXTS)
