"""A tiny model that copies before it is trained."""

from __future__ import annotations

import pytest
import torch
from turnrl import UserError
from turnrl.agents import models, tiny

LETTERS = "bcdfghjklmnpqrstvwxz"
TEXTS = [f" {a}{b}{c}" * 2 for a in LETTERS for b in "aeiou" for c in LETTERS]


def copied(model: torch.nn.Module, vocabulary: int, gap: int) -> float:
    """Share of the tokens of a passage that are predicted when it comes a second time, `gap` tokens later.

    No other token comes twice, so that there is one right guess.
    """
    generator = torch.Generator().manual_seed(1)
    once_BL = torch.stack([torch.randperm(vocabulary, generator=generator)[: 66 + gap] for _ in range(16)])
    passage_BP = once_BL[:, 50:66]
    with torch.no_grad():
        guesses_BP = model(torch.cat([once_BL, passage_BP], dim=1)).logits[:, -16:-1].argmax(-1)
    return float((guesses_BP == passage_BP[:, 1:]).float().mean())


@pytest.mark.parametrize(("layers", "width", "heads"), [(2, 96, 4), (3, 96, 4), (3, 128, 4), (4, 96, 2)])
def test_repeats_what_it_read_hundreds_of_tokens_ago(layers: int, width: int, heads: int) -> None:
    tokenizer = tiny.train_tokenizer(TEXTS, 1000)
    size = {"layers": layers, "width": width, "heads": heads, "max_context": 1024}
    model, plain = (tiny.build(tokenizer, copying=copying, **size) for copying in (True, False))  # type: ignore[arg-type]
    for gap in (0, 100, 400):
        assert copied(model, len(tokenizer), gap) > 0.7
        assert copied(plain, len(tokenizer), gap) < 0.05


def test_recipes_ask_for_it_and_saved_models_keep_it(tmp_path: object) -> None:
    loaded = models.load(models.ModelConfig(copying=True), corpus=lambda: TEXTS)
    folder = models.save(loaded.model, loaded.tokenizer, f"{tmp_path}/model")
    again = models.load(models.ModelConfig(name=str(folder)))
    assert copied(again.model, len(again.tokenizer), 100) > 0.7


def test_seeds_differ_and_repeat() -> None:
    tokenizer = tiny.train_tokenizer(TEXTS, 400)
    one, same, other = (tiny.build(tokenizer, copying=True, seed=seed).state_dict() for seed in (1, 1, 2))
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
        models.load(models.ModelConfig(copying=True, **sizes), corpus=lambda: TEXTS)
